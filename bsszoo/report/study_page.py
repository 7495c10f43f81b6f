"""The report of any Optuna study with one objective, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bsszoo.report.figures import ABSENT, score
from bsszoo.report.learnt import learnt
from bsszoo.report.markup import bullets, document, facts, figures, numbers, table, text
from bsszoo.report.model_plots import plain
from bsszoo.report.plots import FOUND, TRIAL, WIDTH, crosses, legend
from bsszoo.report.svg import style, svg_text

if TYPE_CHECKING:
    # Only for its types: the package of the search loads scipy and Optuna, which no page needs.
    from bsszoo.search.insight import Insight

#: Most trials that the table holds; of more, the best ones.
MOST_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """One trial: its state in a word, its value when it is complete, its parameters as text."""

    number: int
    state: str
    value: float | None
    params: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class StudyView:
    """What the page of a study shows.

    ``over`` says what shares and curves average over; ``ends`` are the texts of the first and last value of parameters
    that are no plain numbers; ``notes`` what a reader has to know.
    """

    name: str
    storage: str
    value_name: str
    maximise: bool
    trials: tuple[StudyTrial, ...]
    insight: Insight | None
    over: str = "all combinations of the parameters' ranges"
    ends: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> list[StudyTrial]:
        """The trials with a value, in the order of their numbers."""
        return [t for t in self.trials if t.value is not None]

    @property
    def best(self) -> StudyTrial:
        """The best trial; the view needs one that is complete."""
        sign = 1 if self.maximise else -1
        return max(self.complete, key=lambda t: (sign * (t.value or 0.0), -t.number))


def render_study(view: StudyView) -> str:
    """The page of a study with at least one complete trial; equal views give equal text.

    Text that a user gave stands in the page as text, never as markup.
    """
    best = view.best
    states = counted(t.state for t in view.trials)
    word = "largest" if view.maximise else "smallest"
    params = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in best.params.items())
    return document(
        view.name,
        [
            f"<h1>{text(view.name)}</h1>\n"
            f'<p class="soft">An Optuna study in {text(view.storage)}: {text(states)}</p>\n'
            f"<p>The {word} {text(view.value_name)} is <b>{score(best.value)}</b>, of trial {best.number}.</p>",
            f'<dl class="facts">{params}</dl>' if params else "",
            "<h2>Best so far</h2>",
            figures(
                (
                    "Every trial",
                    best_so_far(view),
                    "Complete trials in the order in which they began and the best so far as a line; a flat line does "
                    "not say that nothing better exists.",
                    False,
                )
            ),
            "<h2>What the results teach</h2>",
            learnt(
                view.insight,
                (),
                over=text(view.over),
                entry="parameter",
                value=text(view.value_name),
                ends=view.ends,
                **_why(view),
            ),
            "<h2>The study</h2>",
            facts(
                [
                    ("Direction", f"{'maximise' if view.maximise else 'minimise'} {text(view.value_name)}"),
                    ("Trials", text(states)),
                    ("Notes", bullets(view.notes)),
                ]
            ),
            "<h2>All trials</h2>",
            _trials(view),
        ],
    )


def _why(view: StudyView) -> dict[str, str]:
    """What to say instead of plots where there are results, but no parameter to learn of."""
    if sum(t.value is not None for t in view.trials) < 2:
        return {}
    return {"why": "No parameter is in every complete trial with more than one value: there is nothing to compare."}


def counted(states: Any) -> str:
    """How many there are of each word, most first: ``12 complete, 2 failed``.

    Example:
        >>> counted(["failed", "complete", "complete"])
        '2 complete, 1 failed'
    """
    number: dict[str, int] = {}
    for state in states:
        number[state] = number.get(state, 0) + 1
    ranked = sorted(number.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{n:,} {state}" for state, n in ranked) or "no trials"


def best_so_far(view: StudyView) -> str:
    """The value of every complete trial over its number, and the best so far as a line."""
    from matplotlib.figure import Figure

    done = view.complete
    pick = max if view.maximise else min
    best: list[float] = []
    for trial in done:
        value = trial.value or 0.0
        best.append(pick(best[-1], value) if best else value)
    with style():
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        axes: Any = figure.add_subplot()
        axes.plot(
            [t.number for t in done],
            [t.value for t in done],
            "o",
            color=TRIAL,
            alpha=0.85,
            markersize=4.5,
            markeredgewidth=0,
            label="trial",
        )
        numbers_ = [t.number for t in view.trials]
        axes.step(
            [*(t.number for t in done), max(numbers_) + 0.5],
            [*best, best[-1]],
            where="post",
            color=FOUND,
            linewidth=2,
            label="best so far",
        )
        crosses(axes, [t.number for t in view.trials if t.state in ("failed", "pruned")], "failed or pruned")
        axes.set_xlim(min(numbers_) - 0.8, max(numbers_) + 0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("trial number")
        axes.set_ylabel(plain(view.value_name))
        axes.margins(y=0.12)
        legend(figure, axes)
        title = f"Value of each of {len(done)} complete trials in order; the best is {score(best[-1])}."
        return svg_text(figure, prefix="progress", title=title)


def _trials(view: StudyView) -> str:
    names = list(dict.fromkeys(name for t in view.trials for name in t.params))
    shown: Sequence[StudyTrial] = view.trials
    said = f"All {len(shown):,} trials"
    if len(shown) > MOST_ROWS:
        sign = -1 if view.maximise else 1
        ranked = sorted(shown, key=lambda t: (t.value is None, sign * (t.value or 0.0), t.number))
        shown = sorted(ranked[:MOST_ROWS], key=lambda t: t.number)
        said = f"The best {MOST_ROWS:,} of {len(view.trials):,} trials"
    rows = []
    for t in shown:
        mark = ' class="failed"' if t.state == "failed" else ""
        cells = "".join(f'<td class="n">{text(t.params.get(n, ABSENT))}</td>' for n in names)
        rows.append(f"<tr{mark}>{numbers(str(t.number))}<td>{text(t.state)}</td>{numbers(score(t.value))}{cells}</tr>")
    head = ["Trial", "State", view.value_name, *names]
    return f"<details><summary>{said}</summary>{table(head, rows, left=2, tall=True)}</details>"
