"""A study as its sampler sees it: the codes of its trials, their results, and those whose worker was lost.

A trial's code is in its parameters or, from the moment it is chosen, in a system attribute that one write sets as a
whole: other processes then see the code before Optuna has written its parameters one by one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, Trial, TrialState

from bsszoo.optuna_parts import read_again
from bsszoo.spaces.candidate_set import CandidateSet, is_whole

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CodeTuple = tuple[int, ...]

#: System attribute with the code [d] that the sampler chose for a trial.
CHOSEN: Final = "bsszoo:code"
#: User attribute of a trial that trains a code again: how many other trials had the code when it was chosen.
REPLICATE: Final = "bsszoo:replicate"
#: User attribute of a trial that was given up without a result: ``LOST``, ``RETURNED`` or ``SURPLUS``.
DROPPED: Final = "bsszoo:dropped"
#: Its worker died; the code is evaluated again, once.
LOST: Final = "worker lost"
#: Its worker was stopped and returned the code; it is evaluated again.
RETURNED: Final = "given back"
#: It was asked for when enough others were; the code is free again.
SURPLUS: Final = "not needed"
#: User attribute that counts the evaluations of a trial that began and did not end: each took its process with it.
STARTED: Final = "bsszoo:started"
#: User attribute of a trial whose worker died: how it ended, in words.
ENDED: Final = "bsszoo:ended"
#: Number of processes that a code's evaluation ends before the code counts as failed.
MOST_DEATHS: Final = 2
#: User attribute with the result of an evaluation, set as a whole before the trial is told.
RESULT: Final = "bsszoo:result"


def code_of(trial: FrozenTrial, names: Sequence[str]) -> CodeTuple | None:
    """A trial's code: its parameters, else the code chosen or enqueued for it; None while there is no whole one."""
    for params in (trial.params, trial.system_attrs.get("fixed_params", {})):
        if isinstance(params, Mapping) and is_whole(params, names):
            code = _whole_numbers([params[n] for n in names])
            if code is not None:
                return code
    chosen = trial.system_attrs.get(CHOSEN)
    # A study of other entries has codes of another length.
    if not isinstance(chosen, (list, tuple)) or len(chosen) != len(names) or not trial.params.keys() <= set(names):
        return None
    return _whole_numbers(chosen)


def replicate_of(trial: FrozenTrial | Trial) -> int:
    """Which training of its code a trial is: 0 for the first, and where codes are not trained again.

    A seed that differs with it makes the trainings of a code independent of each other.

    Example:
        >>> import optuna
        >>> replicate_of(optuna.create_study().ask())
        0
    """
    number = (trial if isinstance(trial, FrozenTrial) else read_again(trial.study, trial)).user_attrs.get(REPLICATE)
    return number if isinstance(number, int) and number > 0 else 0


def _whole_numbers(values: Sequence[object]) -> CodeTuple | None:
    """Values as a code; None where one is no whole number of 64 bits, as in a study that something else wrote."""
    whole = [int(v) for v in values if isinstance(v, (int, float, np.integer)) and abs(v) < 2**63 and int(v) == v]
    return tuple(whole) if len(whole) == len(values) else None


def result_of(trial: FrozenTrial) -> dict[str, Any] | None:
    """The result of a trial's evaluation; None before it is written, and where the attribute is something else.

    ``value`` is a finite number or None, ``pruned`` whether it stopped after a rung, ``seconds`` a number, ``error``
    and ``trace`` texts or None, ``repeats`` numbers.
    """
    result = trial.user_attrs.get(RESULT)
    if not isinstance(result, Mapping) or not (result.get("value") is None or is_number(result["value"])):
        return None
    texts = {key: result[key] if isinstance(result.get(key), str) else None for key in ("error", "trace")}
    repeats = result.get("repeats", ())
    return {
        "value": result.get("value"),
        "pruned": result.get("pruned") is True and result.get("value") is None,
        "seconds": result["seconds"] if is_number(result.get("seconds")) else 0.0,
        **texts,
        "repeats": tuple(repeats) if isinstance(repeats, list) and all(map(is_number, repeats)) else (),
    }


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from outside is a finite number."""
    if isinstance(value, float):
        return math.isfinite(value)
    # Larger ones do not become floats.
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1000


def dropped(trial: FrozenTrial) -> str | None:
    """Why a trial was given up, or None. One that was completed or holds a result was not, whatever was written later.

    The write of the attribute decides, not the state: a process may be killed between the two. A result that came in
    just as the trial was ended without it is not stored by Optuna, so that trial counts as given up after all.
    """
    why = trial.user_attrs.get(DROPPED)
    result = result_of(trial)
    late = trial.state == TrialState.FAIL and result is not None and result["value"] is not None
    if why is None or trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or (result is not None and not late):
        return None
    return str(why)


def deaths(trial: FrozenTrial, trials: Sequence[FrozenTrial], names: Sequence[str]) -> int:
    """How many processes died while they evaluated a running trial's code, in this trial and in earlier ones."""
    started = trial.user_attrs.get(STARTED)
    if not isinstance(started, int) or started < 1:
        return 0
    code = code_of(trial, names)
    return started + sum(dropped(t) == LOST and code_of(t, names) == code for t in trials)


def holders(trials: Sequence[FrozenTrial], names: Sequence[str]) -> list[tuple[FrozenTrial, CodeTuple]]:
    """The trials that hold a code, with it, in their order: what a search counts, and the rows of its result.

    Trials that were given up hold none, but for the last one of a code that took two workers with it: that code is
    given up as a failed one. Nor does a failed trial whose code was asked for again.
    """
    coded = [(t, code, dropped(t)) for t in trials if (code := code_of(t, names)) is not None]
    last = {code: t.number for t, code, why in coded if why is None}
    gone = Counter(code for _, code, why in coded if why == LOST)
    last_lost = {
        code: t.number for t, code, why in coded if why == LOST and gone[code] >= MOST_DEATHS and code not in last
    }
    return [
        (t, code)
        for t, code, why in coded
        if (why is None and (t.state != TrialState.FAIL or last[code] == t.number)) or last_lost.get(code) == t.number
    ]


def codes_due(trials: Sequence[FrozenTrial], names: Sequence[str]) -> list[CodeTuple]:
    """Codes of given-up trials that are to be evaluated again, the first one given up first."""
    held = {code for _, code in holders(trials, names)}
    again = (code_of(t, names) for t in trials if dropped(t) in (LOST, RETURNED))
    return [code for code in dict.fromkeys(again) if code is not None and code not in held]


@dataclass(frozen=True, eq=False)
class History:
    """The codes that a study holds, by trial number, for maximisation.

    A code is held when a trial has it, whatever became of that trial, but for surplus trials and for the codes of lost
    workers that may be evaluated again.
    """

    codes: IntArray  # held [h, d]
    numbers: IntArray  # their trials' numbers [h], rising
    values: FloatArray  # their results, larger is better; nan where there is none, of pruned trials too [h]
    running: NDArray[np.bool_]  # [h]
    rows: IntArray  # their rows among the candidates, -1 for codes outside [h]
    due: IntArray  # rows of codes to be evaluated again, the first lost one first
    reports: tuple[Mapping[int, float], ...] = ()  # at the ends of rungs, by rung; larger is better [h], or none at all

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which held codes have a finite result [h]."""
        return np.isfinite(self.values)


def read_history(
    trials: Sequence[FrozenTrial], candidates: CandidateSet, *, maximise: bool, without: int | None = None
) -> History:
    """The history of a study's trials.

    Args:
        trials: All trials of the study, by number.
        candidates: The set that gives the entries' names and the rows.
        maximise: Whether larger values are better; else they change their sign.
        without: The number of a trial to leave out: the one that is being asked for.
    """
    others = [t for t in trials if t.number != without]
    held = holders(others, candidates.names)
    sign = 1.0 if maximise else -1.0
    values = [
        sign * t.value if t.state == TrialState.COMPLETE and t.value is not None and np.isfinite(t.value) else np.nan
        for t, _ in held
    ]
    # Only a trial that still holds its code is being evaluated; one given up twice ended as a failed one.
    running = [t.state in (TrialState.RUNNING, TrialState.WAITING) and dropped(t) is None for t, _ in held]
    codes = np.array([code for _, code in held], dtype=np.int64).reshape(len(held), len(candidates.names))
    due = [row for code in codes_due(others, candidates.names) if (row := candidates.row(code)) is not None]
    return History(
        codes=codes,
        numbers=np.array([t.number for t, _ in held], dtype=np.int64),
        values=np.array(values, dtype=np.float64),
        running=np.array(running, dtype=np.bool_),
        rows=candidates.rows(codes),
        due=np.array(due, dtype=np.int64),
        reports=tuple({r: sign * v for r, v in t.intermediate_values.items() if np.isfinite(v)} for t, _ in held),
    )
