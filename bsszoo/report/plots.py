"""The plots of a compression's trials and networks, each an ``<svg>`` element as text.

Colours are Okabe and Ito's, which stay apart for colour-blind readers, and every kind of mark has a shape of its own
as well. No text of a user is in a plot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from bsszoo.codes.code import Code
from bsszoo.codes.cost import StageCost, stage_costs
from bsszoo.codes.detector import backbone_stages
from bsszoo.codes.families import family_of
from bsszoo.report.figures import human, score
from bsszoo.report.svg import INK, style, svg_text, with_hints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    # Only for its types: the package of the search loads scipy and Optuna, which no table needs.
    from bsszoo.study.result import NetworkRow, Result, TrialRow

FOUND: Final = "#D55E00"
UNIFORM: Final = "#009E73"
ORIGINAL: Final = "#0072B2"
TRIAL: Final = "#808890"
#: A cost: a count, or a time.
Number = TypeVar("Number", int, float)
# Colour and mark of a trained network by its role.
_MARKS: Final = {"original": (ORIGINAL, "s"), "uniform": (UNIFORM, "^"), "random": (TRIAL, "d"), "found": (FOUND, "o")}
#: Most trials whose marks say what they are, on the page.
_MOST_HINTS: Final = 400

#: Width of every figure [inch]: at 72 to the inch about a phone's width, so that letters stay readable there.
WIDTH: Final = 5.4

#: Label, colour, hatch and stages of one network in the stage profile.
_Bars: TypeAlias = "tuple[str, str, str, tuple[StageCost, ...]]"

_TICKS: Final = {
    "conv1": "stem",
    "conv_stem": "stem",
    "stem": "stem",
    "conv_head": "head",
    "fc": "fc",
    "classifier": "fc",
    "head.fc": "fc",
}


def cost_against_score(result: Result) -> str:
    """Every trial's score over its MACs, with the best codes, the controls and the limits of the budget.

    Trials without a score are crosses at the foot; a control beyond the trials' range is named at the edge.
    """
    with style():
        figure, axes = _figure(4.5)
        done = _scored(result.trials)
        look: dict[str, Any] = {"color": TRIAL, "alpha": 0.75, "markersize": 4.5, "markeredgewidth": 0}
        hinted = done[:_MOST_HINTS]
        for i, t in enumerate(hinted):
            (drawn,) = axes.plot([t.cost.macs / 1e6], [t.score], "o", **look, label=None if i else "trial")
            drawn.set_gid(f"trial-{i}")
        more = done[_MOST_HINTS:]
        axes.plot([t.cost.macs / 1e6 for t in more], [t.score for t in more], "o", **look)
        low, high = _macs_range(result)
        axes.set_xlim(low, high)
        axes.axvline(
            result.budget.macs / 1e6,
            color=INK,
            linestyle="--",
            linewidth=1.3,
            label=f"budget {human(result.budget.macs)}",
        )
        if result.budget.min_macs and result.budget.min_macs / 1e6 > low:
            axes.axvline(
                result.budget.min_macs / 1e6,
                color=INK,
                linestyle=":",
                linewidth=1.3,
                label=f"lower limit {human(result.budget.min_macs)}",
            )
        _front(axes, [(t.cost.macs, t.score) for t in done])
        best = [row for row in result.networks if row.role == "found"]
        # The best is drawn last, above the others.
        for rank in range(len(best), 0, -1):
            row = best[rank - 1]
            if row.score is not None:
                _badge(axes, row.cost.macs / 1e6, row.score, str(rank), label="best codes" if rank == 1 else None)
        _without_score(axes, result.trials, lambda t: t.cost.macs / 1e6)
        axes.set_xlabel("MACs [million]")
        axes.set_ylabel("score")
        axes.margins(y=0.12)
        for row in result.networks:
            if row.role != "found" and row.score is not None:
                _control(axes, row, low, high)
        above = axes.secondary_xaxis("top", functions=(lambda x: 2 * x, lambda x: x / 2))
        above.set_xlabel("2 x MACs [million]")
        above.spines["top"].set_visible(False)
        legend(figure, axes)
        title = (
            f"Score over MACs of {len(done)} trials and the {len(best)} best codes, under a budget of "
            f"{human(result.budget.macs)} MACs; the best code has {human(result.best.cost.macs)} MACs and the "
            f"score {score(result.best.score)}."
        )
        hints = [f"trial {t.number}: score {score(t.score)}, {human(t.cost.macs)} MACs, {t.code}" for t in hinted]
        return with_hints(svg_text(figure, prefix="cost-score", title=title), "cost-score-trial", hints)


def params_against_score(result: Result) -> str:
    """Every trial's score over its parameters, with the Pareto front, the best code and the limit when there is one."""
    with style():
        figure, axes = _figure(3.4)
        done = _scored(result.trials)
        axes.plot(
            [t.cost.params / 1e6 for t in done],
            [t.score for t in done],
            "o",
            color=TRIAL,
            alpha=0.75,
            markersize=4,
            markeredgewidth=0,
            label="trial",
        )
        front = _front(axes, [(t.cost.params, t.score) for t in done])
        if result.budget.params is not None:
            axes.axvline(
                result.budget.params / 1e6,
                color=INK,
                linestyle="--",
                linewidth=1.3,
                label=f"limit {human(result.budget.params)}",
            )
        best = result.best
        if best.score is not None:
            _badge(axes, best.cost.params / 1e6, best.score, "1", label="best code")
        axes.set_xlabel("params [million]")
        axes.set_ylabel("score")
        axes.margins(y=0.12)
        legend(figure, axes)
        title = f"Score over parameters of {len(done)} trials; {len(front)} of them are on the Pareto front."
        return svg_text(figure, prefix="params-score", title=title)


def accuracy_over(result: Result, kind: Literal["macs", "latency"]) -> str:
    """The accuracy of each network that was trained afresh, over its MACs or its latency; empty with fewer than two.

    Bars are 95% intervals; the line joins those that no other one beats in both.
    """
    confirmation = result.confirmation
    assert confirmation is not None
    times = {row.code: row.latency_ms for row in result.networks}
    unit = 1e6 if max(row.cost.macs for row in confirmation.rows) < 10**10 else 1e9
    points = []
    for row in confirmation.rows:
        x = row.cost.macs / unit if kind == "macs" else times.get(row.code)
        if row.tests and x is not None:
            points.append((x, sum(row.tests) / len(row.tests), row))
    if len(points) < 2:
        return ""
    with style():
        figure, axes = _figure(3.6)
        named: set[str] = set()
        hints: list[str] = []
        for x, mean, row in points:
            color, marker = _MARKS[row.role]
            low, high = (mean, mean) if row.low is None or row.high is None else (row.low, row.high)
            (drawn,) = axes.plot([x], [mean], marker, color=color, markersize=9, markeredgecolor="white", zorder=3)
            if row.role not in named:
                drawn.set_label("best codes" if row.role == "found" else row.role)
                named.add(row.role)
            drawn.set_gid(f"point-{len(hints)}")
            hints.append(f"{row.role}: {mean:.2f}% ({low:.2f} to {high:.2f}), {human(row.cost.macs)} MACs, {row.code}")
            axes.plot([x, x], [low, high], "-", color=color, linewidth=1.6)
        front = pareto_front([(x, mean) for x, mean, _ in points])
        axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1, zorder=1)
        prefix = "million" if unit == 1e6 else "billion"
        axes.set_xlabel(f"MACs [{prefix}]" if kind == "macs" else "latency [ms]")
        axes.set_ylabel("accuracy [%]")
        axes.margins(x=0.08, y=0.12)
        legend(figure, axes)
        title = f"Accuracy of {len(points)} trained networks over their {'MACs' if kind == 'macs' else 'latency'}."
        return with_hints(svg_text(figure, prefix=f"accuracy-{kind}", title=title), f"accuracy-{kind}-point", hints)


def pareto_front(points: Sequence[tuple[Number, float | None]]) -> list[tuple[Number, float]]:
    """The points (cost, score) that no other one beats in both: cheapest first, each costlier and better than the last.

    Example:
        >>> pareto_front([(3, 1.0), (1, 0.5), (2, 0.4), (3, 0.9), (9, None)])
        [(1, 0.5), (3, 1.0)]
    """
    front: list[tuple[Number, float]] = []
    for cost, value in sorted(((c, v) for c, v in points if v is not None), key=lambda p: (p[0], -p[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def progress_by_trial(result: Result) -> str:
    """Every trial's score in the order of the trials, the best so far as a line, batches as bands.

    Trials without a score are crosses at the foot.
    """
    with style():
        figure, axes = _figure(4.0)
        _bands(axes, result.trials)
        done = sorted(_scored(result.trials), key=lambda t: t.number)
        axes.plot(
            [t.number for t in done],
            [t.score for t in done],
            "o",
            color=TRIAL,
            alpha=0.85,
            markersize=4.5,
            markeredgewidth=0,
            label="trial",
        )
        best: list[float] = []
        for trial in done:
            best.append(max(best[-1], trial.score or 0.0) if best else trial.score or 0.0)
        if done:
            last = max(t.number for t in result.trials)
            axes.step(
                [t.number for t in done] + [last + 0.5],
                [*best, best[-1]],
                where="post",
                color=FOUND,
                linewidth=2,
                label="best so far",
            )
        for role, color, dashes, name in (
            ("uniform", UNIFORM, "-.", "uniformly rescaled"),
            ("original", ORIGINAL, ":", "original"),
        ):
            control = _first(result, role)
            if control is not None and control.score is not None:
                axes.axhline(control.score, color=color, linestyle=dashes, linewidth=1.5, label=name)
        _without_score(axes, result.trials, lambda t: t.number)
        numbers = [t.number for t in result.trials] or [0]
        axes.set_xlim(min(numbers) - 0.8, max(numbers) + 0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("trial number")
        axes.set_ylabel("score")
        axes.margins(y=0.12)
        legend(figure, axes)
        top = score(max(best)) if best else "none"
        failed, pruned = (sum(t.state == state for t in result.trials) for state in ("failed", "pruned"))
        title = f"Score of each of {len(result.trials)} trials in order; the best score is {top}, {failed} failed"
        title += f" and {pruned} were pruned." if pruned else "."
        return svg_text(figure, prefix="progress", title=title)


def stage_profile(result: Result) -> str:
    """The best code beside the original and the uniformly rescaled network: width, depth, MACs of each stage.

    Bars of one stage are side by side. The MACs of a stage are a share of its network's.
    """
    networks = [
        ("original", ORIGINAL, "", _first(result, "original")),
        ("uniformly rescaled", UNIFORM, "//", _first(result, "uniform")),
        ("best code", FOUND, "", result.best),
    ]
    with style():
        figure, _ = _figure(8.2, empty=True)
        panels: Any = figure.subplots(3, 1)
        rows: list[_Bars] = [
            (label, color, hatch, _stages(result, row.code)) for label, color, hatch, row in networks if row is not None
        ]
        family = family_of(result.family)
        blocks = range(2, family.numbers.stop)
        totals = [sum(s.cost.macs for s in stages) for *_, stages in rows]
        _bars(panels[0], rows, lambda s, _: s.width if s.number < blocks.stop else 0)
        _bars(panels[1], rows, lambda s, _: s.depth if s.number in blocks else 0)
        _bars(panels[2], rows, lambda s, i: 100 * s.cost.macs / totals[i])
        for axes, name in zip(panels, ("width [channels]", "depth [blocks]", "share of MACs [%]"), strict=True):
            axes.set_title(name, loc="left", fontsize=12, fontweight="bold")
            axes.grid(visible=False, axis="x")
        panels[1].yaxis.get_major_locator().set_params(integer=True)
        panels[2].set_xlabel("stage")
        legend(figure, panels[0])
        best = result.best
        title = (
            f"Width, depth and share of MACs of each stage of the best code, {human(best.cost.macs)} MACs, "
            "beside the controls."
        )
        return svg_text(figure, prefix="profile", title=title)


def _figure(height: float, *, empty: bool = False) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, None if empty else figure.add_subplot()


def _scored(trials: Sequence[TrialRow]) -> list[TrialRow]:
    return [t for t in trials if t.score is not None]


def _stages(result: Result, code: Code) -> tuple[StageCost, ...]:
    return stage_costs(code) if result.head is None else backbone_stages(code)


def _first(result: Result, role: str) -> NetworkRow | None:
    return next((row for row in result.networks if row.role == role), None)


def _macs_range(result: Result) -> tuple[float, float]:
    """The MACs [million] that the plot spans: trials, best codes, budget; the uniform network when it is near."""
    inside = [t.cost.macs for t in result.trials] + [result.budget.macs]
    inside += [row.cost.macs for row in result.networks if row.role == "found"]
    low, high = min(inside), max(inside)
    reach = max(high - low, 0.02 * high)
    for row in result.networks:
        # A control far away (the original is at twice the budget and more) would press all trials into one line.
        if row.role != "found" and low - reach <= row.cost.macs <= high + reach:
            low, high = min(low, row.cost.macs), max(high, row.cost.macs)
    margin = 0.06 * max(high - low, 0.02 * high)
    return (low - margin) / 1e6, (high + margin) / 1e6


def _control(axes: Axes, row: NetworkRow, low: float, high: float) -> None:
    color, marker = (ORIGINAL, "s") if row.role == "original" else (UNIFORM, "^")
    name = "original" if row.role == "original" else "uniformly rescaled"
    x, y = row.cost.macs / 1e6, row.score or 0.0
    if low <= x <= high:
        axes.plot([x], [y], marker, color=color, markersize=9, markeredgecolor="white", label=name, linestyle="none")
        return
    # At the edge it must not move the axes: its score too can lie far from the trials'.
    bottom, top = axes.get_ylim()
    right = x > high
    axes.plot(
        [high if right else low],
        [min(max(y, bottom), top)],
        ">" if right else "<",
        color=color,
        markersize=9,
        clip_on=False,
        linestyle="none",
        label=f"{name}: beyond, {human(row.cost.macs)}, {score(row.score)}",
    )
    axes.set_ylim(bottom, top)


def _front(axes: Axes, points: Sequence[tuple[int, float | None]]) -> list[tuple[int, float]]:
    front = pareto_front(points)
    if front:
        axes.step(
            [c / 1e6 for c, _ in front],
            [v for _, v in front],
            where="post",
            color=FOUND,
            linewidth=1.4,
            marker="D",
            markersize=4.5,
            markerfacecolor="none",
            label="Pareto front",
        )
    return front


def _badge(axes: Axes, x: float, y: float, text: str, *, label: str | None) -> None:
    axes.plot(
        [x],
        [y],
        "o",
        color=FOUND,
        markersize=13,
        markeredgecolor="white",
        markeredgewidth=0.8,
        label=label,
        linestyle="none",
    )
    axes.annotate(text, (x, y), ha="center", va="center_baseline", color="white", fontsize=9, fontweight="bold")


def _without_score(axes: Axes, trials: Sequence[TrialRow], x: Callable[[TrialRow], float]) -> None:
    """Failed and pruned trials at the foot of the axes: the reports of a pruned one are no score."""
    for state, marker in (("failed", "x"), ("pruned", "v")):
        xs = [x(t) for t in trials if t.state == state]
        if xs:
            axes.plot(
                xs,
                [0.025] * len(xs),
                marker,
                color=INK,
                markersize=6,
                markeredgewidth=1.5,
                fillstyle="none",
                clip_on=False,
                transform=axes.get_xaxis_transform(),
                label=state,
            )


def _bands(axes: Axes, trials: Sequence[TrialRow]) -> None:
    """A band behind every second batch, and each batch's number above it."""
    batches: dict[int, list[int]] = {}
    for trial in trials:
        batches.setdefault(trial.batch, []).append(trial.number)
    # More than about twelve numbers would run into each other.
    every = -(-len(batches) // 12)
    for i, (batch, numbers) in enumerate(sorted(batches.items())):
        left, right = min(numbers) - 0.5, max(numbers) + 0.5
        if i % 2 == 0:
            axes.axvspan(left, right, color=TRIAL, alpha=0.13, linewidth=0)
        if i % every == 0:
            axes.text(
                (left + right) / 2,
                1.01,
                f"batch {batch}" if len(batches) <= 5 else str(batch),
                ha="center",
                va="bottom",
                fontsize=10,
                transform=axes.get_xaxis_transform(),
            )


def _bars(axes: Axes, rows: Sequence[_Bars], value: Callable[[StageCost, int], float]) -> None:
    """A group of bars for each stage, one for each network; ``value`` takes a stage and its network's index."""
    names = [s.name for s in rows[-1][3]]
    width = 0.8 / len(rows)
    for i, (label, color, hatch, stages) in enumerate(rows):
        by_name = {s.name: value(s, i) for s in stages}
        axes.bar(
            [x + (i - (len(rows) - 1) / 2) * width for x in range(len(names))],
            [by_name[n] for n in names],
            width * 0.92,
            color=color,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            label=label,
        )
    axes.set_xticks(range(len(names)), [_TICKS.get(s.name, str(s.number)) for s in rows[-1][3]])
    axes.tick_params(axis="x", length=0)


def legend(figure: Figure, axes: Axes) -> None:
    """The names of an axes' marks, above it."""
    # Above the axes: inside them it would hide points, and beside them there is no room on a phone.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2 if len(labels) > 3 else 3,
        columnspacing=1.2,
        handletextpad=0.5,
    )
