"""What a compression run found, as one frozen value: written to ``result.json`` and read by the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits on a code: ``min_macs <= MACs <= macs`` [multiply-adds], and the others where given.

    ``params`` and ``activations`` [elements] are counts; ``latency_ms`` is in ms, as the run's latency model tells it.
    """

    macs: int
    min_macs: int = 0
    params: int | None = None
    activations: int | None = None
    latency_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; activations and latency only where they are limited."""
        more = {"activations": self.activations, "latency_ms": self.latency_ms}
        return {"macs": self.macs, "min_macs": self.min_macs, "params": self.params,
                **{name: value for name, value in more.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One evaluated code. ``score`` is None and ``error`` says why when the evaluation failed.

    ``trace`` holds the last lines of a failed evaluation's traceback.
    """

    number: int
    code: Code
    cost: Cost
    score: float | None
    state: Literal["complete", "failed"]
    seconds: float
    batch: int
    error: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """One network of the closing table: a control (``original``, ``uniform``) or a code found.

    ``latency_ms`` is the median time of one forward of one image on the machine of the run [ms], None when it was
    not measured; ``score`` None when the network was not evaluated.
    """

    label: str
    role: Literal["original", "uniform", "found"]
    code: Code
    cost: Cost
    score: float | None
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class EvaluatorInfo:
    """What judged the codes: its name as given on the command line, what the score is, and what it is not."""

    name: str
    measures: str
    caution: str | None = None


@dataclass(frozen=True, slots=True)
class CompressResult:
    """A finished search. ``networks`` starts with the controls; the found codes follow, best first.

    ``caps`` are the limits beside the budget in words, ``notes`` what the run had to say (a cap dropped, a trial
    failed), ``candidates`` the number of feasible codes that the search chose from, ``scale`` the factor of the grid.
    """

    family: str
    reference: str
    budget: Budget
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

    @property
    def best(self) -> NetworkRow:
        """The best code found."""
        return next(n for n in self.networks if n.role == "found")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: what ``result.json`` holds (trials are in ``trials.csv``)."""
        return {
            "family": self.family,
            "reference": self.reference,
            "budget": self.budget.to_dict(),
            "best": _network(self.best),
            "networks": [_network(n) for n in self.networks],
            "evaluator": {"name": self.evaluator.name, "measures": self.evaluator.measures,
                          "caution": self.evaluator.caution},
            "seed": self.seed,
            "scale": self.scale,
            "candidates": self.candidates,
            "caps": list(self.caps),
            "notes": list(self.notes),
            "trials": {"complete": sum(t.state == "complete" for t in self.trials),
                       "failed": sum(t.state == "failed" for t in self.trials)},
            "seconds": round(self.seconds, 3),
            "versions": dict(self.versions),
        }


def _network(row: NetworkRow) -> dict[str, Any]:
    return {
        "label": row.label,
        "role": row.role,
        "code": str(row.code),
        "code_parts": row.code.to_dict(),
        "macs": row.cost.macs,
        "two_x_macs": row.cost.macs2,
        "params": row.cost.params,
        "activations": row.cost.activations,
        "score": row.score,
        "latency_ms": row.latency_ms,
    }
