"""One worker, killed after any write to the storage and started again, ends with the codes of an unbroken search."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from bsszoo.codes import code_cost
from bsszoo.evaluators import FunctionEvaluator
from bsszoo.search import AutoBSSSampler, Limits, draw_candidates
from bsszoo.search.history import STARTED
from bsszoo.spaces import Space
from bsszoo.study import SearchPlan, run_search, trial_rows

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = Space.of("resnet18")
CANDIDATES = draw_candidates(SPACE, Limits(min_macs=1_200_000_000, max_macs=1_800_000_000), 120, 0)
TRIALS = 9
WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


class _KilledError(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


def _plan(seen, trials=TRIALS):
    def judge(code):
        seen.append(code)
        if code.depths[0] == 2:
            raise ValueError("no even number of blocks, please")
        return code_cost(code).params / 1e6

    return SearchPlan(SPACE, CANDIDATES, FunctionEvaluator(judge), trials, 4)


def _study(storage, mode="default"):
    sampler = AutoBSSSampler(CANDIDATES, batch_size=4, seed=1, clusters=16, mode=mode)
    return optuna.create_study(
        storage=storage, study_name="s", sampler=sampler, direction="maximize", load_if_exists=True
    )


def _ends(study, plan):
    return [(r.code, r.score, r.error) for r in trial_rows(study, plan)]


class _Writes:
    """Counts the writes to a study's storage, and ends the process instead of, or just after, one of them."""

    def __init__(self, monkeypatch, study, last=None, after=False):
        self.count, self.names = 0, []
        for name in WRITES:
            monkeypatch.setattr(study._storage, name, self._counted(name, getattr(study._storage, name), last, after))

    def _counted(self, name, write, last, after):
        def counted(*args, **kwargs):
            if STARTED in args:
                # A kill from there to the result counts as one by the evaluation itself; see the tests below.
                return write(*args, **kwargs)
            self.count += 1
            self.names.append(name)
            dies = self.count == last
            if dies and not after:
                raise _KilledError
            result = write(*args, **kwargs)
            if dies:
                raise _KilledError
            return result

        return counted


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_killed_after_any_write_it_ends_with_the_same_codes(monkeypatch, mode):
    seen = []
    unbroken = _study(optuna.storages.InMemoryStorage(), mode)
    writes = _Writes(monkeypatch, unbroken)
    run_search(unbroken, _plan(seen), lambda _: None)
    assert {"create_new_trial", "set_trial_state_values", "set_trial_system_attr"} <= set(writes.names)
    expected = _ends(unbroken, _plan([]))
    assert len(expected) == len(seen) == TRIALS
    assert any(error for _, _, error in expected)
    # Every write of the second and of the sixth trial (in the first iteration, and after it), and some between.
    each = writes.count // TRIALS
    points = [*range(each, 2 * each + 3), *range(5 * each, 6 * each + 3), writes.count - 1, writes.count]
    for point in points:
        storage, again = optuna.storages.InMemoryStorage(), []
        study = _study(storage, mode)
        _Writes(monkeypatch, study, last=point, after=True)
        with pytest.raises(_KilledError):
            run_search(study, _plan(again), lambda _: None)
        monkeypatch.undo()
        resumed = _study(storage, mode)
        run_search(resumed, _plan(again), lambda _: None)
        assert _ends(resumed, _plan([])) == expected, point
        assert not resumed.get_trials(states=(TrialState.RUNNING,))
        # An evaluation is repeated only when it ended without a trace: killed before its outcome was written.
        assert len(again) <= TRIALS, point


def test_killed_at_every_write_in_turn_it_still_ends_with_the_same_codes(monkeypatch):
    storage, seen = optuna.storages.InMemoryStorage(), []
    unbroken = _study(optuna.storages.InMemoryStorage())
    run_search(unbroken, _plan([]), lambda _: None)
    for kills in range(400):
        study = _study(storage)
        _Writes(monkeypatch, study, last=1 + kills % 3, after=True)
        try:
            run_search(study, _plan(seen), lambda _: None)
            break
        except _KilledError:
            monkeypatch.undo()
    assert kills > TRIALS
    assert _ends(study, _plan([])) == _ends(unbroken, _plan([]))
