"""The commands that build and train the network of a code, as text to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bsszoo.codes.code import Code


@dataclass(frozen=True, slots=True)
class Command:
    """One text to copy: what it does, in which language, and what to know before running it."""

    title: str
    text: str
    language: Literal["python", "shell"]
    note: str = ""


_TRAIN_NOTE: Final = (
    "Trains it on ImageNet by the settings of the AutoBSS paper's Table 1: learning rate, schedule, epochs, "
    "weight decay, label smoothing, a batch of 1024, augmentation. The paper does not state the rest, such as "
    "momentum, warm-up and crops; recipes/README.md has our choices. On several GPUs: torchrun --nproc-per-node 8 "
    "-m bsszoo train ... Other data takes --set model.num_classes=N; --set changes any value, and the folder "
    "keeps the whole recipe. Nobody has run this on ImageNet yet."
)


def commands(code: Code) -> tuple[Command, ...]:
    """What builds and trains a code: with ``bsszoo``, with timm alone, and by the paper's recipe of its family."""
    return (
        Command("Build it", f'import bsszoo\n\nmodel = bsszoo.create("{code}")\n', "python"),
        Command(
            "Build it with timm",
            f'import bsszoo.nets\nimport timm\n\nmodel = timm.create_model("bsszoo_code", code="{code}")\n',
            "python",
            "Importing bsszoo.nets registers the model in timm.",
        ),
        Command("Train it", f"bsszoo train paper:{code} \\\n  --data /path/to/imagenet --out runs/first\n", "shell",
                _TRAIN_NOTE),
    )
