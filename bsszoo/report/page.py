"""The report of a compression run as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bsszoo.codes.families import family_of
from bsszoo.report.commands import Command, commands_of
from bsszoo.report.figures import (
    ABSENT,
    MACS_NAME,
    MACS_NOTE,
    TWO_MACS_NAME,
    TWO_MACS_NOTE,
    duration,
    human,
    latency,
    noise_words,
    percent,
    score,
    test_cells,
)
from bsszoo.report.learnt import learnt
from bsszoo.report.markup import bullets, document, facts, figures, numbers, table, text, write_page
from bsszoo.report.plots import cost_against_score, params_against_score, progress_by_trial, stage_profile
from bsszoo.report.side_by_side import cards

if TYPE_CHECKING:
    # Only for its types: the package of the search loads scipy and Optuna, which no page needs.
    from bsszoo.search.insight import Insight
    from bsszoo.study.result import ConfirmedRow, NetworkRow, Result, TrialRow


def write_report(
    result: Result, path: str | os.PathLike[str], insight: Insight | None = None, *, note: str = ""
) -> Path:
    """The path of the report, written whole or not at all: a reader never sees half a page.

    Args:
        result: A run with at least one found network.
        path: The HTML file to write; an older one is replaced.
        insight: What the results teach; None leaves its plots out.
        note: A sentence below the heading, such as that the search is still running.

    Raises:
        RunError: The file cannot be written.
    """
    return write_page(render_page(result, insight, note=note), path)


def render_page(result: Result, insight: Insight | None = None, *, note: str = "") -> str:
    """The report of a run as the text of an HTML file; equal results give equal text.

    The result needs at least one found network. Text that a user gave stands in the page as text, never as markup.
    """
    name = family_of(result.family).title if result.head is None else result.head.on(result.best.code).title
    title = f"{name} at {human(result.budget.macs)} MACs"
    return document(
        title,
        [
            _headline(result, title),
            f'<p class="note">{text(note)}</p>' if note else "",
            _caution(result),
            _tiles(result),
            *_trained(result),
            "<h2>Networks</h2>",
            _networks(result),
            "<h2>Side by side</h2>",
            _side_by_side(result),
            "<h2>Codes</h2>",
            _codes(result, result.networks),
            "<h2>Build and train them</h2>",
            _commands(result),
            "<h2>The trials</h2>",
            _plots(result),
            *_learnt(result, insight),
            "<h2>The run</h2>",
            _facts(result),
            "<h2>All trials</h2>",
            _trials(result.trials),
        ],
    )


# -- sections -------------------------------------------------------------------------------------------------


def _headline(result: Result, title: str) -> str:
    best, limit = result.best.cost, result.budget
    params = "" if limit.params is None else f" and {human(limit.params)} params"
    against = [
        f"{percent(best.macs, row.cost.macs)} of the MACs and {percent(best.params, row.cost.params)} of the "
        f"params of the {name} network"
        for name, row in _controls(result)
    ]
    compared = f": {', and '.join(against)}" if against else ""
    return (
        f"<h1>{text(title)}</h1>\n"
        f'<p class="soft">Block stacking style search from {text(result.reference)}, under a budget of '
        f"{human(limit.macs)} {MACS_NAME} ({TWO_MACS_NAME}: {human(2 * limit.macs)}){params}</p>\n"
        f"<p>The best code found has <b>{human(best.macs)} {MACS_NAME}</b> ({TWO_MACS_NAME}: {human(best.macs2)}) and "
        f"<b>{human(best.params)} params</b>{text(compared)}.</p>"
    )


def _caution(result: Result) -> str:
    measures = f"<p><b>Score ({text(result.evaluator.name)}):</b> {text(result.evaluator.measures)}</p>"
    if not result.evaluator.caution:
        return measures
    return f'<div class="caution" role="note">{measures}<p><b>Caution:</b> {text(result.evaluator.caution)}</p></div>'


def _tiles(result: Result) -> str:
    best = result.best
    controls = _controls(result)

    def tile(name: str, figure: str, value: float, others: Sequence[tuple[float | None, str]]) -> str:
        lines = "".join(
            f"<span>{percent(value, other)} of {text(label)} {shown}</span>"
            for (label, _), (other, shown) in zip(controls, others, strict=True)
            if other
        )
        return f'<div class="tile"><span>{name}</span><b>{figure}</b>{lines}</div>'

    counted: tuple[tuple[str, Callable[[NetworkRow], int]], ...] = (
        (f"{MACS_NAME} ({MACS_NOTE})", lambda row: row.cost.macs),
        (f"{TWO_MACS_NAME} (two for a multiply-add)", lambda row: row.cost.macs2),
        ("params", lambda row: row.cost.params),
        ("activations", lambda row: row.cost.activations),
    )
    out = [
        tile(name, human(pick(best)), pick(best), [(pick(row), human(pick(row))) for _, row in controls])
        for name, pick in counted
    ]
    if best.latency_ms is not None:
        out.append(
            tile(
                "latency [ms]",
                latency(best.latency_ms),
                best.latency_ms,
                [(row.latency_ms, latency(row.latency_ms)) for _, row in controls],
            )
        )
    out.append(
        f'<div class="tile"><span>score</span><b>{score(best.score)}</b>'
        + "".join(f"<span>{text(label)}: {score(row.score)}</span>" for label, row in controls)
        + "</div>"
    )
    return f'<div class="tiles" aria-label="The best code found">{"".join(out)}</div>'


def _networks(result: Result) -> str:
    rows = []
    told = any(row.predicted_ms is not None for row in result.networks)
    for row in result.networks:
        cost = row.cost
        mark = ' class="found-first"' if row is result.best else ""
        rows.append(
            f'<tr{mark}><td class="name">{text(row.label)}</td>'
            + numbers(
                human(cost.macs),
                human(cost.macs2),
                human(cost.params),
                human(cost.activations),
                score(row.score),
                *([latency(row.predicted_ms)] if told else []),
                latency(row.latency_ms),
            )
            + "</tr>"
        )
    head = [
        "Network",
        f"{MACS_NAME}",
        f"{TWO_MACS_NAME}",
        "Params",
        "Activations",
        "Score",
        *(["Limited [ms]"] if told else []),
        "Latency [ms]",
    ]
    measured = any(row.latency_ms is not None for row in result.networks)
    note = (
        "Latency: median time of one forward of one image on the machine of the run."
        if measured
        else "Latency was not measured."
    )
    note += " Limited: what the run's model of latency says, which the limit holds for." if told else ""
    return (
        table(head, rows, left=1) + f'<p class="soft">{MACS_NAME}: {MACS_NOTE}. {TWO_MACS_NAME}: {TWO_MACS_NOTE}. '
        f"Activations: elements of the outputs of all convolutions. {note}</p>"
    )


def _trained(result: Result) -> list[str]:
    """What was trained after the search, and the noise that trainings showed in it."""
    parts = []
    found = result.confirmation
    if found is not None:
        rows = []
        for row in found.rows:
            mark = ' class="found-first"' if row.role == "found" else ""
            mean, interval, each = test_cells(row)
            rows.append(
                f'<tr{mark}><td class="name">{text(row.label)}</td>'
                f"{numbers(human(row.cost.macs), mean, interval)}<td>{text(each)}</td></tr>"
            )
        parts += [
            "<h2>Confirmed on unseen pictures</h2>",
            "".join(f"<p><b>{text(sentence)}</b></p>" for sentence in found.verdicts),
            table(["Network", MACS_NAME, "Mean", "95% interval", "Each training"], rows, left=1, right=4),
            f'<p class="soft">{text(found.measures)}. The score of the search itself flatters the code that it '
            "found: it is the best of many, partly by luck. Random codes are drawn from the candidates; "
            "intervals are over trainings, the pictures are the same for all.</p>",
            _codes(result, [row for row in found.rows if row.role == "random"]),
        ]
    if result.finished is not None:
        parts += [
            "<h2>Trained in full</h2>",
            f"<p>{text(str(result.finished))}. Weights: "
            f"<code>{text(result.finished.folder)}/model.safetensors</code></p>",
        ]
    if result.noise is not None:
        parts.append(f'<p class="soft">{text(noise_words(result.noise))}</p>')
    return parts


def _codes(result: Result, rows: Sequence[NetworkRow | ConfirmedRow]) -> str:
    items = "".join(f"<dt>{text(row.label)}</dt><dd><code>{text(result.name_of(row.code))}</code></dd>" for row in rows)
    return f'<p class="soft">A click selects a whole code.</p><dl class="codes">{items}</dl>'


def _commands(result: Result) -> str:
    out = []
    for row in result.networks:
        if row.role == "found":
            first = " open" if row is result.best else ""
            blocks = "".join(_command(command) for command in commands_of(result, row.code))
            out.append(
                f"<details{first}><summary>{text(row.label)}: {human(row.cost.macs)} {MACS_NAME}, "
                f"{human(row.cost.params)} params</summary>{blocks}</details>"
            )
    return "\n".join(out)


def _command(command: Command) -> str:
    note = f'<p class="soft">{text(command.note)}</p>' if command.note else ""
    return f"<h3>{text(command.title)}</h3>{note}<pre><code>{text(command.text.rstrip())}</code></pre>"


def _side_by_side(result: Result) -> str:
    return (
        cards(result) + '<p class="soft">Every network by stage; bars of one kind share their scale, and the thin '
        "mark is the uniformly rescaled network. The figures are the code's entries: they do not show the parts "
        "that it leaves fixed, such as the stem.</p>"
    )


def _plots(result: Result) -> str:
    return figures(
        (
            "Best so far",
            progress_by_trial(result),
            "Trials in the order in which they were chosen, the best so far as a line, the controls as level lines, "
            "bands of as many trials as the first batch; a flat line does not say that nothing better exists.",
            False,
        ),
        (
            "Stage profile",
            stage_profile(result),
            "Where each network puts its channels, blocks and MACs. Three bars stand at each stage; where the third "
            "differs from the second, the search moved cost between stages instead of scaling all of them alike. "
            "Shares of MACs add up to 100% for each network, of a detector for its backbone. The code chooses the "
            "numbered stages, except stage 2 of MobileNetV2 "
            "and EfficientNet, which is fixed; widths of head and classifier (fc) are fixed too and not drawn.",
            True,
        ),
        (
            "Score over MACs",
            cost_against_score(result),
            "Trials (grey), the codes found (numbered, 1 the best), the Pareto front (no trial is both cheaper and "
            "better) and the budget, which no code may cross; it does not show what other codes would score. A control "
            "outside the range stands at the edge, with its figures in the legend.",
            False,
        ),
        (
            "Score over params",
            params_against_score(result),
            "The same trials over their parameters, with their own Pareto front; parameters do not say how fast a "
            "network is.",
            False,
        ),
    )


def _learnt(result: Result, insight: Insight | None) -> tuple[str, ...]:
    evaluated = [(t.cost.macs, t.score) for t in result.trials if t.score is not None]
    if insight is None and len(evaluated) >= 2:
        return ()
    return "<h2>What the results teach</h2>", learnt(insight, evaluated, over="the candidates")


def _facts(result: Result) -> str:
    budget = result.budget
    limits = f"at most {budget.macs:,} {MACS_NAME} ({TWO_MACS_NAME}: {2 * budget.macs:,})"
    if budget.min_macs:
        limits += f"; at least {budget.min_macs:,} {MACS_NAME}"
    if budget.params is not None:
        limits += f"; at most {budget.params:,} params"
    if budget.activations is not None:
        limits += f"; at most {budget.activations:,} activations"
    if budget.latency_ms is not None:
        limits += f"; at most {latency(budget.latency_ms)} ms by the run's latency model"
    failed = sum(t.score is None for t in result.trials)
    return facts(
        [
            ("Budget", text(limits)),
            ("Caps", bullets(result.caps)),
            ("Notes", bullets(result.notes)),
            ("Evaluator", text(result.evaluator.name)),
            ("Trials", f"{len(result.trials)}, of which {failed} failed"),
            ("Candidates", f"{result.candidates:,} codes that meet the budget and the caps"),
            ("Scale of the grid", f"{result.scale:g}"),
            ("Seed", text(str(result.seed))),
            ("Duration", duration(result.seconds)),
            ("Versions", text(", ".join(f"{name} {version}" for name, version in result.versions.items())) or ABSENT),
        ]
    )


def _trials(trials: Sequence[TrialRow]) -> str:
    failed = [t for t in trials if t.score is None]
    head = ["Trial", "Batch", MACS_NAME, TWO_MACS_NAME, "Params", "Activations", "Score", "Seconds", "Code"]
    rows = []
    for t in trials:
        cells = numbers(
            str(t.number),
            str(t.batch),
            human(t.cost.macs),
            human(t.cost.macs2),
            human(t.cost.params),
            human(t.cost.activations),
            score(t.score),
            f"{t.seconds:.2f}",
        )
        # Under the code and not in a last column, which would start beyond the edge of the screen.
        error = "" if t.score is not None else f'<div class="error">{text(t.error or "no score")}</div>'
        mark = ' class="failed"' if t.score is None else ""
        rows.append(f"<tr{mark}>{cells}<td><code>{text(str(t.code))}</code>{error}</td></tr>")
    said = f", {len(failed)} of them failed" if failed else ""
    return (
        f"<details><summary>All {len(trials)} trials{said}</summary>"
        f"{table(head, rows, left=0, right=8, tall=True)}</details>"
    )


# -- parts ----------------------------------------------------------------------------------------------------


def _controls(result: Result) -> list[tuple[str, NetworkRow]]:
    names = {"original": "original", "uniform": "uniformly rescaled"}
    return [(names[row.role], row) for row in result.networks if row.role in names]
