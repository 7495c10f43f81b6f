"""Published ImageNet accuracy at MACs: writes the table that ``bsszoo list --budget`` shows.

timm's rows are those of its ``results/results-imagenet.csv`` (github.com/huggingface/pytorch-image-models, Apache-2.0).
MACs are counted here: PyTorch's counter of operations on timm's own network at the size that it was evaluated at, so
that all rows are counted alike, attention's products included. Rows of papers are below, with their sources. Accuracies
are what their authors measured, each by a recipe of its own.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import bsszoo

#: Larger networks are of no interest to who compresses one.
MOST_MACS = 8_000_000_000
#: A row is kept where fewer networks than this are more accurate and no larger, of all or of those without more data,
#: or where the zoo has its network.
BETTER = 6
_EXTRA_DATA = re.compile(
    r"in12k|in21k|in22k|ig1b|_ig_|swsl|ssl|jft|laion|openai|lvd|datacomp|webli|metaclip|dfn|seer|m38m"
)
_DISTILLED = re.compile(r"dist")


@dataclass(frozen=True)
class Row:
    """A network as published. ``top1`` [%]; ``data``: ``more`` than ImageNet-1k's, or ``teacher``, or nothing."""

    name: str
    top1: float
    macs: int
    params: int
    image_size: int
    data: str
    source: str


AUTOBSS = "AutoBSS (NeurIPS 2020)"
METAPRUNING = "MetaPruning (arXiv:1903.10258)"
AUTOSLIM = "AutoSlim (arXiv:1903.11728)"
DMCP = "DMCP (arXiv:2005.03354)"
US_NETS = "US-Nets (arXiv:1903.05134)"
HALP = "HALP (arXiv:2110.10811)"
OFA = "Once-for-all (github.com/mit-han-lab/once-for-all)"
#: Of papers, whose weights are not timm's; parameters are 0 where the source does not say.
PAPERS = (
    Row("resnet50_autobss", 79.29, 4_100_000_000, 0, 224, "", AUTOBSS),
    Row("mobilenetv2_autobss", 74.50, 300_000_000, 0, 224, "", AUTOBSS),
    Row("efficientnet_b0_autobss", 77.79, 390_000_000, 0, 224, "", AUTOBSS),
    Row("MobileNetV2 140M", 68.2, 140_000_000, 0, 224, "", METAPRUNING),
    Row("MobileNetV2 303M", 72.7, 303_000_000, 0, 224, "", METAPRUNING),
    Row("ResNet-50 1G", 73.4, 1_000_000_000, 0, 224, "", METAPRUNING),
    Row("ResNet-50 2G", 75.4, 2_000_000_000, 0, 224, "", METAPRUNING),
    Row("MobileNetV2 207M", 73.0, 207_000_000, 0, 224, "", AUTOSLIM),
    Row("MobileNetV2 305M", 74.2, 305_000_000, 0, 224, "", AUTOSLIM),
    Row("ResNet-50 1G", 74.0, 1_000_000_000, 0, 224, "", AUTOSLIM),
    Row("ResNet-50 2G", 75.6, 2_000_000_000, 0, 224, "", AUTOSLIM),
    Row("US-MobileNetV2 150M", 67.6, 150_000_000, 0, 224, "", US_NETS),
    Row("ResNet-50 1.1G", 74.4, 1_110_000_000, 0, 224, "", HALP),
    Row("flops@389M_top1@79.1_finetune@75", 79.1, 389_000_000, 0, 0, "teacher", OFA),
    Row("flops@482M_top1@79.6_finetune@75", 79.6, 482_000_000, 0, 0, "teacher", OFA),
    Row("flops@595M_top1@80.0_finetune@75", 80.0, 595_000_000, 0, 0, "teacher", OFA),
)


def counted(name: str, size: int) -> tuple[int, int]:
    """MACs at an input of some size [px], and parameters, of timm's network; nothing is computed."""
    with torch.device("meta"):
        try:
            network = timm.create_model(name, img_size=size)  # of transformers, whose tables of positions have a size
        except TypeError:
            network = timm.create_model(name)
        network.eval().requires_grad_(False)  # the counter's hooks follow gradients, where there are any
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, 3, size, size))
    return counter.get_total_flops() // 2, sum(p.numel() for p in network.parameters())


def rows_of(results: Path) -> list[Row]:
    """timm's networks of at most ``MOST_MACS``, most accurate first."""
    known: dict[tuple[str, int], tuple[int, int]] = {}
    rows = []
    with results.open() as file:
        lines = list(csv.DictReader(file))
    for i, line in enumerate(lines):
        name, size = line["model"], int(line["img_size"])
        network = name.partition(".")[0]
        if float(line["param_count"].replace(",", "")) > 100 or network.startswith("test_"):
            continue
        try:
            if (network, size) not in known:
                known[network, size] = counted(network, size)
        except Exception as error:  # one that cannot run without data, or that this version of timm lacks
            print(f"left out: {name} at {size} px ({type(error).__name__}: {error})"[:160], file=sys.stderr)
            continue
        macs, params = known[network, size]
        if macs <= MOST_MACS:
            tag = name.partition(".")[2]
            data = "more" if _EXTRA_DATA.search(name) else "teacher" if _DISTILLED.search(tag) else ""
            rows.append(Row(name, float(line["top1"]), macs, params, size, data, "timm"))
        if i % 50 == 0:
            print(f"{i} of {len(lines)} read, {len(rows)} kept so far", file=sys.stderr)
    return rows


def chosen(rows: list[Row]) -> list[Row]:
    """The rows that few networks of as many MACs or fewer are better than."""

    def few_better(row: Row, among: list[Row]) -> bool:
        return sum(r.top1 > row.top1 and r.macs <= row.macs for r in among) < BETTER

    plain, zoo = [row for row in rows if not row.data], set(bsszoo.list_models())
    return [
        row
        for row in rows
        if row.name.partition(".")[0] in zoo or few_better(row, rows) or (not row.data and few_better(row, plain))
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="results-imagenet.csv", help="timm's table of accuracies")
    parser.add_argument("--out", type=Path, default=Path("bsszoo/models/published.csv"), metavar="FILE")
    given = parser.parse_args()
    rows = sorted([*chosen(rows_of(given.results)), *PAPERS], key=lambda row: (row.macs, -row.top1))
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    print(f"{len(rows)} rows in {given.out}")


if __name__ == "__main__":
    main()
