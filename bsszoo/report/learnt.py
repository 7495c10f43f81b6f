"""The part of a page that says what the results teach, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Sequence
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


def learnt(insight: Insight | None, evaluated: Sequence[tuple[int, float]], *, over: str) -> str:
    """The section, whatever there is to say; plots only where there is something to plot.

    Args:
        insight: What the results teach; None when there is nothing to learn.
        evaluated: MACs and score of each evaluated code, for the plot over the cost.
        over: What shares and curves average over, as the end of a sentence.
    """
    if insight is None:
        return "<p>Fewer than two results: nothing to learn from yet.</p>"
    if insight.flat:
        return f"<p>All {insight.results} results are equal: nothing tells one entry from another.</p>"
    plots = [
        (
            "Which entries matter",
            importance_bars(insight),
            f"Share of the variance of the score over {over} that each entry explains when nothing else is known, "
            "with 90% intervals; where entries depend on each other, as under a budget, shares overlap and "
            f"do not say what a change with all else kept would do.{_sums(insight)}",
            True,
        ),
        (
            "How each entry matters",
            effect_curves(insight),
            f"Average score that the model expects of {over} that share one entry's value, with 90% bands, all on "
            "one scale; it is an average over everything else, not what the best ones have.",
            False,
        ),
    ]
    if insight.cost is not None:
        plots.insert(
            1,
            (
                "Expected score over cost",
                posterior_over_cost(insight, evaluated),
                "Blue: what the model expects of a sample of the candidates, with one standard deviation; green: the "
                "best expected score at most at a cost, with that code's own 90% interval; orange: what was "
                "evaluated; it says nothing about costs outside the candidates.",
                False,
            ),
        )
    return _trust(insight) + figures(*plots)


def _sums(insight: Insight) -> str:
    if insight.additive is None or insight.together is None:
        return ""
    costs = " Blue: the same of the costs, which are made up of them." if insight.costs else ""
    return f"{costs} Grey: what a sum of one curve for each entry explains, and what only combinations do."


def _trust(insight: Insight) -> str:
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
        "(noise, and what the model cannot follow), in the unit of the score. Intervals hold at the fitted length "
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
