"""Codes that are trained again: how much that promises, which share of the trials it takes, and what is recommended."""

from __future__ import annotations

import threading
from collections import defaultdict

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from bsszoo.errors import RunError
from bsszoo.search import AutoBSSSampler, CandidateSet, replicate_of
from bsszoo.search.acquisition import expected_rise
from bsszoo.search.gp import condition
from bsszoo.search.kernels import AdditiveMatern

optuna.logging.set_verbosity(optuna.logging.ERROR)

WIDTHS = CandidateSet(np.array([[a, b] for a in range(20) for b in range(20)]), names=("a", "b"))


def _truth(params):
    return -((params["a"] - 12) ** 2 + (params["b"] - 7) ** 2) / 40


def _study(seed=0, *, share=0.25, direction="maximize", candidates=WIDTHS, **options):
    sampler = AutoBSSSampler(candidates, batch_size=8, seed=seed, replicates=share)
    return sampler, optuna.create_study(direction=direction, sampler=sampler, **options)


def _training(trial, noise, seed):
    """One training of a trial's code: the same for the same code and number, in whatever order they come."""
    words = [seed, *trial.params.values(), replicate_of(trial)]
    return _truth(trial.params) + noise * np.random.default_rng(words).normal()


def _run(study, n, *, noise=0.5, seed=0, sign=1, candidates=WIDTHS):
    for _ in range(n):
        trial = study.ask(fixed_distributions=candidates.distributions)
        study.tell(trial, sign * _training(trial, noise, seed))


def _numbers(study):
    """The numbers of the trainings of each code, in the order of the trials."""
    numbers = defaultdict(list)
    for trial in study.trials:
        numbers[tuple(trial.params.values())].append(replicate_of(trial))
    return numbers


def test_the_share_is_kept_and_the_trainings_of_a_code_are_numbered():
    _, study = _study()
    _run(study, 48)
    numbers = _numbers(study)
    assert all(mine == list(range(len(mine))) for mine in numbers.values())
    again = np.cumsum([replicate_of(trial) > 0 for trial in study.trials])
    assert again[-1] > 3
    assert all(count <= 0.25 * (i + 1) for i, count in enumerate(again))


def test_the_recommended_code_is_better_than_the_best_single_result():
    ours, single = [], []
    for seed in range(12):
        sampler, study = _study(seed)
        _run(study, 40, noise=0.3, seed=seed)
        ours.append(_truth(sampler.recommend(study)[0].params))
        plain = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(WIDTHS, batch_size=8, seed=seed))
        _run(plain, 40, noise=0.3, seed=seed)
        single.append(_truth(plain.best_params))
    assert np.mean(ours) > 0.7 * np.mean(single)


def test_an_objective_without_noise_is_soon_not_asked_again():
    sampler, study = _study()
    _run(study, 48, noise=0.0)
    assert sum(replicate_of(trial) > 0 for trial in study.trials) <= 2
    assert sampler.recommend(study)[0].params == study.best_params == {"a": 12, "b": 7}


def test_without_a_share_no_code_comes_twice_and_what_is_suggested_is_as_before():
    _, study = _study(share=0.0)
    plain = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(WIDTHS, batch_size=8, seed=0))
    _run(study, 24)
    _run(plain, 24)
    assert [t.params for t in study.trials] == [t.params for t in plain.trials]
    assert len(_numbers(study)) == 24


def test_a_fresh_process_goes_on_as_an_unbroken_run(tmp_path):
    _, whole = _study()
    _run(whole, 32)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    for n in (13, 19):
        _, part = _study(storage=storage, study_name="s", load_if_exists=True)
        _run(part, n)
    assert [t.params for t in part.trials] == [t.params for t in whole.trials]
    assert [replicate_of(t) for t in part.trials] == [replicate_of(t) for t in whole.trials]


def test_minimising_the_negative_is_maximising():
    high, up = _study()
    low, down = _study(direction="minimize")
    _run(up, 32)
    _run(down, 32, sign=-1)
    assert [t.params for t in up.trials] == [t.params for t in down.trials]
    for one, other in zip(high.recommend(up), low.recommend(down), strict=True):
        assert one.params == other.params
        assert one.mean == pytest.approx(-other.mean)
        assert (one.deviation, one.probability) == (other.deviation, other.probability)


def test_threads_of_one_study_never_train_the_same_training_of_a_code():
    _, study = _study()
    _run(study, 16)

    def work():
        for _ in range(6):
            trial = study.ask(fixed_distributions=WIDTHS.distributions)
            study.tell(trial, _training(trial, 0.5, 0))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(study.trials) == 40
    assert all(sorted(mine) == list(range(len(mine))) for mine in _numbers(study).values())


def test_where_all_codes_have_a_training_they_are_trained_again():
    few = CandidateSet(np.arange(6)[:, None], names=("a",))
    sampler = AutoBSSSampler(few, batch_size=4, seed=0, replicates=0.25)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(12):
        trial = study.ask(fixed_distributions=few.distributions)
        study.tell(trial, trial.params["a"] + np.random.default_rng(trial.number).normal())
    assert len(_numbers(study)) == 6
    best = sampler.recommend(study)[0]
    assert best.params["a"] >= 4
    assert best.trainings > 1


def test_enqueued_codes_are_kept_and_numbered_and_enqueued_entries_are_of_new_codes():
    _, study = _study()
    _run(study, 24)
    held = study.trials[3].params
    study.enqueue_trial(held)
    trial = study.ask(fixed_distributions=WIDTHS.distributions)
    assert trial.params == held
    assert replicate_of(trial) == len(_numbers(study)[tuple(held.values())]) - 1 >= 1
    study.tell(trial, 0.0)
    study.enqueue_trial({"a": 12})
    trial = study.ask(fixed_distributions=WIDTHS.distributions)
    assert trial.params["a"] == 12
    assert replicate_of(trial) == 0


def test_a_failed_training_gives_its_number_back():
    _, study = _study()
    _run(study, 24)
    held = study.trials[3].params
    before = _numbers(study)[tuple(held.values())]
    for state in (optuna.trial.TrialState.FAIL, optuna.trial.TrialState.COMPLETE):
        study.enqueue_trial(held)
        trial = study.ask(fixed_distributions=WIDTHS.distributions)
        assert replicate_of(trial) == len(before)
        study.tell(trial, None if state == optuna.trial.TrialState.FAIL else 0.0, state=state)
    study.enqueue_trial(held)
    assert replicate_of(study.ask(fixed_distributions=WIDTHS.distributions)) == len(before) + 1


def test_the_search_goes_on_where_every_training_of_a_leader_fails():
    _, study = _study()
    for _ in range(40):
        trial = study.ask(fixed_distributions=WIDTHS.distributions)
        failed = replicate_of(trial) > 0
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
        study.tell(trial, None if failed else _training(trial, 0.5, 0), state=state)
    assert all(replicate_of(trial) <= 1 for trial in study.trials)
    again = [tuple(trial.params.values()) for trial in study.trials if replicate_of(trial)]
    assert 0 < len(again) == len(set(again)) <= 10


def test_the_recommendation_says_how_sure_it_is():
    sampler, study = _study()
    _run(study, 40)
    leaders = sampler.recommend(study, 40)
    assert leaders == sorted(leaders, key=lambda leader: -leader.mean)
    assert sum(leader.probability for leader in leaders) == pytest.approx(1.0)
    assert sum(leader.trainings for leader in leaders) == 40
    # Codes that were trained more often are known more surely.
    once = [leader.deviation for leader in leaders if leader.trainings == 1]
    often = [leader.deviation for leader in leaders if leader.trainings > 1]
    assert np.mean(often) < np.mean(once)
    assert leaders[0].probability >= 0.05
    assert sampler.recommend(study, 2) == leaders[:2]


def test_the_probability_of_two_codes_is_that_of_their_difference():
    pair = CandidateSet(np.array([[0], [1]]), names=("a",))
    sampler = AutoBSSSampler(pair, batch_size=2, seed=0, replicates=1.0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for value in (1.0, 1.4, 0.6, 1.2):
        study.add_trial(optuna.trial.create_trial(value=value, params={"a": 0}, distributions=pair.distributions))
        study.add_trial(optuna.trial.create_trial(value=value + 0.3, params={"a": 1}, distributions=pair.distributions))
    first, second = sampler.recommend(study)
    assert (first.params, first.trainings) == ({"a": 1}, 4)
    # Nearly independent: two codes share their mean alone.
    gap = (first.mean - second.mean) / np.hypot(first.deviation, second.deviation)
    assert first.probability == pytest.approx(norm.cdf(gap), abs=0.1)
    assert first.probability + second.probability == pytest.approx(1.0)


def test_nothing_is_recommended_without_a_result_and_senseless_values_are_refused():
    sampler, study = _study()
    with pytest.raises(RunError, match="No trial of the study has a result yet"):
        sampler.recommend(study)
    _run(study, 1)
    assert sampler.recommend(study)[0].params == study.trials[0].params
    with pytest.raises(ValueError, match="number is at least 1"):
        sampler.recommend(study, 0)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="a share from 0 to 1"):
            AutoBSSSampler(WIDTHS, replicates=share)
    with pytest.raises(ValueError, match="mode 'default' only"):
        AutoBSSSampler(WIDTHS, mode="paper", replicates=0.25)


def test_the_papers_sampler_recommends_too():
    sampler = AutoBSSSampler(WIDTHS, mode="paper", batch_size=8, seed=0, clusters=32)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    _run(study, 24, noise=0.1)
    assert _truth(sampler.recommend(study)[0].params) > np.median([_truth(t.params) for t in study.trials])


@given(
    means=st.lists(st.floats(-2, 2), min_size=1, max_size=4),
    others=st.lists(st.floats(-2, 2), min_size=1, max_size=3),
    var=st.floats(0.01, 2),
    noise=st.floats(0.01, 2),
    which=st.integers(0, 3),
)
def test_the_rise_of_the_largest_mean_is_that_of_simulated_trainings(means, others, var, noise, which):
    which %= len(means)
    rise = expected_rise(np.array(means), np.full(len(means), var), noise, np.array(others))[which]
    # A training's result y is N(mean, var + noise), after which the mean is mean + var / (var + noise) (y - mean).
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    moved = means[which] + var / (var + noise) * np.sqrt(var + noise) * nodes
    rest = max(means[:which] + means[which + 1 :] + others)
    expected = (np.maximum(moved, rest) * weights).sum() / weights.sum() - max(means + others)
    assert rise == pytest.approx(expected, abs=5e-3)
    assert rise >= 0


def test_the_values_of_codes_are_the_joint_gaussians_conditional():
    rng = np.random.default_rng(0)
    X, Y, extra = rng.normal(size=(6, 2)), rng.normal(size=6), rng.uniform(0, 0.5, 6)
    kernel = AdditiveMatern(np.ones(2), np.ones(2), 0.3, 0.4, 0.2, 0.1)
    mean, cov = condition(kernel, X, Y, extra).values()
    # Values t = f + what sets a code apart, results y = t + a training's noise.
    prior = kernel(X, X) + 0.1 * np.eye(6)
    gain = prior @ np.linalg.inv(prior + np.diag(extra))
    assert mean == pytest.approx(gain @ Y)
    assert cov == pytest.approx(prior - gain @ prior)
