"""``bsszoo train`` and ``bsszoo validate``: a recipe's training, its progress and its closing lines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bsszoo.cli.console import JsonOption, show_json
from bsszoo.cli.options import TrackOption
from bsszoo.errors import SettingsError
from bsszoo.options import refuse_dataset

if TYPE_CHECKING:
    from bsszoo.train.callbacks import TrainingCallback
    from bsszoo.train.classification.recipe import Recipe
    from bsszoo.train.detection.recipe import DetectionRecipe

_SPLITS = ("training", "validation")
# What a network sees of an image.
_INPUT = ("image_size", "crop_pct", "interpolation", "mean", "std")

_Data = Annotated[
    str | None, typer.Option("--data", metavar="DIR", show_default=False, help="The folder of the images.")
]
_Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="the recipe's",
        help="How the folder is read: folder (train/CLASS/*.jpg), torch/fashion_mnist, torch/cifar10, "
        "wds/NAME, hfds/NAME, or synthetic (no --data needed). For classifiers.",
    ),
]
_Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Another value than the recipe's, such as optim.lr=0.35. May be repeated.",
    ),
]
_Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", show_default="a GPU where there is one", help="cpu, cuda, cuda:1, mps."),
]


def train_command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            show_default=False,
            help="A YAML file, such as recipes/imagenet/resnet50_autobss.yaml, or paper:NAME_OR_CODE for "
            "the paper's settings on ImageNet, of a detector on COCO.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", show_default=False, help="Folder of the training; the same command resumes it."),
    ],
    data: _Data = None,
    dataset: _Dataset = None,
    assignments: _Assignments = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default="the recipe's",
            help="Passes over the training images; the warm-up, and a detector's steps, keep their shares of them.",
        ),
    ] = None,
    inherit: Annotated[
        str | None,
        typer.Option(
            "--inherit",
            metavar="WEIGHTS",
            show_default="the recipe's",
            help="Start from the weights of a trained network of the same family, as far as shapes allow: a training's "
            "folder, a weights file, hf-hub:ORG/NAME or a name with a tag, such as resnet18.a1_in1k. A smaller "
            "network is fitted to the trained one's layers on about a thousand training images. With another number "
            "of classes the last layer is fresh.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="WEIGHTS",
            show_default="the recipe's",
            help="Learn from the outputs of a trained network as well, of any family but the same classes; given as "
            "for --inherit. Its share of the loss is --set loss.teacher_share=0.5, what both outputs are divided "
            "by --set loss.temperature=1.",
        ),
    ] = None,
    device: _Device = None,
    check_files: Annotated[
        bool,
        typer.Option(
            "--check-files",
            help="First decode every image of a folder, however many there are. Without it "
            "up to 20,000 of a classifier's split are opened, not decoded.",
        ),
    ] = False,
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network by a recipe: a classifier, or a detector on images in COCO's format.

    Checkpoints are saved: Ctrl-C, SIGTERM or a crash lose at most the updates since the last one, and the same command
    resumes, in the middle of an epoch too, to the same weights.

    Examples:

      bsszoo train recipes/imagenet/mobilenetv2.yaml --data /data/imagenet --out runs/mobilenetv2

      torchrun --nproc-per-node 8 -m bsszoo train recipes/imagenet/resnet50.yaml --data /data/imagenet --out runs/r50

      bsszoo train recipes/coco/maskrcnn_resnet50_autobss.yaml --data /data/coco --out runs/maskrcnn

      bsszoo train paper:resnet18 --dataset synthetic --out smoke --set optim.batch_size=64 --epochs 2

      bsszoo train small.yaml --data pictures --out runs/small --inherit runs/big --teacher runs/big

      bsszoo train mine.yaml --data pictures --out runs/mine --inherit resnet18.a1_in1k
    """
    from bsszoo.cli.console import show
    from bsszoo.train.classification.recipe import assigned, over_epochs
    from bsszoo.train.detection.paper import any_recipe_of
    from bsszoo.train.detection.recipe import DetectionRecipe
    from bsszoo.train.parent import end_with_parent

    end_with_parent()
    read = any_recipe_of(recipe, assignments or [])
    if epochs is not None:
        from bsszoo.evaluators.detection import over_epochs as detector_over_epochs

        if isinstance(read, DetectionRecipe):
            read = detector_over_epochs(read, data, epochs)
        else:
            read = over_epochs(read, epochs)
    first = os.environ.get("RANK", "0") == "0"
    if isinstance(read, DetectionRecipe):
        refuse_dataset(dataset)
        if inherit is not None or teacher is not None:
            raise SettingsError(
                "--inherit and --teacher are for classifiers. The backbone of a detector starts from a classifier's "
                "weights by --set model.backbone_weights=WEIGHTS."
            )
        from bsszoo.train.detection.task import train_detector

        if check_files and first:
            _check_coco(read, data)
        with _watched(track) as progress:
            summary = train_detector(read, data, out, device=device, callback=progress)
        if summary and as_json:
            show_json(summary)
        elif summary:
            _print_detector(summary, out)
        return
    read = assigned(read, [f"data.dataset={dataset}"] if dataset else [])
    from bsszoo.train.loop import train

    if check_files and first:
        _check_all(read, data)
    with _watched(track) as progress:
        summary = train(read, data, out, device=device, callback=progress, inherit=inherit, teacher=teacher)
    if not summary:
        return  # one of several processes; the first one reports
    if as_json:
        show_json(summary)
        return
    show(
        f"Trained {summary['model']}: top-1 {summary['top1']:.2f}%, top-5 {summary['top5']:.2f}% of "
        f"{summary['val_pictures']:,} images ({summary['validated_on']}), {summary['epochs']} epochs, seed "
        f"{summary['seed']}",
        *_tested(summary),
        f"Best epoch: {summary['best_epoch']}, top-1 {summary['best_top1']:.2f}%",
        f"Weights: {out / 'model.safetensors'} (load with bsszoo.create('local-dir:{out}', pretrained=True))",
        f"Figures: {out / 'metrics.csv'}, {out / 'summary.json'}",
    )


@contextmanager
def _watched(track: str | None) -> Iterator[TrainingCallback]:
    """The progress on screen, and a tracking service where one is wanted."""
    from bsszoo.cli.console import progress_console
    from bsszoo.cli.training_progress import TrainingProgress
    from bsszoo.train.callbacks import Callbacks

    with TrainingProgress(progress_console()) as progress:
        # Several processes train one network, and the first one reports.
        if track is None or os.environ.get("RANK", "0") != "0":
            yield progress
            return
        from bsszoo.tracking import tracking

        with tracking(track) as callback:
            yield Callbacks(progress, callback)


def recipe_command(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            show_default=False,
            help="A name of `bsszoo list`, a code's text, or a detector; with --data also a network with weights, "
            "which is fine-tuned: a weights file, a training's folder, hf-hub:ORG/NAME or a name with a tag.",
        ),
    ],
    data: _Data = None,
    dataset: _Dataset = None,
    assignments: _Assignments = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default="the screen", help="The YAML file; it is not replaced.")
    ] = None,
) -> None:
    """Write a recipe to begin with: every value that a training has.

    Without --data it is the published settings for ImageNet, or COCO. With --data it fits the images in that folder:
    their number of classes, images held out where there are none for validation, and for a network with weights the
    fine-tuning by which `bsszoo compress` trains.

    Examples:

      bsszoo recipe mobilenetv3_large_100 --data pictures --out mine.yaml

      bsszoo recipe resnet50.a1_in1k --data pictures --set schedule.epochs=20 --out mine.yaml

      bsszoo train mine.yaml --data pictures --out runs/mine
    """
    from bsszoo.evaluators.starter import starter_recipe

    text = starter_recipe(network, data, dataset=dataset, assignments=assignments or [])
    if out is None:
        typer.echo(text.rstrip())
        return
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise SettingsError(f"There is a file {out} already: give another with --out, or remove it.") from None
    from bsszoo.cli.console import show

    show(f"Recipe: {out}", f"Train: bsszoo train {out} --data {data or 'DIR'} --out runs/{out.stem}")


def _print_detector(summary: dict[str, Any], out: Path) -> None:
    from bsszoo.cli.console import show

    masks = (
        ""
        if summary["mask_ap"] is None
        else (f", mask AP {summary['mask_ap']:.2f}% (AP50 {summary['mask_ap50']:.2f}%)")
    )
    test = summary.get("test")
    tested = (
        []
        if test is None
        else [
            f"Test: box AP {test['box']['ap']:.2f}%"
            + ("" if test["mask"] is None else f", mask AP {test['mask']['ap']:.2f}%")
            + f" of {test['pictures']:,} images ({summary['tested_on']})"
        ]
    )
    show(
        f"Trained {summary['model']}: box AP {summary['box_ap']:.2f}% (AP50 {summary['box_ap50']:.2f}%){masks} of "
        f"{summary['val_pictures']:,} images ({summary['validated_on']}), {summary['updates']:,} updates, seed "
        f"{summary['seed']}",
        *tested,
        f"Best validation: after {summary['best_update']:,} updates, {'box' if not masks else 'mask'} AP "
        f"{summary['best_ap']:.2f}% (best.safetensors)",
        f"Weights of the {summary['weights']}: {out / 'model.safetensors'} (load with "
        f"bsszoo.create('local-dir:{out}', pretrained=True))",
        f"Look: bsszoo predict {out} PICTURE.jpg",
        f"Figures: {out / 'metrics.csv'}, {out / 'summary.json'}",
    )


def _check_coco(recipe: DetectionRecipe, data: str | None) -> None:
    """Decode every image of a detector's splits; ``DataError`` names the first that is broken."""
    from bsszoo.train.detection.data import open_coco
    from bsszoo.train.detection.samples import read_annotated_image

    splits = open_coco(recipe.data, data, masks=recipe.detector.kind == "maskrcnn")
    for split, name in zip(splits, _SPLITS, strict=True):
        _check_each(name, (read_annotated_image(split, image) for image, _ in split), len(split))


def _check_all(recipe: Recipe, data: str | None) -> None:
    """Decode every image of a classifier's splits; ``DataError`` names the first that is broken."""
    from bsszoo.train.classification.data import ImageSplit, open_splits, open_test

    classes = recipe.model.num_classes
    splits = open_splits(recipe.data, data, num_classes=classes)
    test = open_test(recipe.data, data, num_classes=classes, splits=splits)
    for split, name in zip((*splits, test), (*_SPLITS, "test"), strict=True):
        if isinstance(split, ImageSplit):
            _check_each(name, (split.image(index, "RGB") for index in range(len(split))), len(split))


def _check_each(name: str, images: Iterable[object], total: int) -> None:
    """Iterate over a split's images, which decodes them, with a progress bar."""
    from bsszoo.cli.console import progress_console
    from bsszoo.cli.training_progress import Bars

    with Bars(progress_console()) as bars:
        for index, _ in enumerate(images):
            if not index % 100:
                bars.show(f"checking {name}", index, total)


def _tested(summary: dict[str, Any]) -> list[str]:
    if "test_top1" not in summary:
        return []
    return [
        f"Test: top-1 {summary['test_top1']:.2f}%, top-5 {summary['test_top5']:.2f}% of "
        f"{summary['test_pictures']:,} images ({summary['tested_on']})"
    ]


def validate_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_NAME", show_default=False, help="The folder of a training, a zoo name or a code's text."
        ),
    ],
    data: _Data = None,
    dataset: _Dataset = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="WEIGHTS",
            show_default="published ones, the training's",
            help="For a name or a code: a tag, hf-hub:org/name, local-dir:PATH or a file.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", show_default="validation", help="The split.")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", show_default="128", help="Images of a batch.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", show_default="the training's, else one for each core", help="Processes that read images."
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="P", show_default="float32", help="float32, bfloat16 or float16.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="A text file with one class a line, in the order of the "
            "network's outputs, for weights without label names.",
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="PX", show_default="the training's, the weights'", help="Side of the images.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="data.KEY=VALUE",
            show_default=False,
            help="How images are read, where it is other than the weights say: data.mean=0.5,0.5,0.5, "
            "data.crop_pct=1. May be repeated.",
        ),
    ] = None,
    device: _Device = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the accuracy of a trained network, or the average precision of a detector.

    For the folder of a training it gives the training's last figure. Images are labelled by the names of their class
    folders, as the network was trained: other classes are an error.

    Examples:

      bsszoo validate runs/mobilenetv2 --data /data/imagenet

      bsszoo validate resnet50 --weights a1_in1k --data /data/imagenet

      bsszoo validate my.pth --data pictures --image-size 64 --set data.mean=0.5,0.5,0.5 --set data.std=0.5,0.5,0.5

      bsszoo validate runs/maskrcnn --data /data/coco
    """
    from bsszoo.cli.console import progress_console, show
    from bsszoo.cli.training_progress import Bars
    from bsszoo.models.resolve import resolve
    from bsszoo.train.classification.validate import validate
    from bsszoo.train.detection.validate import validate_detector

    settings: dict[str, Any] = {} if split is None else {"val_split": split}
    if resolve(what).detector is not None:
        refuse_dataset(dataset)
        if image_size is not None or assignments:
            raise SettingsError("--image-size and --set are for classifiers; a detector has those of its training.")
        if labels is not None:
            raise SettingsError("--labels is for classifiers; a detector's categories come with its training.")
        with Bars(progress_console()) as bars:
            result = validate_detector(
                what,
                data,
                weights=weights,
                settings=settings,
                batch=batch,
                workers=workers,
                precision=precision,
                device=device,
                on_batch=lambda images: bars.show("validating", images, None),
                on_note=lambda note: bars.say(f"Note: {note}"),
            )
        if as_json:
            show_json(result)
            return
        show(
            f"boxes: {result.box}",
            *([] if result.mask is None else [f"masks: {result.mask}"]),
            f"of {result.objects:,} objects in {result.images:,} images ({result.split})",
        )
        return
    settings |= _input_values(assignments or [])
    settings |= {} if image_size is None else {"image_size": image_size}
    settings |= {} if dataset is None else {"dataset": dataset}
    with Bars(progress_console()) as bars:
        accuracy = validate(
            what,
            data,
            weights=weights or True,
            settings=settings,
            batch=batch,
            workers=workers,
            precision=precision,
            device=device,
            labels=None if labels is None else _lines_of(labels),
            on_batch=lambda images: bars.show("validating", images, None),
            on_note=lambda note: bars.say(f"Note: {note}"),
        )
    if as_json:
        show_json(accuracy)
        return
    show(
        f"top-1 {accuracy.top1:.3f}%, top-5 {accuracy.top5:.3f}%, loss {accuracy.loss:.4f}, of "
        f"{accuracy.images:,} images ({accuracy.split})"
    )


def _input_values(assignments: Sequence[str]) -> dict[str, Any]:
    """The values of ``data.KEY=VALUE`` assignments by KEY, of what a network sees of an image."""
    from bsszoo.train.classification.recipe import Recipe
    from bsszoo.train.strict import override

    for text in assignments:
        if text.partition("=")[0].strip() not in {f"data.{key}" for key in _INPUT}:
            raise SettingsError(f"--set takes data.{', data.'.join(_INPUT)} here; got {text!r}.")
    return dict(override({}, Recipe, assignments).get("data", {}))


def _lines_of(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SettingsError(f"--labels {file} cannot be read: {why}.") from None
