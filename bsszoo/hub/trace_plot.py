"""The picture of a search in a model card: every result in order, and the best so far."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from bsszoo.hub.source import Search


def scores_of(search: Search) -> list[tuple[int, float]]:
    """Number and score of every trial that gave a finite one."""
    rows = csv.DictReader(io.StringIO(search.trials))
    found = [(int(row["number"]), float(row["score"])) for row in rows if row.get("score")]
    return [(number, score) for number, score in found if abs(number) < 1e9 and abs(score) < 1e30]


def draw_trace(search: Search, path: Path) -> bool:
    """Write the picture (PNG); False where there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = scores_of(search)
    if not points:
        return False
    numbers, scores = [n for n, _ in points], [s for _, s in points]
    best = [max(scores[: i + 1]) for i in range(len(scores))]
    figure = Figure(figsize=(7, 3.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(numbers, scores, s=14, color="#5b7fa6", label="an evaluated code")
    axes.step(numbers, best, where="post", color="#b4552d", label="best so far")
    for network in search.result["networks"]:
        if network["role"] != "found" and network["score"] is not None and abs(network["score"]) < 1e30:
            style = "--" if network["role"] == "uniform" else ":"
            axes.axhline(
                network["score"],
                color="#666666",
                linewidth=0.9,
                linestyle=style,
                label={"uniform": "uniformly rescaled original"}.get(network["role"], "original"),
            )
    axes.set_xlabel("evaluation")
    axes.set_ylabel("score")
    axes.grid(visible=True, linewidth=0.3)
    # Below the picture: no place inside is free in every search.
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    # Without the time and the library's version in it, the same search gives the same bytes.
    figure.savefig(path, metadata={"Software": None})
    return True
