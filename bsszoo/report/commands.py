"""The commands that build and train the network of a code, as text to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bsszoo.codes.code import Code
from bsszoo.codes.paper_training import TABLE_1


@dataclass(frozen=True, slots=True)
class Command:
    """One text to copy: what it does, in which language, and what to know before running it."""

    title: str
    text: str
    language: Literal["python", "shell"]
    note: str = ""


# timm's train.py knows the models that are registered when it starts. Running it in this interpreter, after the
# import, registers them without a change to timm.
_TRAIN_PY: Final = "import bsszoo.nets, runpy; runpy.run_path('train.py', run_name='__main__')"

_TRAIN_NOTE: Final = (
    "Run it in a checkout of timm's repository (github.com/huggingface/pytorch-image-models), where train.py is. "
    "Learning rate, schedule, epochs, weight decay, label smoothing, batch of 1024 and augmentation are those of the "
    "AutoBSS paper's Table 1. Momentum 0.9 (timm's sgd takes Nesterov's) and 5 epochs of warm-up are not in the paper; "
    "they follow Goyal et al. (2017). 256 images x 4 accumulated steps make the batch of 1024 on one GPU; on four GPUs "
    "start it with torchrun --nproc-per-node=4 --no-python and give --grad-accum-steps 1. Other data than ImageNet "
    "takes --num-classes. --amp is faster on most GPUs; whether the paper used it is not known."
)


def commands(code: Code) -> tuple[Command, ...]:
    """What builds and trains a code: with ``bsszoo``, with timm alone, and with timm's own ``train.py``.

    The image size is the code's own; the other settings are the family's in the paper's Table 1.
    """
    return (
        Command("Build it", f'import bsszoo\n\nmodel = bsszoo.create("{code}")\n', "python"),
        Command(
            "Build it with timm",
            f'import bsszoo.nets\nimport timm\n\nmodel = timm.create_model("bsszoo_code", code="{code}")\n',
            "python",
            "Importing bsszoo.nets registers the model in timm.",
        ),
        Command("Train it with timm's train.py", _training(code), "shell", _TRAIN_NOTE),
    )


def _training(code: Code) -> str:
    setting = TABLE_1[code.family]
    decay = f"{setting.weight_decay:.0e}".replace("e-0", "e-")
    lines = [
        f'python -c "{_TRAIN_PY}"',
        "--data-dir /path/to/imagenet",
        f"--model bsszoo_code --model-kwargs code={code}",
        f"--img-size {code.image_size} --batch-size 256 --grad-accum-steps 4",
        f"--opt sgd --momentum 0.9 --weight-decay {decay}",
        f"--sched cosine --lr {setting.lr:g} --epochs {setting.epochs} --warmup-epochs 5",
        "--smoothing 0.1" + (" --aa original" if setting.autoaugment else ""),
    ]
    return " \\\n  ".join(lines) + "\n"
