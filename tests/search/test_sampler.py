"""``AutoBSSSampler`` as an ordinary Optuna sampler: never infeasible, never twice, a function of seed and storage."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from bsszoo.errors import RunError
from bsszoo.search import AutoBSSSampler, CandidateSet
from bsszoo.search.acquisition import expected_improvement
from bsszoo.search.gp import condition
from bsszoo.search.kernels import SquaredExponential, sigma_rule
from bsszoo.search.paper_mode import refine, standardise, standardise_codes

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def candidates():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 9, size=(900, 5))
    return CandidateSet(codes[codes.sum(axis=1) <= 24], names=tuple("abcde"))


def _truth(params):
    values = np.array([params[n] for n in "abcde"], dtype=float)
    return float(np.log(values) @ [1.0, 2.0, 0.2, 0.1, 1.5])


def _study(candidates, *, seed=0, storage=None, direction="maximize", name="s", batch=8, mode="paper"):
    sampler = AutoBSSSampler(candidates, mode=mode, batch_size=batch, seed=seed, clusters=64)
    return optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, direction=direction, load_if_exists=True
    )


def _run(study, candidates, n, *, batch=8, sign=1):
    for start in range(0, n, batch):
        asked = [study.ask(fixed_distributions=candidates.distributions) for _ in range(min(batch, n - start))]
        for trial in asked:
            study.tell(trial, sign * _truth(trial.params))
    return [tuple(t.params.values()) for t in study.trials]


def test_every_suggestion_is_a_candidate_and_none_comes_twice(candidates):
    codes = _run(_study(candidates), candidates, 40)
    assert len(set(codes)) == 40
    assert all(candidates.row(c) is not None for c in codes)


def test_it_beats_random_search(candidates):
    best = max(_truth(dict(zip("abcde", c, strict=True))) for c in candidates.codes.tolist())
    regrets, randoms = [], []
    for seed in range(5):
        study = _study(candidates, seed=seed)
        _run(study, candidates, 40)
        regrets.append(best - study.best_value)
        drawn = np.random.default_rng(seed).choice(len(candidates), 40, replace=False)
        values = [_truth(dict(zip("abcde", candidates.codes[i].tolist(), strict=True))) for i in drawn]
        randoms.append(best - max(values))
    assert np.mean(regrets) < 0.5 * np.mean(randoms)


def test_the_same_seed_repeats_and_another_differs(candidates):
    a, b, c = (_run(_study(candidates, seed=s), candidates, 24) for s in (3, 3, 4))
    assert a == b
    assert a != c


@pytest.mark.parametrize("stop", [3, 11])
def test_a_fresh_process_goes_on_as_an_unbroken_run(candidates, tmp_path, stop):
    unbroken = _run(_study(candidates, seed=5), candidates, 24)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    codes: list[tuple[int, ...]] = []
    for i in range(24):
        # A new sampler and a new connection before every ask after `stop`: nothing may live in the process.
        if i in (0, stop) or i > stop:
            study = _study(candidates, seed=5, storage=storage)
        trial = study.ask(fixed_distributions=candidates.distributions)
        codes.append(tuple(trial.params.values()))
        if i % 8 == 7:
            for t in study.get_trials(states=(TrialState.RUNNING,)):
                study.tell(t.number, _truth(t.params))
    assert codes == unbroken


def test_minimising_the_negative_is_maximising(candidates):
    up = _run(_study(candidates), candidates, 24)
    down = _run(_study(candidates, direction="minimize"), candidates, 24, sign=-1)
    assert up == down


def test_the_first_code_after_the_first_batch_maximises_ei(candidates):
    study = _study(candidates)
    _run(study, candidates, 8)
    params = study.ask(fixed_distributions=candidates.distributions).params
    codes = candidates.codes
    mean, std = codes.mean(axis=0), codes.std(axis=0)
    done = np.array([list(t.params.values()) for t in study.trials[:8]])
    y = np.array([t.value for t in study.trials[:8]])
    Z, Y = standardise_codes(done, mean, std), standardise(y)
    A = refine(Z, Y)
    X = Z @ A.T
    posterior = condition(SquaredExponential(sigma_rule(X, Y, 8)), X, Y)
    ei = expected_improvement(*posterior.mean_var(standardise_codes(codes, mean, std) @ A.T), Y.max())
    # Only cluster centres are judged, so the code is among the best of all candidates, not the very best.
    assert ei[candidates.index(params)] >= np.quantile(ei, 0.97)


def test_failed_and_pruned_trials_teach_nothing_and_do_not_come_back(candidates):
    study = _study(candidates)
    for i in range(30):
        trial = study.ask(fixed_distributions=candidates.distributions)
        if i % 3 == 0:
            study.tell(trial, state=TrialState.FAIL)
        elif i % 3 == 1:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, _truth(trial.params))
    assert len({tuple(t.params.values()) for t in study.trials}) == 30


def test_a_first_batch_that_fails_whole_is_survived(candidates):
    study = _study(candidates)
    for _ in range(12):
        study.tell(study.ask(fixed_distributions=candidates.distributions), state=TrialState.FAIL)
    assert len({tuple(t.params.values()) for t in study.trials}) == 12


def test_a_constant_objective_is_survived(candidates):
    study = _study(candidates)
    for _ in range(20):
        study.tell(study.ask(fixed_distributions=candidates.distributions), 1.0)
    assert len({tuple(t.params.values()) for t in study.trials}) == 20


def test_study_optimize_with_threads(candidates):
    study = _study(candidates)
    study.optimize(
        lambda t: _truth({n: t.suggest_int(n, d.low, d.high) for n, d in candidates.distributions.items()}),
        n_trials=40,
        n_jobs=4,
    )
    codes = [candidates.index(t.params) for t in study.trials]
    assert None not in codes
    # Two that ask in the same instant as a third ends may agree; without care for each other a third of them did.
    assert len(set(codes)) >= 33


def test_suggest_asks_for_the_code_that_was_chosen_and_for_nothing_else(candidates):
    asked, told = (_study(candidates, seed=3) for _ in range(2))
    asked.optimize(lambda trial: _truth(candidates.suggest(trial)), n_trials=12)
    _run(told, candidates, 12, batch=1)
    assert [t.params for t in asked.trials] == [t.params for t in told.trials]
    assert [t.distributions for t in asked.trials] == [t.distributions for t in told.trials]


def test_enqueued_codes_and_entries_are_kept(candidates):
    study = _study(candidates)
    whole = dict(zip(candidates.names, candidates.codes[7].tolist(), strict=True))
    study.enqueue_trial(whole)
    study.enqueue_trial({"a": 3})
    assert study.ask(fixed_distributions=candidates.distributions).params == whole
    partial = study.ask(fixed_distributions=candidates.distributions).params
    assert partial["a"] == 3
    assert candidates.index(partial) is not None


def test_a_whole_code_outside_the_set_may_be_enqueued(candidates):
    study = _study(candidates)
    study.enqueue_trial(dict.fromkeys("abcde", 8))
    assert study.ask(fixed_distributions=candidates.distributions).params == dict.fromkeys("abcde", 8)


def test_results_of_codes_outside_the_set_teach_too(candidates):
    study = _study(candidates)
    _run(study, candidates, 8)
    outside = dict.fromkeys("abcde", 8)
    assert candidates.index(outside) is None
    study.add_trial(optuna.trial.create_trial(params=outside, distributions=candidates.distributions, value=99.0))
    suggested = study.ask(fixed_distributions=candidates.distributions).params
    assert candidates.index(suggested) is not None


def test_running_out_of_candidates_says_so():
    few = CandidateSet(np.array([[1], [2], [3]]))
    study = _study(few, batch=2)
    for _ in range(3):
        study.tell(study.ask(fixed_distributions=few.distributions), 1.0)
    with pytest.raises(RunError, match="All 3 candidates"):
        study.ask(fixed_distributions=few.distributions)


def test_a_parameter_that_is_no_entry_is_refused(candidates):
    study = _study(candidates)
    trial = study.ask()
    with pytest.raises(RunError, match="'learning_rate'"):
        trial.suggest_float("learning_rate", 0.1, 1.0)


def test_senseless_sizes_are_refused(candidates):
    with pytest.raises(ValueError, match="at least 1"):
        AutoBSSSampler(candidates, batch_size=0)


def test_what_is_no_set_of_candidates_is_refused_in_words():
    with pytest.raises(TypeError, match="candidates is a list; it takes a CandidateSet"):
        AutoBSSSampler([[1, 2]])
