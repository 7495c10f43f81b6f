"""How many codes a second ``cost_array`` counts on one core, against a naive numpy count and a loop over codes.

    python benchmarks/cost_array.py --runs 15

Prints a Markdown table. The naive count, written below, is what one would write first: int64 columns, one line a
layer, for one family's fixed parts and its original image size only. All three count MACs, parameters and activations
and must agree on every code before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bsszoo.codes import FAMILIES, code_cost
from bsszoo.spaces import Space, cost_array

Columns = Any  # int64 of shape [d, n]

#: Families that the naive count is written for.
NAIVE = ("resnet18", "resnet50", "mobilenetv2", "efficientnet_b0", "efficientnet_b1", "regnetx", "regnety")


class Sums:
    """MACs, parameters and activations so far, each a column [n]."""

    def __init__(self, n: int) -> None:
        self.macs, self.params, self.activations = (np.zeros(n, dtype=np.int64) for _ in range(3))

    def conv(self, weights: Columns, out: Columns, area: int, times: Columns = 1) -> None:
        """Adds a convolution with batch normalisation, ``times`` over; ``area`` is its output's [px]."""
        self.macs += times * weights * area
        self.params += times * (weights + 2 * out)
        self.activations += times * out * area

    def gate(self, width: Columns, hidden: Columns, times: Columns = 1) -> None:
        """Adds squeeze-and-excitation: two 1x1 convolutions with bias on one pixel."""
        self.macs += times * 2 * width * hidden
        self.params += times * (2 * width * hidden + width + hidden)
        self.activations += times * (width + hidden)

    def linear(self, width: Columns) -> None:
        """Adds the classifier of 1000 classes."""
        self.macs += width * 1000
        self.params += width * 1000 + 1000


def naive_resnet(columns: Columns, *, bottleneck: bool, grouped: bool = False, squeeze: bool = False) -> Sums:
    """ResNet-18 or ResNet-50 codes at 224 px, layer by layer."""
    sums, side = Sums(columns.shape[1]), 56
    width = np.full_like(columns[0], 64) if bottleneck else columns[0]
    sums.conv(49 * 3 * width, width, 112 * 112)
    for i, stride in enumerate((1, 2, 2, 2)):
        out, more = columns[i], columns[4 + i] - 1
        before, area = side * side, (side // stride) ** 2
        if bottleneck:
            b = columns[8 + i]
            sums.conv(width * b, b, before)
            group = 4 * 2**i if grouped else b
            sums.conv(9 * b * group, b, area)
            sums.conv(b * out, out, area)
            sums.conv(out * b, b, area, more)
            sums.conv(9 * b * group, b, area, more)
            sums.conv(b * out, out, area, more)
        else:
            sums.conv(9 * width * out, out, area)
            sums.conv(9 * out * out, out, area)
            sums.conv(9 * out * out, out, area, 2 * more)
        if squeeze:
            sums.gate(out, np.maximum(8, (out / 16 + 4).astype(np.int64) // 8 * 8), more + 1)
        sums.conv(width * out, out, area, 1 if stride == 2 else (width != out).astype(np.int64))
        width, side = out, side // stride
    sums.linear(width)
    return sums


def naive_mbconv(columns: Columns, *, size: int, kernels: tuple[int, ...], squeeze: bool) -> Sums:
    """MobileNetV2 or EfficientNet codes, layer by layer."""
    sums, side = Sums(columns.shape[1]), -(-size // 2)
    sums.conv(27 * 32, 32, side * side)
    sums.conv(9 * 32, 32, side * side)
    if squeeze:
        sums.gate(32, 8)
    sums.conv(32 * 16, 16, side * side)
    width = np.full_like(columns[0], 16)
    for i, stride in enumerate((2, 2, 2, 1, 2, 1)):
        out, depth, t = columns[i], columns[6 + i], columns[12 + i]
        before, side = side * side, -(-side // stride)
        for inside, times, area in ((width, 1, before), (out, depth - 1, side * side)):
            mid = inside * t
            sums.conv(inside * mid, mid, area, times)
            sums.conv(kernels[i] ** 2 * mid, mid, side * side, times)
            if squeeze:
                sums.gate(mid, inside // 4, times)
            sums.conv(mid * out, out, side * side, times)
        width = out
    sums.conv(width * 1280, 1280, side * side)
    sums.linear(np.full_like(width, 1280))
    return sums


def naive_regnet(columns: Columns, *, squeeze: bool) -> Sums:
    """RegNet codes at 224 px, layer by layer."""
    sums, side = Sums(columns.shape[1]), 112
    sums.conv(27 * 32, 32, side * side)
    width = np.full_like(columns[0], 32)
    for i in range(4):
        out, depth, group = columns[i], columns[4 + i], columns[8 + i]
        before, side = side * side, side // 2
        for inside, times, first in ((width, 1, True), (out, depth - 1, False)):
            sums.conv(inside * out, out, before if first else side * side, times)
            sums.conv(9 * out * group, out, side * side, times)
            if squeeze:
                sums.gate(out, np.maximum(1, np.rint(inside / 4).astype(np.int64)), times)
            sums.conv(out * out, out, side * side, times)
            if first:
                sums.conv(inside * out, out, side * side)
        width = out
    sums.linear(width)
    return sums


def naive(family: str, rows: Columns) -> tuple[Columns, Columns, Columns]:
    """MACs, parameters and activations of n codes [n, d] of a family, by the naive count."""
    columns = np.ascontiguousarray(rows.T)
    if "resne" in family:
        kind = family.removeprefix("se")
        sums = naive_resnet(
            columns, bottleneck=kind != "resnet18", grouped=kind == "resnext", squeeze=family.startswith("se")
        )
    elif family.startswith("regnet"):
        sums = naive_regnet(columns, squeeze=family == "regnety")
    else:
        data = FAMILIES[family]
        sums = naive_mbconv(columns, size=data.image_size, kernels=data.kernels, squeeze=family != "mobilenetv2")
    return sums.macs, sums.params, sums.activations


def rate(count: Callable[[], object], n: int, runs: int) -> tuple[float, float, float]:
    """Median, least and largest number of codes a second over the runs; the first, uncounted run warms up."""
    count()
    rates = []
    for _ in range(runs):
        start = time.perf_counter()
        count()
        rates.append(n / (time.perf_counter() - start))
    return statistics.median(rates), min(rates), max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15, help="runs of each count (default 15)")
    parser.add_argument("--codes", type=int, default=200_000, help="codes counted at once (default 200000)")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.codes < 1:
        parser.error("--runs and --codes must be at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(
        f"numpy {np.__version__}, Python {platform.python_version()}, one core; {arguments.runs} runs over "
        f"{arguments.codes} random codes (the loop: 300), median (least to most) in thousands of codes a second\n"
    )
    print("| family | `cost_array` | naive numpy | loop over `code_cost` |")
    print("|---|---:|---:|---:|")
    for family in NAIVE:
        space = Space.of(family)
        rows = space.sample(arguments.codes, 0)
        codes = [space.code(row) for row in rows[:300]]
        counted = cost_array(space, rows)
        if not all(np.array_equal(a, b) for a, b in zip(counted, naive(family, rows), strict=True)):
            raise SystemExit(f"The two array counts of {family} disagree.")
        if counted.macs[: len(codes)].tolist() != [code_cost(code).macs for code in codes]:
            raise SystemExit(f"cost_array and code_cost of {family} disagree.")

        def array(space: Space = space, rows: Columns = rows) -> object:
            return cost_array(space, rows)

        def first_try(family: str = family, rows: Columns = rows) -> object:
            return naive(family, rows)

        def loop(codes: list[Any] = codes) -> object:
            return [code_cost(code) for code in codes]

        cells = []
        for count, n, form in (
            (array, len(rows), "{:,.0f} ({:,.0f} to {:,.0f})"),
            (first_try, len(rows), "{:,.0f} ({:,.0f} to {:,.0f})"),
            (loop, len(codes), "{:.1f} ({:.1f} to {:.1f})"),
        ):
            cells.append(form.format(*(r / 1e3 for r in rate(count, n, arguments.runs))))
        print(f"| {family} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
