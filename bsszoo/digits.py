"""``--data digits``: real pictures inside scikit-learn, for a first run without data, network or account.

1,797 handwritten digits of 8 x 8 px (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, 1998), which ``sklearn.datasets.load_digits`` holds. They are written as PNGs into the user's
cache, 500 of them as the test split, and read from there as any folder of pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from bsszoo.errors import SettingsError
from bsszoo.files import cache_folder

if TYPE_CHECKING:
    from bsszoo.codes.code import Code
    from bsszoo.train.callbacks import TrainingCallback

#: What stands for the folder.
DIGITS: Final = "digits"
CLASSES: Final = 10
_TEST: Final = 500
#: Epochs of the training of a network on them, of about twenty updates each.
_EPOCHS: Final = 30


def digits_folder() -> Path:
    """The folder of the pictures, ``train/0`` to ``test/9``, written where it is not there yet.

    Raises:
        SettingsError: scikit-learn is not installed.
    """
    folder = cache_folder() / DIGITS
    if (folder / "complete").exists():
        return folder
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SettingsError(
            "--data digits takes the pictures that scikit-learn holds: pip install 'bsszoo[digits]'. To read a folder "
            "of that name, write ./digits."
        ) from None
    import numpy as np
    from PIL import Image

    found = load_digits()
    # Not the last ones: those are of other writers.
    order = np.random.default_rng(0).permutation(len(found.target))
    for place, row in enumerate(order.tolist()):
        split = "test" if place < _TEST else "train"
        file = folder / split / str(found.target[row]) / f"{row:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((found.images[row] * 255 / 16).astype(np.uint8)).save(file)
    (folder / "complete").touch()
    return folder


def training_folder(code: Code) -> Path:
    """Where a code's training on the digits is kept."""
    return cache_folder() / DIGITS / "trainings" / str(code)


def is_trained(code: Code) -> bool:
    """Whether a code's training on the digits is finished; torch is not imported to know it."""
    return (training_folder(code) / "summary.json").is_file()


def train_on_digits(code: Code, callback: TrainingCallback) -> None:
    """Train a code on the digits, in about a minute, in its ``training_folder``."""
    from bsszoo.codes.families import family_of
    from bsszoo.train.classification.recipe import (
        AugmentPart,
        DataPart,
        ModelPart,
        OptimPart,
        Recipe,
        RunPart,
        SchedulePart,
    )
    from bsszoo.train.loop import train

    how = family_of(code.family).training
    recipe = Recipe(
        model=ModelPart(name=str(code), num_classes=CLASSES),
        optim=OptimPart(lr=how.short_lr, name=how.short, batch_size=64, weight_decay=how.decay),
        schedule=SchedulePart(epochs=_EPOCHS, warmup_epochs=2),
        data=DataPart(image_size=code.image_size, holdout=0.1),
        # A digit in a mirror is none.
        augment=AugmentPart(crop_mode="rkrc", hflip=0.0),
        # So small a network waits for its images.
        run=RunPart(device_batch=64, workers=2),
    )
    train(recipe, digits_folder(), training_folder(code), callback=callback)
