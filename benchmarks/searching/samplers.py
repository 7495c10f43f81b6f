"""The samplers that are compared, by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from searching import plain, studies
from searching.protocol import Sampler
from searching.task import Task

#: A task, the seed of the repeat and the size of a batch.
Make = Callable[[Task, int, int], Sampler]


@dataclass(frozen=True)
class Entry:
    """A sampler of the comparison; ``needs_box`` is set for one that runs only where every code of the box is known."""

    what: str
    make: Make
    needs_box: bool = False


def _botorch(task: Task, seed: int) -> Sampler:
    # Only here: torch alone takes seconds to load, and most comparisons never need it.
    from searching.botorch_peer import NoisyImprovement

    return NoisyImprovement(task, seed)


#: The cheap ones first: an interrupted comparison then holds the most.
SAMPLERS: dict[str, Entry] = {
    "random": Entry("uniform over the candidates, without replacement", lambda t, s, _: plain.RandomSearch(t, s)),
    "evolution": Entry("regularized evolution, population 32, tournament 8", lambda t, s, _: plain.Evolution(t, s)),
    "hill": Entry("hill climbing by one entry, then around the next best", lambda t, s, _: plain.HillClimbing(t, s)),
    "tpe": Entry("Optuna's TPESampler, repaired to the nearest free candidate", lambda t, s, _: studies.tpe(t, s)),
    "paper": Entry('AutoBSSSampler(mode="paper")', lambda t, s, b: studies.ours(t, s, "paper", b)),
    "default": Entry('AutoBSSSampler(mode="default")', lambda t, s, b: studies.ours(t, s, "default", b)),
    "replicates": Entry(
        "AutoBSSSampler(replicates=0.25), and the code that it recommends", lambda t, s, _: studies.ours_again(t, s)
    ),
    "gp-candidates": Entry(
        "GPSampler's model and acquisition over the candidates", lambda t, s, _: studies.OverCandidates(t, s)
    ),
    "gp-repair": Entry(
        "Optuna's GPSampler, repaired to the nearest free candidate", lambda t, s, _: studies.gp_repair(t, s)
    ),
    "gp-constraints": Entry(
        "GPSampler with the budget as a constraint; over-budget suggestions cost nothing",
        lambda t, s, _: studies.Constrained(t, s),
        needs_box=True,
    ),
    "botorch": Entry("BoTorch's qLogNoisyExpectedImprovement over the candidates", lambda t, s, _: _botorch(t, s)),
}


def missing() -> dict[str, str]:
    """Samplers that cannot run here, and why."""
    return {} if importlib.util.find_spec("botorch") else {"botorch": "not installed"}
