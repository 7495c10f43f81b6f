"""The comparison as a plot: regret of the picked code by number of evaluations, one panel for each group of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from searching.figures import REFERENCE, Comparison
from searching.protocol import Run
from searching.samplers import SAMPLERS

#: A sampler keeps its colour whichever others are drawn. Ours are drawn thicker.
COLOURS = dict(zip(SAMPLERS, plt.colormaps["tab10"](range(len(SAMPLERS))), strict=True))
OURS = ("paper", "default")


def draw(runs: Sequence[Run], path: Path) -> None:
    """Writes the plot; the file's suffix names its format."""
    comparison = Comparison(runs)
    names = [n for n in SAMPLERS if n in comparison.runs and n != REFERENCE]
    batch, evaluations = runs[0].batch, runs[0].evaluations
    figure, axes = plt.subplots(
        1,
        len(comparison.groups),
        figsize=(5.2 * len(comparison.groups), 4.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    x = np.arange(1, evaluations + 1)
    lines = {}
    for panel, (group, tasks) in zip(axes[0], comparison.groups.items(), strict=True):
        lines[REFERENCE] = panel.axhline(1, color="0.4", linestyle="--", linewidth=1)
        for name in names:
            estimates = comparison.ratios(name, tasks, "picked")
            if not estimates:
                continue
            width = 2.2 if name in OURS else 1.2
            lines[name] = panel.plot(x, [e.value for e in estimates], color=COLOURS[name], linewidth=width)[0]
            panel.fill_between(
                x, [e.low for e in estimates], [e.high for e in estimates], color=COLOURS[name], alpha=0.12, linewidth=0
            )
        for end in range(batch, evaluations, batch):
            panel.axvline(end, color="0.9", linewidth=0.8, zorder=0)
        panel.set(title=f"{group} ({len(tasks)} tasks)", xlabel="evaluations", xlim=(1, evaluations))
    # Repairs may send a first batch far off; what counts is to the right of it.
    axes[0][0].set_ylim(0, min(2.0, axes[0][0].get_ylim()[1]))
    axes[0][0].set_ylabel("regret of the picked code (random search = 1)")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(6, len(lines)), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
