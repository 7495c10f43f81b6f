"""The commands that build and train the network of a code, as text to copy."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final, Literal

from bsszoo.codes.code import Code
from bsszoo.codes.detector import DetectorHead
from bsszoo.codes.families import family_of
from bsszoo.study.result import Finished, Result, TrainingFacts

_RUN_NOTE: Final = (
    "By the recipe of this run, on all training images; --set changes any value, such as optim.lr. On several "
    "GPUs: torchrun --nproc-per-node 8 -m bsszoo train ..."
)


#: Stands for the folder of a user's pictures.
PICTURES: Final = "pictures"


@dataclass(frozen=True, slots=True)
class Command:
    """One text to copy: its title, language, and a note for whoever runs it."""

    title: str
    text: str
    language: Literal["python", "shell"]
    note: str = ""


_TRAIN_NOTE: Final = (
    "Trains it on ImageNet by the settings of {source}: learning rate, schedule, epochs, "
    "weight decay, label smoothing, a batch of {batch}, augmentation. {rest} On several GPUs: torchrun "
    "--nproc-per-node 8 -m bsszoo train ... Other data takes --set model.num_classes=N; --set changes any value, "
    "and the folder keeps the whole recipe. Nobody has run this on ImageNet yet."
)

_PAPER_IS_SILENT: Final = (
    "The paper does not state the rest, such as momentum, warm-up and crops; recipes/README.md has our choices."
)
_REST: Final = "The rest is as for the paper's ResNets."

_COCO_NOTE: Final = (
    "Trains it on COCO from scratch by the settings of the AutoBSS paper's section B.3.3: 270,000 iterations of 16 "
    "images, synchronised batch normalisation. recipes/README.md has our choices where the paper is silent. On "
    "several GPUs: torchrun --nproc-per-node 8 -m bsszoo train ... --set changes any value, and the folder keeps the "
    "whole recipe. Nobody has run this on COCO yet."
)


def commands(
    code: Code, training: TrainingFacts | None = None, head: DetectorHead | None = None
) -> tuple[Command, ...]:
    """The commands that build and train a code, or the detector on it: by ``bsszoo``, by timm alone, by a recipe.

    The recipe is that of the run's images where it has some, else the paper's of the family for ImageNet.
    """
    network = str(code if head is None else head.on(code))
    dataset = "imagenet" if head is None else "coco"
    arguments, train = "", f"bsszoo train paper:{network} \\\n  --data /path/to/{dataset} --out runs/first\n"
    if training is not None:
        arguments = f", num_classes={training.num_classes}" + (
            f", in_chans={training.in_chans}" if training.in_chans != 3 else ""
        )
        data = f"--data {shlex.quote(training.data)} " if training.data is not None else ""
        recipe = shlex.quote(f"{training.folder}/{training.recipe}")
        train = f"bsszoo train {recipe} \\\n  --set model.name={network} \\\n  {data}--out runs/first\n"
    if head is not None:
        return (
            Command("Build it", f'import bsszoo\n\nmodel = bsszoo.create("{network}"{arguments})\n', "python"),
            Command("Train it", train, "shell", _COCO_NOTE if training is None else _RUN_NOTE),
        )
    row = family_of(code.family).training
    rest = _PAPER_IS_SILENT if "AutoBSS" in row.source else _REST
    # Families that are not trained by SGD have settings of their own for the rest too.
    rest = rest if row.optimiser == "sgd" else "Optimiser, warm-up, mixing and moving average are theirs too."
    note = _TRAIN_NOTE.format(source=row.source, rest=rest, batch=row.batch_size)
    return (
        Command("Build it", f'import bsszoo\n\nmodel = bsszoo.create("{code}"{arguments})\n', "python"),
        Command(
            "Build it with timm",
            f'import bsszoo.nets\nimport timm\n\nmodel = timm.create_model("bsszoo_code", code="{code}"{arguments})\n',
            "python",
            "Importing bsszoo.nets registers the model in timm.",
        ),
        Command("Train it", train, "shell", note if training is None else _RUN_NOTE),
    )


def commands_of(result: Result, code: Code) -> tuple[Command, ...]:
    """The commands of a code of a run; of the one that was trained in full, first those that use that network."""
    build = commands(code, result.training, result.head)
    if result.finished and result.training and result.finished.code == str(code):
        return (*after_training(result.training, result.finished), *build)
    return build


def to_train(command: str) -> Command:
    """The command that trains a search's candidates on the user's pictures."""
    return Command(
        "Train the candidates on your pictures",
        f"{command}\n",
        "shell",
        f"Give your folder in place of {PICTURES}: {PICTURES}/train/CLASS/*.jpg and {PICTURES}/validation/CLASS/*.jpg. "
        "It trains them beside the network and the uniformly rescaled one, several times each (--confirm), and ends "
        "with the accuracy of each on the validation split, the one to take, and its weights. --epochs, --image-size "
        "and --subset make it shorter; --data digits tries it on small real pictures.",
    )


def using(folder: str) -> tuple[Command, ...]:
    """The commands that use the trained network in a folder."""
    quoted = shlex.quote(folder)
    return (
        Command(
            "Load it", f"import bsszoo\n\nmodel = bsszoo.create({f'local-dir:{folder}'!r}, pretrained=True)\n", "python"
        ),
        Command(
            "Use it",
            f"bsszoo predict {quoted} IMAGE\nbsszoo export {quoted} --format onnx --out model.onnx\n"
            f"bsszoo push {quoted} ORG/NAME --dry-run card\n",
            "shell",
            'Predictions, a file for other runtimes (pip install "bsszoo[onnx]"), and what would be published.',
        ),
    )


def after_training(training: TrainingFacts, finished: Finished) -> tuple[Command, ...]:
    """The commands that load and publish the network of a run's training in full."""
    folder = f"{training.folder}/{finished.folder}"
    return (
        Command(
            "Load the trained network",
            f"import bsszoo\n\nmodel = bsszoo.create({f'local-dir:{folder}'!r}, pretrained=True)\n",
            "python",
        ),
        Command(
            "Publish it",
            f"bsszoo push {shlex.quote(training.folder)} ORG/NAME --dry-run card\n",
            "shell",
            "Writes what would be sent, the model card too, into the folder card; without --dry-run it is sent.",
        ),
    )
