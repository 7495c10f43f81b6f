"""The end of a run: the controls beside the codes found, and how fast each is on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bsszoo.codes.code import Code
from bsszoo.compression.folder import CONTROLS, TRAINING_RECIPE, read_json, scores_in, write_json
from bsszoo.compression.plan import Plan
from bsszoo.evaluators.base import Evaluator
from bsszoo.evaluators.structural import StructuralEvaluator
from bsszoo.files import write_whole
from bsszoo.search.history import is_number
from bsszoo.spaces.latency import LatencyModel, predicted
from bsszoo.study.loop import reason
from bsszoo.study.result import CompressResult, Confirmation, Finished, NetworkRow, TrainingFacts, TrialRow

if TYPE_CHECKING:
    from bsszoo.compression.finish import Finish

# All networks of the table are in memory together while they take turns: 4 bytes a parameter.
_MOST_PARAMS = 1_500_000_000
# The structural score is relative to the candidates: of a network so much cheaper, or dearer, it says nothing.
_NEAR = 0.9


def judge_controls(
    plan: Plan, judge: Evaluator, folder: Path, judging: Callable[[str], None]
) -> tuple[list[NetworkRow], list[str]]:
    """The original and the uniformly rescaled network, judged as the candidates are, and notes on what failed.

    Scores are kept in the folder, so that a resumed run does not judge again; a control that failed is tried again.
    The structural score is relative to codes at the budget, so a network with more or far fewer MACs gets none.
    """
    kept = scores_in(read_json(folder / CONTROLS))
    rows, notes = [], []
    controls: tuple[tuple[Literal["original", "uniform"], Code], ...] = (
        ("original", plan.reference),
        ("uniform", plan.uniform),
    )
    for role, code in controls:
        cost = plan.space.cost(code)
        if str(code) not in kept and comparable(plan, judge, code):
            judging(role)
            try:
                kept[str(code)] = judge(code).value
                write_json(folder / CONTROLS, kept)
            except (Exception, SystemExit) as error:
                # A control that cannot be judged leaves its figure out; the search goes on.
                notes.append(f"The {role} network has no score: {reason(error)}")
        rows.append(NetworkRow(role, role, code, cost, kept.get(str(code)), None))
    return rows, notes


def with_earlier(result: CompressResult, earlier: Mapping[str, Any] | None, plan: Plan) -> CompressResult:
    """The result with what an earlier process of the run measured: latencies of the same codes, its seconds,
    and what was trained after the search."""
    if earlier is None:
        return result
    known = {n["code"]: n["latency_ms"] for n in earlier.get("networks", []) if is_number(n.get("latency_ms"))}
    networks = tuple(replace(row, latency_ms=known.get(str(row.code))) for row in result.networks)
    kept = result.confirmation or _confirmation(result, earlier.get("confirmation"), plan)
    finished = Finished.from_dict(earlier["finished"]) if earlier.get("finished") else None
    finished = finished if finished is not None and finished.code == str(result.best.code) else result.finished
    facts = TrainingFacts.from_dict(earlier["training"]) if earlier.get("training") else None
    seconds = earlier.get("seconds", 0.0)
    seconds = round(result.seconds + (float(seconds) if is_number(seconds) else 0.0), 3)
    return replace(
        result,
        networks=networks,
        training=result.training or facts,
        seconds=seconds,
        confirmation=kept,
        finished=finished,
    )


def _confirmation(result: CompressResult, earlier: Mapping[str, Any] | None, plan: Plan) -> Confirmation | None:
    """What an earlier process confirmed, where that is still the best code."""
    found = None if earlier is None else Confirmation.from_dict(earlier, plan.space.cost)
    if found is None or any(r.role == "found" and r.code != result.best.code for r in found.rows):
        return None
    return found


def doubts(judge: Evaluator, best: float | None) -> list[str]:
    """What an evaluator that knows what chance gives says of the best score of a search."""
    doubt = getattr(judge, "doubt", None)
    told = doubt(best) if callable(doubt) and best is not None else None
    return [] if told is None else [str(told)]


def training_facts(judge: Evaluator, finish: Finish | None, folder: Path) -> TrainingFacts | None:
    """How the code found is trained on the user's pictures, and its recipe in the folder; None without pictures."""
    from bsszoo.train.classification.recipe import Recipe, recipe_text, with_values
    from bsszoo.train.detection.recipe import DetectionRecipe

    recipe = getattr(judge, "recipe", None) if finish is None else finish.recipe
    if not isinstance(recipe, (Recipe, DetectionRecipe)):
        return None
    if finish is None:
        # A training in full takes all pictures; without a split to validate on some are still held out.
        whole = getattr(judge, "has_test", lambda: True)()
        recipe = with_values(recipe, data={"holdout": 0.0 if whole else recipe.data.holdout, "subset": 1.0})
    write_whole(folder / TRAINING_RECIPE, recipe_text(recipe))
    data = getattr(judge, "data", None) if finish is None else finish.data
    if isinstance(recipe, DetectionRecipe):
        return TrainingFacts(str(folder), TRAINING_RECIPE, data, getattr(judge, "classes", 0), 3)
    return TrainingFacts(str(folder), TRAINING_RECIPE, data, recipe.model.num_classes, recipe.model.in_chans)


def with_predictions(rows: Sequence[NetworkRow], model: LatencyModel | None) -> tuple[NetworkRow, ...]:
    """The same rows with what the model of the limit on latency says of each."""
    return tuple(replace(row, predicted_ms=predicted(model, row.code)) for row in rows)


def comparable(plan: Plan, judge: Evaluator, code: Code) -> bool:
    """Whether a score of a control says anything: the structural one only beside candidates of about its cost."""
    if not isinstance(judge, StructuralEvaluator):
        return True
    macs, of_candidates = plan.space.cost(code).macs, plan.candidates.macs
    assert of_candidates is not None  # drawn from a space, whose costs are known
    return int(of_candidates.min()) * _NEAR <= macs <= min(plan.budget.macs, int(of_candidates.max()) / _NEAR)


def found_rows(found: Sequence[TrialRow]) -> list[NetworkRow]:
    """The codes found, best first."""
    return [NetworkRow(f"found {i}", "found", t.code, t.cost, t.score, None) for i, t in enumerate(found, start=1)]


def with_latencies(rows: Sequence[NetworkRow]) -> tuple[list[NetworkRow], str]:
    """The same rows with the forward time of each network on this machine, and a note on how it was measured."""
    from bsszoo.latency.timer import measure_latencies

    if sum(row.cost.params for row in rows) > _MOST_PARAMS:
        return list(rows), "Latencies were not measured: the networks are too large to be in memory together."
    taken = measure_latencies([row.code for row in rows])
    timed = [replace(row, latency_ms=latency.median_ms) for row, latency in zip(rows, taken, strict=True)]
    return timed, (
        f"Latency: median of {taken[0].runs} forwards of one image, {taken[0].where}, the networks taking turns."
    )
