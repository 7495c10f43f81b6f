"""Networks with published ImageNet accuracies, to set beside a compressed one: what a budget buys ready-made.

The table is ``bsszoo/models/published.csv``, written by ``benchmarks/published.py``, which says where its figures come
from.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

#: The source of networks whose weights ``timm.create_model(name, pretrained=True)`` loads.
READY: Final = "timm"
#: Classes of ImageNet-1k.
IMAGENET: Final = 1000


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """A network as published, by a recipe of its own.

    ``top1`` is its accuracy on ImageNet's validation split [%] at an input of ``image_size`` [px] (0: the source does
    not say, as for ``params``); ``macs`` are counted with attention's products. ``data`` is ``more`` where it saw more
    images than ImageNet-1k's, ``teacher`` where a larger network taught it, else empty.
    """

    name: str
    top1: float
    macs: int
    params: int
    image_size: int
    data: str
    source: str

    @property
    def ready(self) -> bool:
        """Whether timm has its weights."""
        return self.source == READY


@cache
def _all() -> tuple[PublishedNetwork, ...]:
    text = files("bsszoo").joinpath("models").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedNetwork(
            row["name"],
            float(row["top1"]),
            int(row["macs"]),
            int(row["params"]),
            int(row["image_size"]),
            row["data"],
            row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def published_within(macs: int, *, least: float = 0.0) -> list[PublishedNetwork]:
    """The published networks of at most so many multiply-adds, and of at least ``least`` times as many, best first.

    Example:
        >>> best = published_within(150_000_000)[0]
        >>> best.macs <= 150_000_000 and best.top1 > 70
        True
    """
    rows = [row for row in _all() if least * macs <= row.macs <= macs]
    return sorted(rows, key=lambda row: (-row.top1, row.macs))


def ready_instead(macs: int) -> str | None:
    """What is there ready-made of at most so many multiply-adds, as a sentence; None where nothing is."""
    ready = [row for row in published_within(macs) if row.ready]
    plain = next((row for row in ready if not row.data), None)
    if plain is None:
        return None
    best = ready[0]
    text = f"Ready-made: timm's {plain.name} has {plain.top1:.1f}% top-1 on ImageNet with {_m(plain.macs)} MACs"
    if best is not plain:
        how = "pretrained on more images" if best.data == "more" else "taught by a larger network"
        text += f", and {best.name}, {how}, {best.top1:.1f}% with {_m(best.macs)}"
    return f"{text}; `bsszoo list --budget {_m(macs)}` has more."


def _m(macs: int) -> str:
    return f"{macs / 1e9:.2f}G" if macs >= 10**9 else f"{macs / 1e6:.0f}M"
