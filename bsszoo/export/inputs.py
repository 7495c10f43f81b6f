"""The pictures that an exported network is checked on: random ones, and real ones as the network's users give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from timm.data import create_transform

from bsszoo.images import MODES, converted, image_files, read_image

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
    files = _bundled() if pictures is None else image_files(pictures)
    if channels not in MODES or not files:
        return Check(noise, None, ())
    transform = create_transform(**config, is_training=False)
    images = [converted(read_image(file), MODES[channels], str(file)) for file in files]
    return Check(noise, torch.stack([transform(image) for image in images]), tuple(file.name for file in files))


def _bundled() -> list[Path]:
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "sample_data"
    return [folder / name for name in _BUNDLED if (folder / name).is_file()]
