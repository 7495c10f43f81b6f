"""The report of a compression run as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bsszoo.codes.families import family_of
from bsszoo.errors import RunError
from bsszoo.report.commands import Command, commands
from bsszoo.report.figures import (
    ABSENT,
    MACS_NAME,
    MACS_NOTE,
    TWO_MACS_NAME,
    TWO_MACS_NOTE,
    duration,
    human,
    latency,
    percent,
    score,
)
from bsszoo.report.plots import cost_against_score, progress_by_trial, stage_profile
from bsszoo.report.style import CSS
from bsszoo.report.whole import write_whole

if TYPE_CHECKING:
    # Only for its types: the package of the search loads scipy and Optuna, which no page needs.
    from bsszoo.search.result import CompressResult, NetworkRow, TrialRow


def write_report(result: CompressResult, path: str | os.PathLike[str]) -> Path:
    """The path of the report, written whole or not at all: a reader never sees half a page.

    Args:
        result: A finished run.
        path: The HTML file to write; an older one is replaced.

    Raises:
        RunError: The file cannot be written.
    """
    target = Path(path)
    text = render_page(result)
    try:
        write_whole(target, text)
    except OSError as error:
        raise RunError(f"Cannot write the report to {str(target)!r}: {error.strerror or error}. "
                       "Give a folder that exists and can be written.") from error
    return target


def render_page(result: CompressResult) -> str:
    """The report of a finished run as the text of an HTML file; equal results give equal text.

    The result needs at least one found network. Text that a user gave stands in the page as text, never as markup.
    """
    title = f"{family_of(result.family).title} at {human(result.budget.macs)} MACs"
    sections = [
        _headline(result, title),
        _caution(result),
        _tiles(result),
        "<h2>Networks</h2>", _networks(result),
        "<h2>Codes</h2>", _codes(result.networks),
        "<h2>Build and train them</h2>", _commands(result),
        "<h2>Plots</h2>", _plots(result),
        "<h2>The run</h2>", _facts(result),
        "<h2>Trials</h2>", _trials(result.trials),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)} - bsszoo</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


# -- sections -------------------------------------------------------------------------------------------------


def _headline(result: CompressResult, title: str) -> str:
    best, limit = result.best.cost, result.budget
    params = "" if limit.params is None else f" and {human(limit.params)} params"
    against = [f"{percent(best.macs, row.cost.macs)} of the MACs and {percent(best.params, row.cost.params)} of the "
               f"params of the {name} network" for name, row in _controls(result)]
    compared = f": {', and '.join(against)}" if against else ""
    return (
        f"<h1>{_text(title)}</h1>\n"
        f'<p class="soft">Block stacking style search from {_text(result.reference)}, under a budget of '
        f"{human(limit.macs)} {MACS_NAME} ({TWO_MACS_NAME}: {human(2 * limit.macs)}){params}</p>\n"
        f"<p>The best code found has <b>{human(best.macs)} {MACS_NAME}</b> ({TWO_MACS_NAME}: {human(best.macs2)}) and "
        f"<b>{human(best.params)} params</b>{_text(compared)}.</p>"
    )


def _caution(result: CompressResult) -> str:
    measures = f"<p><b>Score ({_text(result.evaluator.name)}):</b> {_text(result.evaluator.measures)}</p>"
    if not result.evaluator.caution:
        return measures
    return (f'<div class="caution" role="note">{measures}<p><b>Caution:</b> {_text(result.evaluator.caution)}</p>'
            "</div>")


def _tiles(result: CompressResult) -> str:
    best = result.best
    controls = _controls(result)

    def tile(name: str, figure: str, value: float, others: Sequence[tuple[float | None, str]]) -> str:
        lines = "".join(f"<span>{percent(value, other)} of {_text(label)} {shown}</span>"
                        for (label, _), (other, shown) in zip(controls, others, strict=True) if other)
        return f'<div class="tile"><span>{name}</span><b>{figure}</b>{lines}</div>'

    counted: tuple[tuple[str, Callable[[NetworkRow], int]], ...] = (
        (f"{MACS_NAME} ({MACS_NOTE})", lambda row: row.cost.macs),
        (f"{TWO_MACS_NAME} (two for a multiply-add)", lambda row: row.cost.macs2),
        ("params", lambda row: row.cost.params),
        ("activations", lambda row: row.cost.activations),
    )
    out = [tile(name, human(pick(best)), pick(best), [(pick(row), human(pick(row))) for _, row in controls])
           for name, pick in counted]
    if best.latency_ms is not None:
        out.append(tile("latency [ms]", latency(best.latency_ms), best.latency_ms,
                        [(row.latency_ms, latency(row.latency_ms)) for _, row in controls]))
    out.append(f'<div class="tile"><span>score</span><b>{score(best.score)}</b>' + "".join(
        f"<span>{_text(label)}: {score(row.score)}</span>" for label, row in controls) + "</div>")
    return f'<div class="tiles" aria-label="The best code found">{"".join(out)}</div>'


def _networks(result: CompressResult) -> str:
    rows = []
    for row in result.networks:
        cost = row.cost
        mark = ' class="found-first"' if row is result.best else ""
        rows.append(f'<tr{mark}><td class="name">{_text(row.label)}</td>' + _numbers(
            human(cost.macs), human(cost.macs2), human(cost.params), human(cost.activations), score(row.score),
            latency(row.latency_ms)) + "</tr>")
    head = ["Network", f"{MACS_NAME}", f"{TWO_MACS_NAME}", "Params", "Activations", "Score", "Latency [ms]"]
    measured = any(row.latency_ms is not None for row in result.networks)
    note = ("Latency: median time of one forward of one image on the machine of the run." if measured
            else "Latency was not measured.")
    return (_table(head, rows, left=1)
            + f'<p class="soft">{MACS_NAME}: {MACS_NOTE}. {TWO_MACS_NAME}: {TWO_MACS_NOTE}. '
              f"Activations: elements of the outputs of all convolutions. {note}</p>")


def _codes(rows: Sequence[NetworkRow]) -> str:
    items = "".join(f"<dt>{_text(row.label)}</dt><dd><code>{_text(str(row.code))}</code></dd>" for row in rows)
    return f'<p class="soft">A click selects a whole code.</p><dl class="codes">{items}</dl>'


def _commands(result: CompressResult) -> str:
    out = []
    for row in result.networks:
        if row.role == "found":
            first = " open" if row is result.best else ""
            blocks = "".join(_command(command) for command in commands(row.code))
            out.append(f"<details{first}><summary>{_text(row.label)}: {human(row.cost.macs)} {MACS_NAME}, "
                       f"{human(row.cost.params)} params</summary>{blocks}</details>")
    return "\n".join(out)


def _command(command: Command) -> str:
    note = f'<p class="soft">{_text(command.note)}</p>' if command.note else ""
    return f"<h3>{_text(command.title)}</h3>{note}<pre><code>{_text(command.text.rstrip())}</code></pre>"


def _plots(result: CompressResult) -> str:
    parts = (
        ("Cost against score", "", cost_against_score(result),
         "Each grey dot is one trial: right is dearer, up is a higher score. Numbered marks are the codes found, 1 the "
         "best; the dashed line is the budget, which no code may cross. Codes far left of it leave budget unused. "
         "A control outside the range stands at the edge, with its figures in the legend."),
        ("Progress by trial", "", progress_by_trial(result),
         "Trials in the order in which they were chosen; bands are batches. The first batch spreads over the space, "
         "later ones follow what was learnt. A line that still rises at the end says that more trials may help."),
        ("Stage profile", ' class="long"', stage_profile(result),
         "Where each network puts its channels, blocks and MACs. Three bars stand at each stage; where the third "
         "differs from the second, the search moved cost between stages instead of scaling all of them alike. Shares "
         "of MACs add up to 100% for each network. The code chooses the numbered stages, except stage 2 of MobileNetV2 "
         "and EfficientNet, which is fixed; widths of head and classifier (fc) are fixed too and not drawn."),
    )
    figures = "\n".join(f"<figure{place}><h3>{name}</h3>{plot}<figcaption>{caption}</figcaption></figure>"
                        for name, place, plot, caption in parts)
    return f'<div class="plots">{figures}</div>'


def _facts(result: CompressResult) -> str:
    budget = result.budget
    limits = f"at most {budget.macs:,} {MACS_NAME} ({TWO_MACS_NAME}: {2 * budget.macs:,})"
    if budget.min_macs:
        limits += f"; at least {budget.min_macs:,} {MACS_NAME}"
    if budget.params is not None:
        limits += f"; at most {budget.params:,} params"
    failed = sum(t.score is None for t in result.trials)
    facts = [
        ("Budget", _text(limits)),
        ("Caps", _list(result.caps)),
        ("Notes", _list(result.notes)),
        ("Evaluator", _text(result.evaluator.name)),
        ("Trials", f"{len(result.trials)}, of which {failed} failed"),
        ("Candidates", f"{result.candidates:,} codes that meet the budget and the caps"),
        ("Scale of the grid", f"{result.scale:g}"),
        ("Seed", _text(str(result.seed))),
        ("Duration", duration(result.seconds)),
        ("Versions", _text(", ".join(f"{name} {version}" for name, version in result.versions.items())) or ABSENT),
    ]
    return '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>"


def _trials(trials: Sequence[TrialRow]) -> str:
    failed = [t for t in trials if t.score is None]
    head = ["Trial", "Batch", MACS_NAME, TWO_MACS_NAME, "Params", "Activations", "Score", "Seconds", "Code"]
    rows = []
    for t in trials:
        numbers = _numbers(str(t.number), str(t.batch), human(t.cost.macs), human(t.cost.macs2), human(t.cost.params),
                           human(t.cost.activations), score(t.score), f"{t.seconds:.2f}")
        # Under the code and not in a last column, which would start beyond the edge of the screen.
        error = "" if t.score is not None else f'<div class="error">{_text(t.error or "no score")}</div>'
        mark = ' class="failed"' if t.score is None else ""
        rows.append(f"<tr{mark}>{numbers}<td><code>{_text(str(t.code))}</code>{error}</td></tr>")
    said = f", {len(failed)} of them failed" if failed else ""
    return (f"<details><summary>All {len(trials)} trials{said}</summary>"
            f'{_table(head, rows, left=0, right=8, tall=True)}</details>')


# -- parts ----------------------------------------------------------------------------------------------------


def _controls(result: CompressResult) -> list[tuple[str, NetworkRow]]:
    names = {"original": "original", "uniform": "uniformly rescaled"}
    return [(names[row.role], row) for row in result.networks if row.role in names]


def _table(head: Sequence[str], rows: Iterable[str], *, left: int, right: int | None = None,
           tall: bool = False) -> str:
    """A table that scrolls sideways when the screen is narrow; columns from ``left`` up to ``right`` hold numbers."""
    stop = len(head) if right is None else right
    cells = "".join(f'<th{" class=n" if left <= i < stop else ""} scope="col">{_text(name)}</th>'
                    for i, name in enumerate(head))
    shape = "wide tall" if tall else "wide"
    return (f'<div class="{shape}" tabindex="0"><table><thead><tr>{cells}</tr></thead>\n<tbody>'
            + "\n".join(rows) + "</tbody></table></div>")


def _numbers(*cells: str) -> str:
    return "".join(f'<td class="n">{_text(cell)}</td>' for cell in cells)


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>" if items else "none"


def _text(value: str) -> str:
    """Text as it may stand in HTML. What no file can hold (half a surrogate pair) becomes a question mark."""
    return html.escape(value.encode("utf-8", "replace").decode("utf-8"), quote=True)
