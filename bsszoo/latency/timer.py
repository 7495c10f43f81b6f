"""Measured latency: the median time of one forward on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bsszoo.codes.code import Code


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and quartiles of one forward of one image [ms], and where it was measured."""

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    where: str


def measure_latencies(codes: Sequence[Code], *, rounds: int = 15, budget_s: float = 20.0) -> tuple[Latency, ...]:
    """Time eager float32 forwards of one image at each code's input size on the CPU, random weights.

    The networks take turns, so that a machine that slows down slows them all: compare them with each other, and with
    other runs only on a quiet machine.

    Args:
        codes: The networks.
        rounds: Timed forwards of each; fewer, but at least 3, when all would take longer than ``budget_s`` together.
        budget_s: Seconds the timed forwards may take.
    """
    import torch

    from bsszoo.models.build import build

    models = [build(code).eval() for code in codes]
    images = [torch.randn(1, 3, code.image_size, code.image_size) for code in codes]
    times: list[list[float]] = [[] for _ in codes]
    end = time.perf_counter() + budget_s
    with torch.inference_mode():
        for model, image in zip(models, images, strict=True):
            for _ in range(2):
                model(image)
        for done in range(rounds):
            if done >= 3 and time.perf_counter() > end:
                break
            for model, image, own in zip(models, images, times, strict=True):
                start = time.perf_counter()
                model(image)
                own.append(1e3 * (time.perf_counter() - start))
    where = f"CPU, {torch.get_num_threads()} threads"
    quartiles = [statistics.quantiles(own, n=4) for own in times]
    return tuple(Latency(q[1], q[0], q[2], len(own), where) for q, own in zip(quartiles, times, strict=True))
