"""The result of a compression, assembled from the study and the run's folder."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy.spatial.distance import cdist

from bsszoo.codes.code import Code, common_form, entries_of
from bsszoo.codes.published import IMAGENET, ready_instead
from bsszoo.compression.confirm import Interval, chosen, difference, format_interval
from bsszoo.compression.folder import ONNX, RECOMMENDED, RECOMMENDED_WEIGHTS, TRAINING_RECIPE, int8_file
from bsszoo.compression.plan import Plan
from bsszoo.errors import RunError
from bsszoo.evaluators.base import Evaluator, FullTraining
from bsszoo.files import write_whole
from bsszoo.formats import FORMATS, QUANTISED
from bsszoo.report.figures import human
from bsszoo.search.history import is_number
from bsszoo.search.insight import leaders_of_rows
from bsszoo.spaces.limits import predicted
from bsszoo.study.result import (
    Confirmation,
    ConfirmedRow,
    Finished,
    NetworkRow,
    Quantised,
    Result,
    TrainingFacts,
    TrialRow,
)

if TYPE_CHECKING:
    from torch import nn

#: Most codes of the closing table; at least five when as many were evaluated.
MOST_CODES: Final = 8
#: Those of them, at least, that are simply the best, where their scores were measured.
LEADERS: Final = 6
#: Points of accuracy that a recommended network may lose before a larger budget is advised.
LARGE_DROP: Final = 1.0
#: Times are alike up to this factor.
SLOWER: Final = 1.05


@dataclass(frozen=True, slots=True)
class CompressResult(Result):
    """A finished search: printed, it is its table; a notebook renders that as HTML.

    ``folder`` is the run's, which holds all its files.
    """

    folder: Path | None = None

    @property
    def recommended(self) -> NetworkRow:
        """The network to take: of the best codes and the uniformly rescaled one the best in fresh trainings.

        It is chosen by the images that the search used, so that its result on the unseen ones does not flatter it. One
        that was measured to be slower than the uniformly rescaled network is taken only where it is clearly better.
        Without fresh trainings (``confirmation`` is None) it is the code of the best score; where that is a heuristic's
        and nothing was trained (``untrained``), the uniformly rescaled network, if that keeps the limits.
        """
        if self.untrained:
            return next((row for row in self.networks if row.role == "uniform" and self._keeps(row)), self.best)
        row = None if self.confirmation is None else chosen(self._worth_taking(self.confirmation.rows))
        if row is None:
            return self.best
        return next((one for one in self.networks if one.code == row.code and one.role == row.role), self.best)

    @property
    def taken_in_full(self) -> NetworkRow:
        """The network that is trained in full: the recommended one, and without fresh trainings the best code."""
        return self.best if self.confirmation is None else self.recommended

    def _keeps(self, row: NetworkRow) -> bool:
        """Whether a network keeps the budget's upper limits."""
        most = self.budget
        figures = (
            (row.cost.macs, most.macs),
            (row.cost.params, most.params),
            (row.cost.activations, most.activations),
            (row.predicted_ms, most.latency_ms),
        )
        return all(value is None or limit is None or value <= limit for value, limit in figures)

    def _worth_taking(self, rows: Sequence[ConfirmedRow]) -> list[ConfirmedRow]:
        """The rows without those that are slower than the uniformly rescaled network and not clearly better."""
        times = {row.code: row.latency_ms for row in self.networks}
        uniform = next((row for row in rows if row.role == "uniform" and row.tests), None)
        least = None if uniform is None else times.get(uniform.code)
        if uniform is None or least is None:
            return list(rows)

        def worth(row: ConfirmedRow) -> bool:
            slower = row.role == "found" and (times.get(row.code) or 0.0) > SLOWER * least
            held = row.held and uniform.held
            return (
                not slower or difference(*((row.held, uniform.held) if held else (row.tests, uniform.tests))).above_zero
            )

        return [row for row in rows if not row.tests or worth(row)]

    def confirmed(self, code: Code) -> ConfirmedRow | None:
        """The fresh trainings of a code; None without."""
        rows = () if self.confirmation is None else self.confirmation.rows
        return next((row for row in rows if row.code == code and row.tests), None)

    @property
    def recommendation(self) -> str | None:
        """Which network to take, in a sentence, beside the network as it is, or else the uniformly rescaled one.

        None where its weights are not at hand. Where nothing was trained it says so.
        """
        if self.untrained:
            return self._until_trained
        take, whole = self.recommended, next((r for r in self.networks if r.role == "original"), None)
        mine, theirs = self.confirmed(take.code), None if whole is None else self.confirmed(whole.code)
        if whole is None or mine is None or (theirs is None and not self._delivered):
            return None
        mean, share = sum(mine.tests) / len(mine.tests), take.cost.macs / whole.cost.macs
        name = "the uniformly rescaled network" if take.role == "uniform" else take.label
        timed = ""
        if take.latency_ms is not None and whole.latency_ms is not None:
            by = "" if self.runtime == "pytorch" else f" of {self.runtime}"
            timed = f" and {take.latency_ms:.3g} ms{by} ({100 * take.latency_ms / whole.latency_ms:.0f}%)"
        text = (
            f"Take {name}: {format_interval(Interval(mean, mine.low, mine.high))}% with {human(take.cost.macs)} MACs "
            f"({100 * share:.0f}%){timed}"
        )
        if theirs is None:
            return f"{text}{self._beside_uniform(take, mean)}."
        original = sum(theirs.tests) / len(theirs.tests)
        drop = original - mean
        text += f", {abs(drop):.2f} points {'below' if drop >= 0 else 'above'} the network's {original:.2f}%."
        tested = [self.confirmed(row.code) for row in self.networks if row.role != "original"]
        if mine.held and any(row is not None and sum(row.tests) / len(row.tests) > mean for row in tested):
            text += " Held-out images chose it, so that the test images flatter none."
        if drop > LARGE_DROP:
            # The loss rises ever faster towards small networks, so a straight line asks for enough.
            name, mine_of, whole_of, form = self._limited(take, whole)
            least = whole_of - (whole_of - mine_of) * LARGE_DROP / drop
            text += (
                f" No network of this budget was within {LARGE_DROP:g} point of it. By linear interpolation one of "
                f"{form(least)}{name} ({100 * least / whole_of:.0f}%) would be; a longer fine-tuning (--epochs) keeps "
                "more at this one."
            )
        return text

    def _beside_uniform(self, take: NetworkRow, mean: float) -> str:
        """The end of a sentence: how far a network's mean is from that of the uniformly rescaled one."""
        uniform = next((row for row in self.networks if row.role == "uniform"), None)
        theirs = None if uniform is None or take.role == "uniform" else self.confirmed(uniform.code)
        if theirs is None:
            return "; no code found did better" if take.role == "uniform" else ""
        other = sum(theirs.tests) / len(theirs.tests)
        words = f"{abs(mean - other):.2f} points {'above' if mean >= other else 'below'}"
        return f", {words} the uniformly rescaled network's {other:.2f}%"

    def _limited(self, take: NetworkRow, whole: NetworkRow) -> tuple[str, float, float, Callable[[float], str]]:
        """What the budget is of: its name, a network's and the whole one's, and how it is written."""
        times = take.latency_ms, whole.latency_ms
        if self.budget.min_latency_ms is not None and times[0] is not None and times[1] is not None:
            return " ms", times[0], times[1], lambda ms: f"{ms:.3g}"
        name = " MACs" if self.budget.min_params is None else " parameters"
        costs = [row.cost.macs if self.budget.min_params is None else row.cost.params for row in (take, whole)]
        return name, costs[0], costs[1], lambda value: human(round(value))

    @property
    def _until_trained(self) -> str:
        take = self.recommended
        if take.role != "uniform":
            return (
                "Nothing was trained, so nothing says that a candidate is better than another, nor than the uniformly "
                "rescaled network, which is beyond the limits here. Train them before you take one."
            )
        return (
            "Nothing was trained, so nothing says that a candidate is better than the uniformly rescaled network. Take "
            f"that one, of {human(take.cost.macs)} MACs, until they are trained."
        )

    def to_dict(self) -> dict[str, Any]:
        """As ``Result.to_dict``, with the recommendation and the networks that matter by their roles.

        Their accuracy is None where they were not trained; both are left out where there is no recommendation.
        """
        data, text = Result.to_dict(self), self.recommendation
        if text is None:
            return data
        rows = {row.role: row for row in self.networks if row.role != "found"} | {"recommended": self.recommended}
        return data | {"recommendation": text} | {role: self._measured(role, row) for role, row in rows.items()}

    def _measured(self, role: str, row: NetworkRow) -> dict[str, Any]:
        trained = self.confirmed(row.code)
        tests = () if trained is None else trained.tests
        return {
            "code": str(row.code),
            "macs": row.cost.macs,
            "params": row.cost.params,
            "latency_ms": row.latency_ms,
            "test_accuracy": sum(tests) / len(tests) if tests else None,
            "interval": None if trained is None or trained.low is None else [trained.low, trained.high],
            "weights": RECOMMENDED_WEIGHTS if role == "recommended" and tests and self._delivered else None,
            **(self._exported if role == "recommended" and tests else {}),
        }

    @property
    def _delivered(self) -> bool:
        return self.folder is not None and (self.folder / RECOMMENDED_WEIGHTS).is_file()

    @property
    def weights(self) -> str | None:
        """The folder of the recommended network with its weights; None where it was not trained afresh."""
        if not (self._delivered and self.confirmed(self.recommended.code)):
            return None
        return f"{self.folder}/{RECOMMENDED}"

    @property
    def _exported(self) -> dict[str, str]:
        files = {"onnx": ONNX, **{f"{name}_int8": int8_file(FORMATS[name]) for name in QUANTISED}}
        return {} if self.folder is None else {k: f for k, f in files.items() if (self.folder / f).is_file()}

    def build(self, row: NetworkRow | None = None, *, weights: bool = True, **arguments: Any) -> nn.Module:
        """The network of a row, the recommended one by default.

        Args:
            row: One of ``networks``.
            weights: Load its weights: of the training in full, where that network was trained, else of the recommended
                one's best fresh training. Others have none, and begin as new networks do.
            arguments: For ``bsszoo.create``, such as ``num_classes``; by default those of the images that codes
                were trained on, if any.
        """
        from bsszoo.models.create import create

        row = self.recommended if row is None else row
        if self.training is not None:
            arguments = {"num_classes": self.training.num_classes, "in_chans": self.training.in_chans, **arguments}
        finished = self.finished
        if weights and finished is not None and finished.code == str(row.code) and self.folder is not None:
            return create(f"local-dir:{self.folder / finished.folder}", pretrained=True)
        if weights and row.code == self.recommended.code and self.weights is not None:
            return create(f"local-dir:{self.weights}", pretrained=True)
        return create(self.name_of(row.code), **arguments)

    def __str__(self) -> str:
        return self._rendered(html=False)

    def _repr_html_(self) -> str:
        return self._rendered(html=True)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001
        """In IPython's terminal the tables; of a notebook they are the text beside the HTML."""
        printer.text(self._rendered(html=False))

    def _rendered(self, *, html: bool) -> str:
        import io

        from rich.console import Console

        from bsszoo.report.tables import result_table, trained_tables

        # In a notebook rich would show each part by itself, beside what is returned here.
        width = 110 if html else 160  # a page of 1280 px shows 120 characters
        console = Console(file=io.StringIO(), width=width, record=True, force_jupyter=False, highlight=False)
        for table in (result_table(self), *trained_tables(self, self.recommended.code), self.recommendation or ""):
            console.print(table)
        if html:
            # Not every page that shows notebooks has a style for it.
            block = '<pre style="white-space:pre;overflow-x:auto;font-family:monospace">{code}</pre>'
            return console.export_html(inline_styles=True, code_format=block)
        return console.export_text()


def assemble(
    plan: Plan,
    evaluator: Evaluator,
    trials: Sequence[TrialRow],
    *,
    title: str,
    seed: int,
    wanted: int,
    scores: Mapping[str, float],
    notes: Mapping[str, Sequence[str]],
    training: TrainingFacts | None = None,
    seconds: float = 0.0,
    versions: Mapping[str, str] | None = None,
    folder: Path | None = None,
    runtime: str = "pytorch",
    train: str | None = None,
) -> CompressResult:
    """The result of a run's search, for the run itself and for ``bsszoo report``.

    ``with_earlier`` adds what was measured and trained after it.

    Args:
        plan: The plan of the search.
        evaluator: The evaluator of the trials, or a record of it.
        trials: The finished trials.
        title: Name of the network that was compressed.
        seed: The run's.
        wanted: Number of trials requested.
        scores: Scores of the judged controls by code.
        notes: Notes of the phases, by phase.
        training: How a code is trained on the user's images.
        seconds: Duration of the run [s].
        versions: Versions of its dependencies.
        folder: The run's.
        runtime: What its latencies are measured with.
        train: The command that trains its codes, where that is left to do.

    Raises:
        RunError: No trial has a score.
    """
    ranked = by_trainings(plan, trials, seed)
    best = leading(ranked, MOST_CODES)
    if plan.space.base is None:
        best = closing(ranked, MOST_CODES, leaders=0 if evaluator.info.heuristic else LEADERS)
    if not best:
        cause = next((t.error for t in trials if t.error), "no reason was recorded").rstrip(".")
        raise RunError(
            f"All {len(trials)} trials failed; the first reason: {cause}. Fix the evaluator "
            f"{evaluator.info.name} and run the same command with --retry-failed, or with another --out "
            "if its file changed."
        )
    rows = [
        *control_rows(plan, evaluator, scores),
        *(NetworkRow(f"found {i}", "found", t.code, t.cost, t.score, None) for i, t in enumerate(best, start=1)),
    ]
    return CompressResult(
        family=plan.reference.family,
        reference=title,
        budget=plan.budget,
        evaluator=evaluator.info,
        seed=seed,
        scale=plan.scale,
        candidates=len(plan.candidates),
        caps=plan.caps,
        notes=(*plan.notes, *_notes(plan, evaluator, trials, best[0].score, wanted, notes)),
        networks=tuple(replace(row, predicted_ms=predicted(plan.limits.latency, row.code, plan.space)) for row in rows),
        trials=tuple(trials),
        seconds=round(seconds, 3),
        versions=versions or {},
        training=training,
        head=plan.space.head,
        train=train,
        folder=folder,
        runtime=runtime,
    )


def with_earlier(result: CompressResult, earlier: Mapping[str, Any] | None, plan: Plan) -> CompressResult:
    """The result with the latencies of the same codes and the trainings after the search from ``result.json``.

    Raises:
        ValueError, KeyError: ``earlier`` is no result.
    """
    if earlier is None:
        return result
    latencies = {n["code"]: n["latency_ms"] for n in earlier.get("networks", []) if is_number(n.get("latency_ms"))}
    before = earlier.get("versions")
    found = {row.label: row.code for row in result.networks if row.role == "found"}
    finished = Finished.from_dict(earlier["finished"]) if earlier.get("finished") else None
    facts = TrainingFacts.from_dict(earlier["training"]) if earlier.get("training") else None
    quantised = Quantised.from_dict(earlier["quantised"]) if earlier.get("quantised") else None
    known = replace(
        result,
        networks=tuple(replace(row, latency_ms=latencies.get(str(row.code))) for row in result.networks),
        confirmation=_confirmation(earlier.get("confirmation"), found, plan),
    )
    return replace(
        known,
        quantised=still_quantised(quantised, known),
        finished=finished if finished is not None and finished.code == str(known.taken_in_full.code) else None,
        training=result.training or facts,
        versions=result.versions or ({str(k): str(v) for k, v in before.items()} if isinstance(before, dict) else {}),
    )


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on, read without importing them."""
    from importlib.metadata import version

    from bsszoo.version import __version__

    names = ("optuna", "numpy", "scipy", "torch", "timm")
    return {"bsszoo": __version__, "python": platform.python_version(), **{n: version(n) for n in names}}


def seconds_of(earlier: Mapping[str, Any] | None) -> float:
    """Duration of a run [s] by its ``result.json``; 0 without one, or where it is no number."""
    seconds = (earlier or {}).get("seconds")
    return float(seconds) if is_number(seconds) else 0.0


def _notes(
    plan: Plan,
    evaluator: Evaluator,
    trials: Sequence[TrialRow],
    best: float | None,
    wanted: int,
    phases: Mapping[str, Sequence[str]],
) -> list[str]:
    notes = list(phases.get("controls", ()))
    if len(plan.candidates) < wanted:
        notes.append(
            f"Only {len(plan.candidates)} codes keep the limits: all were evaluated, where {wanted} "
            "trials were requested."
        )
    doubt = None if best is None else evaluator.doubt(best)
    notes += [] if doubt is None else [doubt]
    failed = sum(t.state == "failed" for t in trials)
    if failed:
        notes.append(f"{failed} of {len(trials)} trials failed; trials.csv holds their reasons.")
    notes += [*phases.get("measure", ()), *phases.get("confirm", ())]
    if evaluator.info.heuristic and plan.space.num_classes == IMAGENET and plan.space.head is None:
        # Nothing was trained, and the codes are for ImageNet: what has been trained within the budget is worth knowing.
        notes += filter(None, [ready_instead(plan.budget.macs)])
    return notes


def _confirmation(earlier: Mapping[str, Any] | None, found: Mapping[str, Code], plan: Plan) -> Confirmation | None:
    """The confirmation, where its codes are still the best, by their labels."""
    confirmation = None if earlier is None else Confirmation.from_dict(earlier, plan.space.cost)
    if confirmation is None or any(r.role == "found" and found.get(r.label) != r.code for r in confirmation.rows):
        return None
    return confirmation


def still_quantised(quantised: Quantised | None, result: CompressResult) -> Quantised | None:
    """What quantisation changes of those networks whose trainings are still the ones that are taken."""
    labels = {row.code: row.label for row in result.networks}
    trained = {code: result.confirmed(code) for code in labels}
    rows = [
        replace(row, label=labels[row.code])
        for row in (() if quantised is None else quantised.rows)
        if (of := trained.get(row.code)) is not None and of.taken == row.number
    ]
    return replace(quantised, rows=tuple(rows)) if quantised is not None and rows else None


def controls_of(plan: Plan) -> dict[Literal["original", "uniform"], Code]:
    """The networks that the best codes are compared with."""
    return {"original": plan.reference, "uniform": plan.uniform}


def control_rows(plan: Plan, evaluator: Evaluator, scores: Mapping[str, float]) -> list[NetworkRow]:
    """The controls with their scores; a missing one is computed where the evaluator is free."""
    rows = []
    for role, code in controls_of(plan).items():
        cost, value = plan.space.cost(code), scores.get(str(code))
        if value is None and evaluator.free and evaluator.compares(cost, plan.candidates, plan.budget.macs):
            value = evaluator(code).value
        rows.append(NetworkRow(role, role, code, cost, value, None))
    return rows


def training_facts(how: FullTraining | None, folder: Path) -> TrainingFacts | None:
    """How a code is trained on the user's images, with its recipe in the folder; None without images."""
    from bsszoo.train.classification.recipe import recipe_text

    if how is None:
        return None
    write_whole(folder / TRAINING_RECIPE, recipe_text(how.recipe))
    return TrainingFacts(str(folder), TRAINING_RECIPE, how.data, how.num_classes, how.in_chans)


def candidates_fingerprint(plan: Plan) -> str:
    """A fingerprint of the candidates that were drawn."""
    return hashlib.sha256(plan.candidates.codes.tobytes()).hexdigest()[:16]


def prediction_error(networks: Sequence[NetworkRow], limit: float | None = None) -> list[str]:
    """Sentences on how far the predicted latencies are from the measured ones, and from a limit; none without both."""
    rows = ((row.predicted_ms, row.latency_ms) for row in networks)
    pairs = [(guess, ms) for guess, ms in rows if guess is not None and ms is not None]
    if not pairs:
        return []
    errors = [100 * (guess - ms) / ms for guess, ms in pairs]
    notes = [
        f"Predicted latencies differ from the measured ones by {np.median(np.abs(errors)):.0f}% at the median, "
        f"{min(errors):+.0f}% to {max(errors):+.0f}%, over {len(errors)} networks."
    ]
    found = [row for row in networks if row.role == "found" and row.latency_ms is not None]
    beyond = [row.label for row in found if limit is not None and (row.latency_ms or 0.0) > SLOWER * limit]
    if limit is not None and beyond:
        slowest = max(row.latency_ms or 0.0 for row in found)
        notes.append(
            f"Measured to be slower than the limit of {limit:.4g} ms: {', '.join(beyond)}. "
            f"--latency {limit * limit / slowest:.3g} leaves room for it."
        )
    return notes


def slower_than_uniform(networks: Sequence[NetworkRow]) -> list[str]:
    """A sentence on the codes that were measured to be slower than the uniformly rescaled network; none without any."""
    least = next((row.latency_ms for row in networks if row.role == "uniform"), None)
    if least is None:
        return []
    slower = [
        f"{row.label} ({100 * (row.latency_ms / least - 1):+.0f}%)"
        for row in networks
        if row.role == "found" and row.latency_ms is not None and row.latency_ms > SLOWER * least
    ]
    return [f"Measured to be slower than the uniformly rescaled network: {', '.join(slower)}."] if slower else []


def by_trainings(plan: Plan, trials: Sequence[TrialRow], seed: int) -> Sequence[TrialRow]:
    """The trials where each code was evaluated once; else one of each code, its score what all trainings say of it.

    That is the posterior mean by which ``AutoBSSSampler.recommend`` ranks: the mean of a code's own trainings, drawn to
    what the model says of it as far as they have noise.
    """
    done = [trial for trial in trials if trial.score is not None]
    first: dict[Code, TrialRow] = {}
    for trial in done:
        first.setdefault(trial.code, trial)
    if len(first) == len(done):
        return trials
    leaders = leaders_of_rows(plan.candidates, done, seed=seed)
    return [replace(trial, score=leaders[code].mean) for code, trial in first.items()]


def leading(trials: Sequence[TrialRow], most: int) -> list[TrialRow]:
    """Up to ``most`` finished trials of different codes, best first."""
    done = sorted((t for t in trials if t.score is not None), key=lambda t: (-float(t.score or 0), t.number))
    first: dict[Code, TrialRow] = {}
    for trial in done:
        first.setdefault(trial.code, trial)
    return list(first.values())[:most]


def closing(trials: Sequence[TrialRow], most: int, *, leaders: int) -> list[TrialRow]:
    """The ``leaders`` best codes of the finished trials, then ``diverse`` ones, up to ``most``, best first."""
    first = leading(trials, min(leaders, most))
    codes = {trial.code for trial in first}
    differ = [trial for trial in diverse(trials, most) if trial.code not in codes]
    return leading([*first, *differ[: most - len(first)]], most)


def diverse(trials: Sequence[TrialRow], most: int) -> list[TrialRow]:
    """Up to ``most`` finished trials of different codes, best first: several to train and compare.

    Taken from the better half by score: the best one, then always the best that lies at least a gap from all taken.
    The gap is the largest (shrinking from the median distance of the evaluated codes, each entry divided by its spread)
    at which there are enough codes, so they are as different as their number allows.
    """
    done = leading(trials, len(trials))
    if len(done) <= 1:
        return done[:most]
    form = common_form(t.code for t in done)
    entries = np.array([entries_of(t.code, form) for t in done], dtype=np.float64)
    spread = entries.std(axis=0)
    points = entries / np.where(spread > 0, spread, 1.0)
    distance = cdist(points, points)
    pool = range(-(-len(done) // 2))
    gap = float(np.median(distance[np.triu_indices(len(done), k=1)]))
    for _ in range(60):
        taken: list[int] = []
        for i in pool:
            if len(taken) < most and all(distance[i, j] >= gap for j in taken):
                taken.append(i)
        if len(taken) == min(most, len(pool)):
            break
        gap *= 0.9
    return [done[i] for i in taken]
