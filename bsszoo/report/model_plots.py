"""The plots of a search's insight: the model's posterior over cost, shares of entries, their curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bsszoo.report.figures import MACS_NAME, score
from bsszoo.report.plots import FOUND, ORIGINAL, TRIAL, UNIFORM, WIDTH, legend
from bsszoo.report.svg import INK, style, svg_text

if TYPE_CHECKING:
    # Only for its types: the package of the search loads scipy and Optuna, which no plot needs.
    from bsszoo.search.insight import Effect, Insight, Share

# Candidates of the posterior that are drawn: more run into one band and make the page heavy.
_DRAWN: Final = 300
# Longest name of a parameter in a plot.
_NAME: Final = 18
_COLUMNS: Final = 3

_LABELS: Final = {"macs": MACS_NAME, "params": "Params", "additive": "all, each alone", "together": "combinations"}


def posterior_over_cost(insight: Insight, evaluated: Sequence[tuple[int, float]]) -> str:
    """The model's expected score of a sample of candidates over their MACs, with the evaluated codes on top.

    Args:
        insight: The insight, with a view of the cost.
        evaluated: MACs and score of each evaluated code.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    view = insight.cost
    assert view is not None
    with style():
        figure = Figure(figsize=(WIDTH, 4.5), layout="constrained")
        axes: Any = figure.add_subplot()
        step = max(1, -(-len(view.macs) // _DRAWN))
        x, mean, half = view.macs[::step] / 1e6, view.mean[::step], view.deviation[::step]
        axes.add_collection(
            LineCollection(
                [[(a, m - h), (a, m + h)] for a, m, h in zip(x, mean, half, strict=True)],
                colors=ORIGINAL,
                linewidths=0.8,
                alpha=0.22,
            )
        )
        axes.plot(
            x, mean, "o", color=ORIGINAL, alpha=0.6, markersize=2.6, markeredgewidth=0, label="expected, and 1 s.d."
        )
        # The envelope goes to the most expensive candidate, at the value of its last rise.
        end = max(int(view.macs.max()), int(view.best_macs[-1])) / 1e6
        steps = [*(view.best_macs / 1e6), end]
        axes.fill_between(
            steps,
            [*view.best_low, view.best_low[-1]],
            [*view.best_high, view.best_high[-1]],
            step="post",
            color=UNIFORM,
            alpha=0.22,
            linewidth=0,
            label="its 90% interval",
        )
        axes.step(
            steps, [*view.best, view.best[-1]], where="post", color=UNIFORM, linewidth=2, label="best at this cost"
        )
        axes.plot(
            [m / 1e6 for m, _ in evaluated],
            [v for _, v in evaluated],
            "o",
            color=FOUND,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label="evaluated",
        )
        axes.set_xlabel("MACs [million]")
        axes.set_ylabel("score")
        axes.margins(y=0.08)
        axes.autoscale_view()
        legend(figure, axes)
        title = (
            f"Expected score of {len(view.macs)} candidates over MACs by a model of {insight.results} results; "
            f"the best expected score is {score(float(view.best[-1]))}."
        )
        return svg_text(figure, prefix="posterior", title=title)


def importance_bars(insight: Insight) -> str:
    """How much of the score's variance each entry explains alone, with intervals; costs and sums beneath."""
    from matplotlib.figure import Figure

    entries = sorted(insight.importance, key=lambda s: -s.median)
    rest = [s for s in (insight.additive, insight.together) if s is not None]
    # None leaves a gap between the entries, the costs and the sums.
    rows: list[tuple[Share, str] | None] = [(s, FOUND) for s in entries]
    for group, color in ((list(insight.costs), ORIGINAL), (rest, TRIAL)):
        rows += [None, *((s, color) for s in group)] if group else []
    with style():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.27 * len(rows)), layout="constrained")
        axes: Any = figure.add_subplot()
        positions, names = [], []
        for y, row in enumerate(rows):
            if row is None:
                continue
            share, color = row
            axes.barh(y, 100 * share.median, 0.66, color=color, linewidth=0)
            axes.errorbar(
                100 * share.median,
                y,
                color=INK,
                capsize=2.5,
                linewidth=1.2,
                fmt="none",
                xerr=[[100 * (share.median - share.low)], [100 * (share.high - share.median)]],
            )
            positions.append(y)
            names.append(plain(_LABELS.get(share.name, share.name) if color != FOUND else share.name))
        axes.set_yticks(positions, names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the variance [%]")
        largest = ", ".join(
            f"{s.name} {100 * s.median:.0f}% ({100 * s.low:.0f} to {100 * s.high:.0f}%)" for s in entries[:3]
        )
        title = f"Share of the score's variance that each of {len(entries)} entries explains alone; most: {largest}."
        return svg_text(figure, prefix="importance", title=title)


def effect_curves(insight: Insight) -> str:
    """A small curve for each entry: the model's average score at each value, with a 90% band."""
    from matplotlib.figure import Figure

    effects = insight.effects
    lines = -(-len(effects) // _COLUMNS)
    with style():
        figure = Figure(figsize=(WIDTH, 0.5 + 1.15 * lines), layout="constrained")
        panels: Any = figure.subplots(lines, _COLUMNS, sharey=True, squeeze=False)
        for axes, effect in zip(panels.flat, effects, strict=False):
            _curve(axes, effect)
        for axes in panels.flat[len(effects) :]:
            axes.set_visible(False)
        title = (
            f"The model's average score by the value of each of {len(effects)} entries, with 90% bands; all on "
            "one scale."
        )
        return svg_text(figure, prefix="effects", title=title)


def _curve(axes: Any, effect: Effect) -> None:
    values = [float(v) for v in effect.values]
    axes.fill_between(values, effect.low, effect.high, color=FOUND, alpha=0.25, linewidth=0)
    axes.plot(values, effect.mean, color=FOUND, linewidth=1.6, marker="o", markersize=2.6)
    axes.set_title(plain(effect.name), fontsize=11, fontweight="bold", loc="left", pad=2)
    if len(values) > 1:
        axes.set_xticks([values[0], values[-1]], [f"{values[0]:.4g}", f"{values[-1]:.4g}"])
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    else:
        axes.set_xticks(values, [f"{values[0]:.4g}"])
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=9.5, length=2, pad=2)


def plain(name: str) -> str:
    """A user's name as text for a plot: short, and a dollar sign begins no formula."""
    text = "".join(c if c.isprintable() else "?" for c in name.encode("utf-8", "replace").decode("utf-8"))
    text = text if len(text) <= _NAME else text[: _NAME - 2] + ".."
    return text.replace("$", r"\$")
