"""Any Optuna study with one objective as a view for the report: its parameters become integer codes.

An integer parameter is its own entry. A real one, or one on a logarithmic scale, is seen in a thousand steps of its
range; a categorical one by the place of its choice. The model then averages over the box of all ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bsszoo.errors import SettingsError
from bsszoo.report.study_page import StudyTrial, StudyView, counted
from bsszoo.search.insight import Insight, study_insight
from bsszoo.spaces.candidate_set import CandidateSet

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# Steps in which a parameter that is no plain integer is seen.
_STEPS: Final = 1000
# Combinations drawn from the box.
_DRAWN: Final = 2000
_WORDS: Final = {
    "COMPLETE": "complete",
    "FAIL": "failed",
    "PRUNED": "pruned",
    "RUNNING": "running",
    "WAITING": "waiting",
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A parameter as an entry of a code: how a value becomes an integer from low to high, and what that shows as."""

    name: str
    low: int
    high: int
    encode: Callable[[Any], int]
    shown: Callable[[float], str]


def study_view(study: Study, storage: str) -> StudyView:
    """What the report shows of a study.

    Args:
        study: The study.
        storage: Its storage as it may be shown.

    Raises:
        SettingsError: It has several objectives, or no complete trial.
    """
    from optuna.study import StudyDirection

    if len(study.directions) > 1:
        raise SettingsError(
            f"The study {study.study_name!r} has {len(study.directions)} objectives; this report shows "
            "one. See optuna.visualization.plot_pareto_front(study), or optuna-dashboard."
        )
    frozen = study.get_trials(deepcopy=False)
    trials = tuple(_trial(t) for t in frozen)
    if not any(t.value is not None for t in trials):
        raise no_result(study.study_name, trials)
    maximise = study.direction == StudyDirection.MAXIMIZE
    entries, notes = _entries([t for t, row in zip(frozen, trials, strict=True) if row.value is not None])
    insight, ends = _insight(entries, frozen, trials, maximise=maximise)
    lost = sum(t.state.name == "COMPLETE" and row.value is None for t, row in zip(frozen, trials, strict=True))
    if lost:
        notes.append(
            f"{lost} complete {'trial has' if lost == 1 else 'trials have'} a value that is no finite number. "
            "The page leaves them out, of the best so far too; Optuna may call one of them the best."
        )
    if not entries:
        notes.append(
            "No parameter is in every complete trial with more than one value: there is nothing to learn a share from."
        )
    name = (study.metric_names or ["value"])[0]
    return StudyView(study.study_name, storage, name, maximise, trials, insight, ends=ends, notes=tuple(notes))


def no_result(name: str, trials: Sequence[StudyTrial]) -> SettingsError:
    """The error that a study has no complete trial."""
    held = counted(t.state for t in trials)
    return SettingsError(
        f"The study {name!r} has no complete trial ({held}): there is nothing to report yet. Run its "
        "search, or wait for its first result, and ask again."
    )


def state_of(trial: FrozenTrial) -> str:
    """A trial's state in a word: complete, failed, pruned, running, waiting."""
    return _WORDS[trial.state.name]


def _trial(trial: FrozenTrial) -> StudyTrial:
    # Trials of several objectives never come here; a value that is no number says as little as none.
    value = trial.value if trial.state.name == "COMPLETE" else None
    kept = value if value is not None and math.isfinite(value) else None
    return StudyTrial(trial.number, state_of(trial), kept, {n: _show(v) for n, v in trial.params.items()})


def _show(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _entries(done: Sequence[FrozenTrial]) -> tuple[list[_Entry], list[str]]:
    """The parameters that every complete trial has and that can differ, and what to say of the others."""
    found, partial, notes = [], [], []
    for name in dict.fromkeys(n for t in done for n in t.params):
        if any(name not in t.params for t in done):
            partial.append(name)
            continue
        entry = _entry(name, [t.distributions[name] for t in done])
        if entry is not None:
            found.append(entry)
            if entry.high - entry.low > 1 and any(hasattr(t.distributions[name], "choices") for t in done):
                notes.append(f"{name}: choices are taken in the order in which the study lists them, numbers by size.")
    if partial:
        notes.append(f"Left out, as not every complete trial has it: {', '.join(partial)}.")
    return found, notes


def _entry(name: str, distributions: Sequence[BaseDistribution]) -> _Entry | None:
    """The entry of a parameter over all ranges that its trials had; None when it can take one value only."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if any(isinstance(d, CategoricalDistribution) for d in distributions):
        choices = list(
            dict.fromkeys(c for d in distributions if isinstance(d, CategoricalDistribution) for c in d.choices)
        )
        if all(isinstance(c, (int, float)) for c in choices):
            choices.sort()
        if len(choices) < 2:
            return None
        return _Entry(name, 0, len(choices) - 1, choices.index, lambda i: str(choices[round(i)]))
    ranged = [d for d in distributions if isinstance(d, (IntDistribution, FloatDistribution))]
    low, high = min(d.low for d in ranged), max(d.high for d in ranged)
    if not ranged or low == high:
        return None
    log = all(d.log for d in ranged)
    if not log and all(isinstance(d, IntDistribution) for d in ranged):
        return _Entry(name, int(low), int(high), int, lambda v: f"{v:.4g}")
    a, b = (math.log(low), math.log(high)) if log else (low, high)

    def encode(value: Any) -> int:
        return round(_STEPS * ((math.log(value) if log else value) - a) / (b - a))

    def shown(step: float) -> str:
        at = a + (b - a) * step / _STEPS
        return f"{math.exp(at) if log else at:.3g}"

    return _Entry(name, 0, _STEPS, encode, shown)


def _insight(
    entries: Sequence[_Entry], frozen: Sequence[FrozenTrial], trials: Sequence[StudyTrial], *, maximise: bool
) -> tuple[Insight | None, dict[str, tuple[str, str]]]:
    pairs = [(t, row.value) for t, row in zip(frozen, trials, strict=True) if row.value is not None]
    if len(pairs) < 2 or not entries:
        return None, {}
    codes = np.array([[e.encode(t.params[e.name]) for e in entries] for t, _ in pairs], dtype=np.int64)
    values = np.array([value for _, value in pairs], dtype=np.float64)
    rng = np.random.default_rng([*b"box"])
    box = np.stack([rng.integers(e.low, e.high, _DRAWN, endpoint=True) for e in entries], axis=1)
    insight = study_insight(CandidateSet(box, names=tuple(e.name for e in entries)), codes, values, maximise=maximise)
    ends = {
        e.name: (e.shown(float(effect.values[0])), e.shown(float(effect.values[-1])))
        for e, effect in zip(entries, insight.effects, strict=False)
    }
    return insight, ends
