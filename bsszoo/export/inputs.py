"""The pictures that an exported network is checked on: random ones, and real ones as the network's users give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform, resolve_data_config
from torch import nn

from bsszoo.errors import DataError

_MODES: Final = {1: "L", 3: "RGB", 4: "CMYK"}
_PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_RANDOM: Final = 5
#: Real pictures that come with matplotlib, where a user gives none.
_BUNDLED: Final = ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")


@dataclass(frozen=True, slots=True)
class Check:
    """Pictures to compare two networks on: ``random`` [n, c, s, s] and ``real`` ones, which may be none."""

    random: torch.Tensor
    real: torch.Tensor | None
    names: tuple[str, ...]


def check_inputs(config: Mapping[str, Any], pictures: Sequence[str | Path] | None, *, seed: int = 0) -> Check:
    """Random pictures, and real ones prepared as timm's evaluation does.

    Args:
        config: The network's ``input_config``.
        pictures: Files or folders of pictures; two photographs that come with matplotlib by default.
        seed: Of the random ones.

    Raises:
        DataError: There is no such picture, or it cannot be read.
    """
    channels, height, width = config["input_size"]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_RANDOM, channels, height, width, generator=generator)
    files = _bundled() if pictures is None else _files(pictures)
    if channels not in _MODES or not files:
        return Check(noise, None, ())
    transform = create_transform(**config, is_training=False)
    return Check(noise, torch.stack([transform(_read(file).convert(_MODES[channels])) for file in files]),
                 tuple(file.name for file in files))


def input_config(network: nn.Module) -> dict[str, Any]:
    """timm's evaluation input of a network (size, mean, deviation, crop), for the channels that it takes."""
    made: Any = network
    size = made.default_cfg["input_size"][1:]
    config: dict[str, Any] = resolve_data_config({"input_size": (made.in_chans, *size)}, model=made)
    for key in ("mean", "std"):
        if len(config[key]) != made.in_chans:  # of three channels, where the network was built for others
            config[key] = (sum(config[key]) / len(config[key]),) * made.in_chans
    return config


def _bundled() -> list[Path]:
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "sample_data"
    return [folder / name for name in _BUNDLED if (folder / name).is_file()]


def _files(pictures: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for one in pictures:
        path = Path(one).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _PICTURES)[:64]
            if not inside:
                raise DataError(f"{path} holds no picture ({', '.join(_PICTURES)}).")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"There is no picture {str(one)!r}.")
    return found


def _read(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            copied: Image.Image = image.copy()
            return copied
    except (OSError, SyntaxError, ValueError) as error:
        why = "no image that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{file} cannot be read: {why}.") from None
