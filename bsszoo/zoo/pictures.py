"""Pictures as a classifier takes them: which files, which modes, and how timm prepares them for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, UnidentifiedImageError
from timm.data import resolve_data_config
from torch import nn

from bsszoo.errors import DataError

#: PIL's mode of pictures with so many channels.
MODES: Final = {1: "L", 3: "RGB", 4: "CMYK"}
_DEEP: Final = ("I", "F")
#: The endings of pictures' files in a folder.
PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def input_config(network: nn.Module) -> dict[str, Any]:
    """timm's evaluation input of a network (size, mean, deviation, crop), for the channels that it takes."""
    made: Any = network
    size = made.default_cfg["input_size"][1:]
    config: dict[str, Any] = resolve_data_config({"input_size": (made.in_chans, *size)}, model=made)
    for key in ("mean", "std"):
        if len(config[key]) != made.in_chans:  # of three channels, where the network was built for others
            config[key] = (sum(config[key]) / len(config[key]),) * made.in_chans
    return config


def picture_files(pictures: Sequence[str | Path], *, most: int | None = 64) -> list[Path]:
    """The files of pictures, and of up to ``most`` of those in each folder; None for all.

    Raises:
        DataError: There is no such file, or no picture in a folder.
    """
    found: list[Path] = []
    for one in pictures:
        path = Path(one).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)[:most]
            if not inside:
                raise DataError(f"{path} holds no picture ({', '.join(PICTURES)}).")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"There is no picture {str(one)!r}.")
    return found


def read_picture(file: Path) -> Image.Image:
    """A picture as it is; a ``DataError`` names a file that cannot be read."""
    try:
        with Image.open(file) as image:
            image.load()
            copied: Image.Image = image.copy()
    except (OSError, SyntaxError, ValueError) as error:
        why = "no image that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{file} cannot be read: {why}. Mend the file or take it out.") from None
    if copied.mode in _DEEP or copied.mode.startswith("I;16"):
        # PIL would make white of everything above 255.
        raise DataError(f"{file} has more than 8 bits a channel (PIL's mode {copied.mode}): scale it to 8 bits.")
    return copied
