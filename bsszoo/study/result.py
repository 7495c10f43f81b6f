"""The result of a compression run, as one frozen value: written to ``result.json`` and read by the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, code_cost
from bsszoo.codes.detector import DetectorHead
from bsszoo.evaluators.base import EvaluatorInfo


def _is(kind: type, value: Any, *, none: bool = False) -> Any:
    """A value from a file, when it is of a kind; a ``ValueError`` otherwise. A whole number is a float too."""
    if none and value is None:
        return None
    kinds = (int, float) if kind is float else (kind,)
    if (
        not isinstance(value, kinds)
        or isinstance(value, bool)
        or (isinstance(value, (int, float)) and not abs(value) < 1e300)
    ):
        raise ValueError(f"{str(value)[:80]!r} is not a {kind.__name__}")
    return value


@dataclass(frozen=True, slots=True)
class ResolvedBudget:
    """Hard limits on a code: ``min_macs <= MACs <= macs`` [multiply-adds], and the others unless None.

    ``params`` and ``activations`` [elements] are counts; ``latency_ms`` is the run's latency model's prediction [ms].
    ``min_params`` and ``min_latency_ms`` are set where multiply-adds are not what the budget is about.
    """

    macs: int
    min_macs: int = 0
    params: int | None = None
    activations: int | None = None
    latency_ms: float | None = None
    min_params: int | None = None
    min_latency_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; what not every run limits only where it is limited."""
        more = {name: getattr(self, name) for name in ("activations", "latency_ms", "min_params", "min_latency_ms")}
        return {
            "macs": self.macs,
            "min_macs": self.min_macs,
            "params": self.params,
            **{name: value for name, value in more.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One evaluated code. ``score`` is None where the evaluation failed, which ``error`` says why, or was pruned.

    ``reports`` are the values at the ends of its rungs, as (rung, value); ``trace`` holds the last lines of a failed
    evaluation's traceback; ``repeats`` the results that the score is the mean of, where the evaluator gave several.
    """

    number: int
    code: Code
    cost: Cost
    score: float | None
    state: Literal["complete", "pruned", "failed"]
    seconds: float
    batch: int
    error: str | None = None
    trace: str | None = None
    repeats: tuple[float, ...] = ()
    reports: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """One network of the closing table: a control (``original``, ``uniform``) or a code of the search.

    ``latency_ms`` is the median time of one forward on the machine of the run [ms], None when it was
    not measured; ``predicted_ms`` the prediction of the limit's latency model [ms], None without one; ``score`` None
    when the network was not evaluated.
    """

    label: str
    role: Literal["original", "uniform", "found"]
    code: Code
    cost: Cost
    score: float | None
    latency_ms: float | None
    predicted_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ConfirmedRow:
    """A network whose fresh trainings were measured on images that the search never used.

    ``tests`` are their results [%]; ``low`` to ``high`` is the 95% interval of their mean, None where there is none.
    ``held`` are the results of the same trainings on the images by which networks are chosen, and ``numbers`` which
    trainings they are: those that failed are none of them.
    """

    label: str
    role: Literal["original", "uniform", "random", "found"]
    code: Code
    cost: Cost
    tests: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    held: tuple[float, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def taken(self) -> int:
        """Which of its trainings is taken: the best by the images by which networks are chosen."""
        values = self.held or self.tests
        return self.numbers[max(range(len(values)), key=values.__getitem__)]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The best code beside the controls at its budget, all trained afresh in the same way.

    ``measures`` describes the results, ``verdicts`` the conclusions they allow, ``notes`` what went wrong.
    """

    measures: str
    rows: tuple[ConfirmedRow, ...]
    verdicts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` takes."""
        rows = [
            {
                "label": r.label,
                "role": r.role,
                "code": str(r.code),
                "macs": r.cost.macs,
                "tests": list(r.tests),
                "low": r.low,
                "high": r.high,
                **({"held": list(r.held)} if r.held else {}),
                **({"numbers": list(r.numbers)} if r.numbers != tuple(range(len(r.numbers))) else {}),
            }
            for r in self.rows
        ]
        return {"measures": self.measures, "networks": rows, "verdicts": list(self.verdicts), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], cost_of: Callable[[Code], Cost] = code_cost) -> Confirmation:
        """A confirmation as it was written; ``cost_of`` counts a code, of a detector's backbone with the detector.

        Raises:
            ValueError: It is none.
            KeyError: A part of it is missing.
        """
        rows = []
        for row in data["networks"]:
            code, role = Code.parse(row["code"]), row["role"]
            if role not in ("original", "uniform", "random", "found"):
                raise ValueError(f"{role!r} is no role of a network")
            tests = tuple(_is(float, v) for v in row["tests"])
            rows.append(
                ConfirmedRow(
                    _is(str, row["label"]),
                    role,
                    code,
                    cost_of(code),
                    tests,
                    _is(float, row["low"], none=True),
                    _is(float, row["high"], none=True),
                    tuple(_is(float, v) for v in row.get("held", ())),
                    tuple(_is(int, v) for v in row.get("numbers", range(len(tests)))),
                )
            )
        return cls(
            _is(str, data["measures"]),
            tuple(rows),
            tuple(_is(str, v) for v in data["verdicts"]),
            tuple(_is(str, v) for v in data["notes"]),
        )


@dataclass(frozen=True, slots=True)
class QuantisedRow:
    """A trained network in float32 and quantised, both run by one runtime on the same images.

    ``training`` is the name of the training whose weights these are, and ``number`` which one of the network's it is.
    ``float_top1`` and ``top1`` are accuracies [%] on ``images`` images, of which ``lost`` are right in float32 alone
    and ``won`` quantised alone; ``float_bytes`` and ``bytes`` the files' sizes; ``float_ms`` and ``ms`` median times of
    a forward [ms], None where they were not measured.
    """

    label: str
    code: Code
    training: str
    number: int
    images: int
    float_top1: float
    top1: float
    lost: int
    won: int
    float_bytes: int
    bytes: int
    float_ms: float | None = None
    ms: float | None = None

    @property
    def loss(self) -> float:
        """Points of accuracy that it loses; below 0 where it gains some."""
        return self.float_top1 - self.top1


#: A network that loses more points of accuracy than this quantises badly.
LARGE_LOSS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Quantised:
    """What quantisation changes of the trained networks.

    ``precision`` is ``int8``, ``method`` says how they were quantised, ``calibrated`` on how many images, ``measures``
    what the accuracies are of, and ``timed`` how latencies were measured, None where they were not.
    """

    precision: str
    method: str
    calibrated: int
    measures: str
    rows: tuple[QuantisedRow, ...]
    timed: str | None = None

    @property
    def verdicts(self) -> tuple[str, ...]:
        """A sentence for each network that quantises badly, or one that none does."""
        names = {"original": "The original network", "uniform": "The uniform network"}
        bad = tuple(
            f"{names.get(row.label, row.label)} quantises badly: {row.top1:.2f}% in {self.precision}, {row.loss:.2f} "
            f"points below its {row.float_top1:.2f}% in float32; of {row.images:,} images {row.lost:,} are lost and "
            f"{row.won:,} gained."
            for row in self.rows
            if row.loss > LARGE_LOSS
        )
        return bad or (f"None of these loses more than {LARGE_LOSS:g} point in {self.precision}.",)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` takes."""
        rows = [{**asdict(row), "code": str(row.code)} for row in self.rows]
        return {
            "precision": self.precision,
            "method": self.method,
            "calibrated": self.calibrated,
            "measures": self.measures,
            "timed": self.timed,
            "networks": rows,
            "verdicts": list(self.verdicts),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Quantised:
        """As it was written; ``KeyError`` or ``ValueError`` where it is something else."""
        return cls(
            _is(str, data["precision"]),
            _is(str, data["method"]),
            _is(int, data["calibrated"]),
            _is(str, data["measures"]),
            tuple(
                QuantisedRow(
                    label=_is(str, row["label"]),
                    code=Code.parse(row["code"]),
                    training=_is(str, row["training"]),
                    **{name: _is(int, row[name]) for name in ("number", "images", "lost", "won")},
                    **{name: _is(int, row[name]) for name in ("float_bytes", "bytes")},
                    **{name: _is(float, row[name]) for name in ("float_top1", "top1")},
                    **{name: _is(float, row[name], none=True) for name in ("float_ms", "ms")},
                )
                for row in data["networks"]
            ),
            _is(str, data["timed"], none=True),
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """The best code's training in full: its accuracy [%] on a split, its initial weights and its teacher."""

    code: str
    folder: str
    top1: float
    top5: float
    images: int
    measured_on: str
    epochs: int
    inherited: str | None = None
    teacher: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, which ``from_dict`` takes."""
        return {"pictures" if name == "images" else name: value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finished:
        """As it was written; ``KeyError`` or ``ValueError`` where it is something else."""
        return cls(
            code=_is(str, data["code"]),
            folder=_is(str, data["folder"]),
            top1=_is(float, data["top1"]),
            top5=_is(float, data["top5"]),
            images=_is(int, data["pictures"]),
            measured_on=_is(str, data["measured_on"]),
            epochs=_is(int, data["epochs"]),
            inherited=_is(str, data["inherited"], none=True),
            teacher=_is(str, data["teacher"], none=True),
        )

    def __str__(self) -> str:
        text = (
            f"Finished: top-1 {self.top1:.2f}%, top-5 {self.top5:.2f}% of {self.images:,} images "
            f"({self.measured_on}) after {self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        )
        text += f"; inherited {self.inherited}" if self.inherited else ""
        return text + (f"; taught by {self.teacher}" if self.teacher else "")


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """How a run's codes are trained on the user's images, for the commands that train the best code.

    ``recipe`` is a file in the run's folder, ``folder`` that folder, ``data`` the images', as the user wrote it.
    """

    folder: str
    recipe: str
    data: str | None
    num_classes: int
    in_chans: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingFacts:
        """As they were written; ``KeyError`` or ``ValueError`` where they are something else.

        They become part of commands that a user copies, so a text instead of a number would be run.
        """
        return cls(
            _is(str, data["folder"]),
            _is(str, data["recipe"]),
            _is(str, data["data"], none=True),
            _is(int, data["num_classes"]),
            _is(int, data["in_chans"]),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """A finished search. ``networks`` starts with the controls; the search's codes follow, best first.

    ``caps`` are the limits beside the budget in words, ``notes`` the run's messages (a cap dropped, a trial failed),
    ``candidates`` the number of feasible codes that the search chose from, ``scale`` the factor of the grid,
    ``head`` the detector's head on the codes of a detector's search, ``runtime`` what latencies were measured with,
    ``train`` the command that trains its codes where that is left to do, ``quantised`` what quantisation changes.
    """

    family: str
    reference: str
    budget: ResolvedBudget
    evaluator: EvaluatorInfo
    seed: int
    scale: float
    candidates: int
    caps: tuple[str, ...]
    notes: tuple[str, ...]
    networks: tuple[NetworkRow, ...]
    trials: tuple[TrialRow, ...]
    seconds: float
    versions: Mapping[str, str]
    confirmation: Confirmation | None = None
    finished: Finished | None = None
    training: TrainingFacts | None = None
    head: DetectorHead | None = None
    runtime: str = "pytorch"
    train: str | None = None
    quantised: Quantised | None = None

    def name_of(self, code: Code) -> str:
        """The text by which the network of a code is built: the code's, or that of the detector on it."""
        return str(code if self.head is None else self.head.on(code))

    @property
    def noise(self) -> float | None:
        """Standard deviation of one evaluation around its code's mean, over the codes evaluated several times."""
        repeated = [t.repeats for t in self.trials if len(t.repeats) > 1]
        freedom = sum(len(r) - 1 for r in repeated)
        if not freedom:
            return None
        return math.sqrt(sum((v - sum(r) / len(r)) ** 2 for r in repeated for v in r) / freedom)

    @property
    def best(self) -> NetworkRow:
        """The best code of the search."""
        return next(n for n in self.networks if n.role == "found")

    @property
    def untrained(self) -> bool:
        """Whether codes were judged by a heuristic, and none has been trained."""
        return self.evaluator.heuristic and self.confirmation is None and self.finished is None

    @property
    def recommended(self) -> NetworkRow:
        """The network to take: here, where nothing says more than scores, the best."""
        return self.best

    @property
    def set_apart(self) -> NetworkRow:
        """The network whose rows stand out: the recommended one, or the best where none is recommended."""
        return self.recommended if self.recommendation else self.best

    @property
    def weights(self) -> str | None:
        """The folder of the recommended network with its weights; None where it has none."""
        return None

    @property
    def recommendation(self) -> str | None:
        """Which network to take, in a sentence; None where nothing is recommended."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: what ``result.json`` holds (trials are in ``trials.csv``)."""
        return {
            "family": self.family,
            "reference": self.reference,
            "budget": self.budget.to_dict(),
            "best": self._network(self.best),
            "networks": [self._network(n) for n in self.networks],
            "evaluator": {
                "name": self.evaluator.name,
                "measures": self.evaluator.measures,
                "caution": self.evaluator.caution,
            },
            "seed": self.seed,
            "scale": self.scale,
            "candidates": self.candidates,
            "caps": list(self.caps),
            "notes": list(self.notes),
            "trials": {
                "complete": sum(t.state == "complete" for t in self.trials),
                "pruned": sum(t.state == "pruned" for t in self.trials),
                "failed": sum(t.state == "failed" for t in self.trials),
            },
            "noise": self.noise,
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            **({} if self.quantised is None else {"quantised": self.quantised.to_dict()}),
            "finished": None if self.finished is None else self.finished.to_dict(),
            "training": None if self.training is None else asdict(self.training),
            "seconds": round(self.seconds, 3),
            "runtime": self.runtime,
            "versions": dict(self.versions),
        }

    def _network(self, row: NetworkRow) -> dict[str, Any]:
        return {
            "label": row.label,
            "role": row.role,
            "code": str(row.code),
            **({} if self.head is None else {"network": self.name_of(row.code)}),
            "code_parts": row.code.to_dict(),
            "macs": row.cost.macs,
            "two_x_macs": row.cost.macs2,
            "params": row.cost.params,
            "activations": row.cost.activations,
            "score": row.score,
            "latency_ms": row.latency_ms,
            "predicted_latency_ms": row.predicted_ms,
        }
