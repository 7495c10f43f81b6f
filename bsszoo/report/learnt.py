"""The part of a page that says what the results teach, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bsszoo.report.figures import score
from bsszoo.report.markup import figures, text
from bsszoo.report.model_plots import effect_curves, importance_bars, posterior_over_cost

if TYPE_CHECKING:
    # Only for its types: the package of the search loads scipy and Optuna, which no page needs.
    from bsszoo.search.insight import Check, Insight

#: Fewer results than this say little; the page says so.
FEW: Final = 8
# Correlations of predictions with results from which the model is called good, and rough.
_GOOD, _ROUGH = 0.7, 0.4
# Intervals of 90% that hold a smaller share of the results than this are called too narrow.
_NARROW: Final = 0.75


def learnt(
    insight: Insight | None,
    evaluated: Sequence[tuple[int, float]],
    *,
    over: str,
    entry: str = "entry",
    value: str = "score",
    ends: Mapping[str, tuple[str, str]] | None = None,
    why: str = "Fewer than two results: nothing to learn from yet.",
) -> str:
    """The section, whatever there is to say; plots only where there is something to plot.

    Args:
        insight: What the results teach; None when there is nothing to learn.
        evaluated: MACs and score of each evaluated code, for the plot over the cost.
        over: What shares and curves average over, as the end of a sentence.
        entry: What an entry of a code is called.
        value: What a result is called, as HTML.
        ends: Texts of the first and last value of entries that are no plain numbers.
        why: What is said where there is no insight.
    """
    if insight is None:
        return f"<p>{why}</p>"
    if insight.flat:
        return f"<p>All {insight.results} results are equal: nothing tells one {entry} from another.</p>"
    plots = [
        (
            f"Which {_plural(entry)} matter",
            importance_bars(insight),
            f"Share of the variance of the {value} over {over} that each {entry} explains when nothing else is known, "
            f"with 90% intervals; where {_plural(entry)} depend on each other, as under a budget, shares overlap and "
            f"do not say what a change with all else kept would do.{_sums(insight, entry)}",
            True,
        ),
        (
            f"How each {entry} matters",
            effect_curves(insight, ends),
            f"Average {value} that the model expects of {over} that share one {entry}'s value, with 90% bands, all on "
            "one scale; it is an average over everything else, not what the best ones have.",
            False,
        ),
    ]
    if insight.cost is not None:
        plots.insert(
            1,
            (
                f"Expected {value} over cost",
                posterior_over_cost(insight, evaluated),
                "Blue: what the model expects of a sample of the candidates, with one standard deviation; green: the "
                f"best expected {value} at most at a cost, with that code's own 90% interval; orange: what was "
                "evaluated; it says nothing about costs outside the candidates.",
                False,
            ),
        )
    return _trust(insight, value) + figures(*plots)


def _plural(entry: str) -> str:
    return entry[:-1] + "ies" if entry.endswith("y") else entry + "s"


def _sums(insight: Insight, entry: str) -> str:
    if insight.additive is None or insight.together is None:
        return ""
    costs = " Blue: the same of the costs, which are made up of them." if insight.costs else ""
    return f"{costs} Grey: what a sum of one curve for each {entry} explains, and what only combinations do."


def _trust(insight: Insight, value: str) -> str:
    few = (
        f"<p><b>Only {insight.results} results:</b> what follows is mostly what the model assumed beforehand, and "
        "the intervals are wide for that reason.</p>"
        if insight.results < FEW
        else ""
    )
    check = insight.check
    assert check is not None
    return (
        f"{few}<p>What follows comes from a Gaussian process fitted to the {insight.results} results: the default "
        "search's model, whatever chose the codes. "
        f"{text(_verdict(check))} The results scatter around it with a standard deviation of {score(insight.noise)} "
        f"(noise, and what the model cannot follow), in the unit of the {value}. Intervals hold at the fitted length "
        "scales.</p>"
    )


def _verdict(check: Check) -> str:
    inside = f"{100 * check.refitted_coverage:.0f}% of the results lie inside their 90% intervals"
    how = "Each result predicted by a model fitted without it"
    r = check.refitted_correlation
    if r is None:
        return f"{how}: {inside}; the results are too few, or too alike, for a correlation."
    shown = f"{r:.2f}" if r < 0.995 else "above 0.99"
    verdict = (
        "The model follows them well"
        if r >= _GOOD
        else "The model follows them roughly"
        if r >= _ROUGH
        else "The model does not predict them: do not rely on what follows"
    )
    narrow = "; its intervals are too narrow" if check.refitted_coverage < _NARROW else ""
    return f"{how}: correlation {shown}, and {inside}. {verdict}{narrow}."
