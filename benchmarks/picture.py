"""The picture of a trained network's compression: the original beside the recommended network, from a run's folder.

    python benchmarks/picture.py RUN docs/compressed.svg

Test accuracy, multiply-adds and measured latency as the run's ``result.json`` has them, and the blocks of each stage,
as high as they have channels: inside (pale) and behind them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bsszoo.codes import Code, stages_of
from bsszoo.report.figures import human
from bsszoo.report.plots import FOUND, ORIGINAL

COLOURS = {"original": ORIGINAL, "recommended": FOUND}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a compression")
    parser.add_argument("out", type=Path, help="an SVG file")
    given = parser.parse_args()
    result = json.loads((given.run / "result.json").read_text(encoding="utf-8"))
    networks = {role: result[role] for role in COLOURS}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bsszoo", "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(8, 2.9), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
        bars(left, networks)
        blocks(right, networks)
        figure.savefig(given.out, format="svg", metadata={"Date": None})


def bars(axes: Any, networks: dict[str, dict[str, Any]]) -> None:
    """Accuracy [%], and multiply-adds and latency as shares of the original's."""
    whole = networks["original"]
    for row, (role, network) in enumerate(networks.items()):
        values = (
            (network["test_accuracy"], f"{network['test_accuracy']:.1f}%"),
            (100 * network["macs"] / whole["macs"], human(network["macs"])),
            (100 * network["latency_ms"] / whole["latency_ms"], f"{network['latency_ms']:.2f} ms"),
        )
        for place, (value, text) in enumerate(values):
            y = place + 0.4 * row
            axes.barh(y, value, 0.36, color=COLOURS[role])
            axes.text(2, y, text, va="center", color="white", fontsize=9, fontweight="bold")
    axes.set_yticks([0.2, 1.2, 2.2], ["test accuracy", "MACs", "latency"])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 50, 100], ["0", "50", "100%"])
    axes.spines[["top", "right"]].set_visible(False)


def blocks(axes: Any, networks: dict[str, dict[str, Any]]) -> None:
    """Each block as high as it has channels inside, pale, and behind it."""
    tallest = max(s.first.out_width for s in stacked(networks["original"]))
    for row, (role, network) in enumerate(networks.items()):
        x, base = 0.0, -1.5 * row
        for stage in stacked(network):
            start = x
            for block in stage.blocks():
                for width, share, alpha in ((block.mid_width, 0.45, 0.55), (block.out_width, 0.45, 1.0)):
                    height = width / tallest
                    axes.add_patch(Rectangle((x, base - height / 2), share, height, color=COLOURS[role], alpha=alpha))
                    x += share
                x += 0.15
            last = stage.first
            text = f"{last.out_width}" if last.mid_width == last.out_width else f"{last.mid_width}·{last.out_width}"
            axes.text((start + x) / 2 - 0.1, base - 0.6, text, ha="center", va="top", fontsize=8)
            x += 0.7
        axes.text(-0.4, base, role, ha="right", va="center", fontsize=9, color=COLOURS[role], fontweight="bold")
    axes.set_xlim(-4.2, 1.05 * max(total(network) for network in networks.values()))
    axes.set_ylim(-2.4, 0.6)
    axes.set_axis_off()


def total(network: dict[str, Any]) -> float:
    """Where the drawing of a network's blocks ends."""
    return sum(0.7 + 1.05 * len(list(stage.blocks())) for stage in stacked(network))


def stacked(network: dict[str, Any]) -> list[Any]:
    """The stages of blocks of a network."""
    return [stage for stage in stages_of(Code.parse(network["code"])) if stage.first.stacked]


if __name__ == "__main__":
    main()
