"""The report of a compression run as one HTML file that needs no network and no other file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bsszoo.codes.code import Code, common_form, entries_of
from bsszoo.codes.families import family_of
from bsszoo.errors import RunError
from bsszoo.files import write_whole
from bsszoo.report import figures
from bsszoo.report.commands import Command, commands_of, to_train, using
from bsszoo.report.model_plots import effect_curves, importance_bars, posterior_over_cost
from bsszoo.report.plots import (
    accuracy_over,
    cost_against_score,
    params_against_score,
    progress_by_trial,
    stage_profile,
)

if TYPE_CHECKING:
    from jinja2 import Environment

    # Only for its types: the package of the search loads scipy and Optuna, which no page needs.
    from bsszoo.search.insight import Insight
    from bsszoo.study.result import Result

# A card's drawing, in units that a phone shows at about a pixel each.
_LEFT, _ROW, _HEAD, _GAP, _WIDTH, _NUMBER = 22, 17, 18, 10, 300, 30
_CONTROLS: Final = {"original": "original", "uniform": "uniformly rescaled"}


def write_report(
    result: Result, path: str | os.PathLike[str], insight: Insight | None = None, *, note: str = ""
) -> Path:
    """The path of the report, written whole or not at all: a reader never sees half a page.

    Args:
        result: A run with at least one network of the role ``found``.
        path: The HTML file to write; an older one is replaced.
        insight: The insight of its results; None leaves out its plots.
        note: A sentence below the heading, such as that the search is still running.

    Raises:
        RunError: The file cannot be written.
    """
    return write_page(render_page(result, insight, note=note), path)


def write_page(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page whole or not at all; its path.

    Raises:
        RunError: The file cannot be written.
    """
    target = Path(path)
    try:
        write_whole(target, page)
    except OSError as error:
        raise RunError(
            f"Cannot write the report to {str(target)!r}: {error.strerror or error}. "
            "Give a folder that exists and can be written."
        ) from error
    return target


def render_page(result: Result, insight: Insight | None = None, *, note: str = "") -> str:
    """The report of a run as the text of an HTML file; equal results give equal text.

    The result needs at least one network of the role ``found``. A user's text is text in the page, never markup.
    """
    name = family_of(result.family).title if result.head is None else result.head.on(result.best.code).title
    listed = ("uniform", "found") if result.untrained else ("found",)
    evaluated = [(t.cost.macs, t.score) for t in result.trials if t.score is not None]
    rows = answer(result)
    return _render(
        "report.html",
        title=f"{name} at {figures.human(result.budget.macs)} MACs",
        result=result,
        note=note,
        answer=rows,
        timed=any(row["row"].latency_ms is not None for row in rows),
        next=_next(result, rows[-1]["row"].code),
        cards=cards(result),
        commands=[(row, commands_of(result, row.code)) for row in result.networks if row.role in listed],
        plots=plots(result),
        # A heuristic is a known formula of the code: a model that is fitted to it teaches nothing.
        learnt=""
        if result.evaluator.heuristic or (insight is None and len(evaluated) >= 2)
        else learnt(insight, evaluated),
    )


def _next(result: Result, take: Code) -> Sequence[Command]:
    """What to do with a result: use the network that has weights, train the candidates, or train the best."""
    if result.weights is not None:
        return using(result.weights)
    if result.untrained:
        return [] if result.train is None else [to_train(result.train)]
    return commands_of(result, take)


def answer(result: Result) -> list[dict[str, Any]]:
    """The rows of the page's first table: the original, the uniformly rescaled network, and last the one to take.

    Each has a title, the network's ``row``, whether it is ``taken``, ``accuracy`` and ``interval`` as text (None and
    ``-`` where nothing was trained), and ``costs``: value, the original's or None, and text of MACs, parameters and,
    where it was measured, latency.
    """
    take = result.set_apart
    controls = {row.role: row for row in result.networks if row.role in _CONTROLS}
    shown = [row for row in controls.values() if row.code != take.code] + [take]
    tested = {} if result.confirmation is None else {row.code: row for row in result.confirmation.rows}
    whole = controls.get("original")
    timed = any(row.latency_ms is not None for row in shown)
    rows = []
    for row in shown:
        accuracy, interval, _ = (
            figures.test_cells(tested[row.code]) if row.code in tested else (None, figures.ABSENT, "")
        )
        title = _CONTROLS.get(row.role, row.label)
        if row is take and result.recommendation:
            title = f"recommended: {title}"
        figured = [("macs", figures.human), ("params", figures.human)]
        costs = [
            (getattr(row.cost, kind), None if whole is None or row is whole else getattr(whole.cost, kind), text)
            for kind, text in ((kind, form(getattr(row.cost, kind))) for kind, form in figured)
        ]
        if timed:
            before = None if whole is None or row is whole or row.latency_ms is None else whole.latency_ms
            costs.append((row.latency_ms, before, figures.latency(row.latency_ms)))
        rows.append(
            {
                "title": title,
                "row": row,
                "taken": row is take,
                "accuracy": accuracy,
                "interval": interval,
                "costs": costs,
            }
        )
    return rows


def plots(result: Result) -> dict[str, Any]:
    """The plots of the trials, each an ``<svg>`` element, and ``accuracy``, names and plots of the networks trained."""
    accuracy = []
    if result.confirmation is not None:
        accuracy = [("MACs", accuracy_over(result, "macs")), ("latency", accuracy_over(result, "latency"))]
    return {
        "accuracy": [(f"Accuracy over {name}", plot) for name, plot in accuracy if plot],
        "progress": progress_by_trial(result),
        "profile": stage_profile(result),
        "macs": cost_against_score(result),
        "params": params_against_score(result),
    }


def learnt(insight: Insight | None, evaluated: Sequence[tuple[int, float]]) -> str:
    """The part of the page on the insight of the results, and how reliable it is.

    Args:
        insight: The insight; None where there are too few results.
        evaluated: MACs and score of each evaluated code, for the plot over the cost.
    """
    if insight is None or insight.flat:
        return _render("learnt.html", insight=insight)
    return _render(
        "learnt.html",
        insight=insight,
        importance=importance_bars(insight),
        posterior="" if insight.cost is None else posterior_over_cost(insight, evaluated),
        effects=effect_curves(insight),
    )


def cards(result: Result) -> str:
    """The networks of the closing table side by side, each a card with a bar for each entry of its code.

    Bars of one column share their scale over all cards; the thin mark on a bar is the uniformly rescaled network's.
    """
    family = family_of(result.family)
    form = common_form(row.code for row in result.networks)
    titles = [family.titles[c][0].removesuffix(" width") for c in "CL" + form[:1]]  # a column is narrow
    column = (_WIDTH - _LEFT - _GAP * (len(titles) - 1)) / len(titles)

    def entries(row: Any, k: int) -> tuple[int, ...]:
        return entries_of(row.code, form)[k * family.stages : (k + 1) * family.stages]

    uniform = next((row for row in result.networks if row.role == "uniform"), None)
    drawn = []
    for row in result.networks:
        bars = []
        for k, title in enumerate(titles):
            unit = (column - _NUMBER) / max(max(entries(one, k)) for one in result.networks)
            marks = [None] * family.stages if uniform is None else [unit * value for value in entries(uniform, k)]
            values = [
                {"value": value, "y": _HEAD + _ROW * i, "length": unit * value, "mark": mark}
                for i, (value, mark) in enumerate(zip(entries(row, k), marks, strict=True))
            ]
            bars.append((title, _LEFT + k * (column + _GAP), values))
        drawn.append((row, bars))
    return _render(
        "cards.html",
        rows=drawn,
        take=result.set_apart,
        stages=[(stage, _HEAD + _ROW * i) for i, stage in enumerate(family.numbers)],
        width=_WIDTH,
        height=_HEAD + _ROW * family.stages,
        counted_at=figures.counted_at(row.code.image_size for row in result.networks),
    )


def _render(template: str, **values: Any) -> str:
    """A template with these values. What UTF-8 cannot encode (half a surrogate pair) becomes a question mark."""
    return _environment().get_template(template).render(values).encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("bsszoo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "human",
        "score",
        "latency",
        "percent",
        "duration",
        "test_cells",
        "noise_words",
        "quantised_words",
        "megabytes",
    )
    made.filters |= {name: getattr(figures, name) for name in names} | {"exact": "{:,}".format}
    made.globals |= {
        "MACS": figures.MACS_NAME,
        "MACS_NOTE": figures.MACS_NOTE,
        "TWO_MACS": figures.TWO_MACS_NAME,
        "TWO_MACS_NOTE": figures.TWO_MACS_NOTE,
    }
    return made
