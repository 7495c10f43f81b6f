"""``validate``: the accuracy of a finished training, a zoo entry or any code on a folder of images."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from bsszoo.errors import DataError, SettingsError
from bsszoo.models.create import create
from bsszoo.models.names import LOCAL, SOURCES
from bsszoo.texts import one_line
from bsszoo.train.checkpoint import RECIPE, WEIGHTS
from bsszoo.train.classification.data import (
    ImageSplit,
    Split,
    Stream,
    class_names,
    has_split,
    is_folder,
    is_synthetic,
    open_split,
    open_splits,
    split_notes,
)
from bsszoo.train.classification.evaluation import Accuracy, evaluate
from bsszoo.train.classification.recipe import ModelPart, OptimPart, Recipe, SchedulePart, read_recipe, with_values
from bsszoo.train.classification.samples import default_readers, evaluation_batches, plain
from bsszoo.train.devices import joined

# The folders of ImageNet's classes.
_SYNSET: Final = re.compile(r"n\d{8}")


def validate(
    what: str | Path,
    data: str | Path | None,
    *,
    weights: str | bool = True,
    settings: Mapping[str, Any] | None = None,
    batch: int | None = None,
    workers: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    labels: Sequence[str] | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Accuracy:
    """The accuracy of a network on the validation images; for a training's folder the figure of its end.

    Images get the labels of their classes' names, whatever other classes the data have.

    Args:
        what: Whatever ``bsszoo.models.resolve`` takes: the folder of a training or of a pulled network, a weights file,
            ``hf-hub:org/name``, a zoo name or a code's text.
        data: The folder of the images; None for ``synthetic``.
        weights: Of a name or a code, as ``bsszoo.create`` takes them; those of the training otherwise.
        settings: Values of the recipe's data section in place of those that came with the weights.
        batch: Images of a batch.
        workers: Processes that read the images; by default those of the training, else one for each core, up to 16.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: As in ``train``.
        labels: The classes that the network's outputs stand for, in order, where its weights do not name them.
        on_batch: Called after each batch with the images done, in this process.
        on_note: Called with sentences for the user: images that were left out, what was assumed of the labels.

    Raises:
        SettingsError: The folder holds no finished training.
        DataError: The data have classes that the network was not trained with, or the outputs' classes are unknown.
        WeightsError, RecipeError: As their makers.
    """
    folder = Path(what).expanduser()
    trained = (folder / RECIPE).is_file()
    if folder.is_dir() and not trained and (folder / "config.json").is_file():
        what = f"local-dir:{folder}"  # pulled, or written by timm
    named = str(what).startswith(SOURCES)
    if not folder.exists() and len(folder.parts) > 1 and not named:
        raise SettingsError(
            f"There is no file or folder {str(what)!r}. Give a training's folder, a weights file, a "
            "zoo name or a code's text."
        )
    if trained:
        recipe = read_recipe(folder / RECIPE)
        if not (folder / WEIGHTS).is_file():
            raise SettingsError(
                f"The training in {folder} is not finished; the same `bsszoo train` command resumes it."
            )
        part = recipe.model
        source = f"{LOCAL}{folder}" if (folder / "config.json").is_file() else str(folder / WEIGHTS)
        network: Any = create(part.name, num_classes=part.num_classes, in_chans=part.in_chans, pretrained=source)
    else:
        network = create(str(what), pretrained=weights)
        recipe = _recipe_of(network, str(what))
    if workers is None and not trained:
        workers = default_readers()
    run = {"device_batch": batch, "workers": workers, "precision": precision}
    recipe = with_values(recipe, data=dict(settings or {}), run={k: v for k, v in run.items() if v is not None})
    with ExitStack() as stack:
        process = stack.enter_context(joined(device))
        names = _label_names(network, labels)
        assumed: tuple[str, ...] = ()
        if names is None and trained:
            # Trainings of version 0.1.0 named their classes only where there were as many as outputs.
            names, assumed = _names_of_training(recipe, data)
        split, notes = _opened(recipe, data, names, held_out=trained and "val_split" not in (settings or {}))
        for note in (*assumed, *notes):
            if on_note is not None and process.first:
                on_note(note)
        channels_last = recipe.run.channels_last
        network = network.to(process.device)
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
        try:
            accuracy = evaluate(
                network,
                evaluation_batches(split, recipe, process),
                process,
                precision=recipe.run.precision,
                channels_last=channels_last,
                on_batch=on_batch,
            )
        except DataError as error:
            raise plain(error) from None
    assert accuracy is not None  # nothing asked it to stop
    return replace(accuracy, split=split.split)


def _label_names(network: Any, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """What the outputs stand for: ``labels``, else the names of the weights, else None."""
    outputs = network.num_classes
    if labels is not None:
        if len(labels) != outputs or len(set(labels)) != outputs:
            raise SettingsError(
                f"--labels names {len(labels)} classes, {len(set(labels))} different ones; the network "
                f"has {outputs} outputs. Give one name for each, in their order."
            )
        return tuple(labels)
    names: Any = (network.pretrained_cfg or {}).get("label_names")
    fits = isinstance(names, (list, tuple)) and len(names) == outputs and all(isinstance(n, str) for n in names)
    return tuple(names) if fits and len(set(names)) == outputs else None


def _names_of_training(recipe: Recipe, data: str | Path | None) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The classes of a training whose weights do not name them, from its training split where that is there."""
    part, outputs = recipe.data, recipe.model.num_classes
    if data is None or not has_split(part, data, part.train_split):
        return None, ()
    names = class_names(open_split(part, data, training=True, num_classes=outputs))
    if names is None:
        return None, ()
    return (*names, *(f"class {i}, not trained" for i in range(len(names), outputs))), (
        f"the weights do not name their classes; taken are those of the training split: {_listed(names)}",
    )


def _opened(
    recipe: Recipe, data: str | Path | None, names: tuple[str, ...] | None, *, held_out: bool
) -> tuple[Split, tuple[str, ...]]:
    """The images to measure on, labelled by the names of the network's outputs, and the notes on them."""
    part, outputs = recipe.data, recipe.model.num_classes
    if part.holdout and held_out:
        split = open_splits(part, data, num_classes=outputs)[1]
        classes = split.source.classes if isinstance(split, ImageSplit) else None
        if names is not None and classes is not None and tuple(classes) != names[: len(classes)]:
            raise DataError(
                f"The classes of {data} are {_listed(classes)}, and those that the network was trained on "
                f"{_listed(names)}: the images that were held out of its training are not those of this "
                "folder. Give the folder that it was trained on, or --split to measure on another split."
            )
        return split, split_notes(split)
    folder = is_folder(part.dataset)
    if names is None:
        split = open_split(part, data, training=False, num_classes=sys.maxsize if folder else outputs)
        classes = split.source.classes if isinstance(split, ImageSplit) else None
        names = _imagenet_names(classes or (), outputs)
        if names is not None:
            split = open_split(part, data, training=False, num_classes=outputs, classes=names, whole=False)
            return split, (
                *split_notes(split),
                "the weights do not name their classes; assumed is the order of "
                "ImageNet's ids, by which the folders are named",
            )
    if names is not None:
        split = open_split(part, data, training=False, num_classes=outputs, classes=names, whole=False)
        by_number = isinstance(split, Stream) or (split.source.classes is None and not is_synthetic(part.dataset))
        return split, (
            *split_notes(split),
            *(
                [f"{part.dataset} does not name its classes; assumed is that its numbers are those of training"]
                if by_number
                else []
            ),
        )
    notes = split_notes(split)
    if classes is not None and folder:
        if len(classes) != outputs:
            raise DataError(
                f"The network has {outputs} outputs, its weights do not name their classes, and the data "
                f"have {len(classes)} ({_listed(classes)}): which class is which output is unknown. Give it "
                "by --labels FILE, a text file with one class a line in the order of the outputs."
            )
        notes += (
            f"the weights do not name their classes; assumed is the order of the folders' names: {_listed(classes)}. "
            "--labels FILE gives another one",
        )
    elif isinstance(split, Stream) or classes is not None:
        notes += (
            "the weights do not name their classes; assumed is that they were trained on the same numbers of "
            f"{part.dataset}",
        )
    return split, notes


def _imagenet_names(classes: Sequence[str], outputs: int) -> tuple[str, ...] | None:
    """The folders of ImageNet's classes in the order of a network's 1,000 outputs, where the data have such folders."""
    if outputs != 1000 or not classes or not all(_SYNSET.fullmatch(name) for name in classes):
        return None
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, 40) for name in names[:8]) + (", .." if len(names) > 8 else "")


def _recipe_of(network: Any, name: str) -> Recipe:
    """A recipe with the input that a network's weights were made for, as timm resolves it for evaluation."""
    from timm.data.config import resolve_data_config

    config = resolve_data_config(model=network, use_test_size=True)
    channels, side, _ = config["input_size"]
    base = Recipe(
        model=ModelPart(name=name, num_classes=network.num_classes, in_chans=channels),
        optim=OptimPart(lr=1.0),
        schedule=SchedulePart(epochs=1),
    )
    return with_values(
        base,
        data={
            "image_size": side,
            "crop_pct": float(config["crop_pct"]),
            "interpolation": config["interpolation"],
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
        },
    )
