"""The default search where its assumptions hold and where they break: always feasible, always distinct, never stuck."""

from __future__ import annotations

import dataclasses

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from bsszoo.search import AutoBSSSampler, CandidateSet
from bsszoo.search.acquisition import expected_improvement, log_expected_improvement
from bsszoo.search.default_mode import DefaultMode, results_of
from bsszoo.search.history import History

optuna.logging.set_verbosity(optuna.logging.ERROR)


def _lattice(n=900, d=5, seed=0, values=9):
    """Codes of d entries in the cheaper half of a budget, with a cost that grows with every entry."""
    rng = np.random.default_rng(seed)
    codes = np.unique(rng.integers(1, values, size=(4 * n, d)), axis=0)
    macs = 50 + codes @ rng.integers(1, 20, size=d)
    keep = rng.permutation(np.flatnonzero(macs <= np.median(macs)))[:n]
    return CandidateSet(codes[keep], macs=macs[keep])


def _search(candidates, truth, *, n=40, batch=8, seed=0, noise=0.0, **options):
    """Run n trials one after the other; the rows evaluated, in order."""
    sampler = AutoBSSSampler(candidates, batch_size=batch, seed=seed, **options)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rng = np.random.default_rng([seed, 77])
    rows = []
    for _ in range(n):
        trial = study.ask(fixed_distributions=candidates.distributions)
        row = candidates.index(trial.params)
        assert row is not None
        rows.append(row)
        study.tell(trial, float(truth[row] + noise * rng.normal()))
    assert len(set(rows)) == n
    return rows


def _regrets(candidates, truth, seeds=4, n=40, **options):
    """Mean regret of the best code evaluated, ours and of random search."""
    best = truth.max()
    ours = [best - truth[_search(candidates, truth, seed=s, n=n, **options)].max() for s in range(seeds)]
    drawn = [np.random.default_rng(s).choice(len(candidates), n, replace=False) for s in range(200)]
    return np.mean(ours), np.mean([best - truth[rows].max() for rows in drawn])


def _additive(candidates, seed=0):
    gains = np.random.default_rng([seed, 5]).gamma(1.0, 1.0, size=candidates.codes.shape[1])
    values = np.log(candidates.codes) @ gains
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("sign", [1, -1])
def test_far_better_than_random_where_results_grow_or_fall_with_cost(sign):
    candidates = _lattice()
    ours, random = _regrets(candidates, sign * _additive(candidates))
    assert ours < 0.2 * random


def test_far_better_than_random_where_the_best_lies_in_the_middle():
    candidates = _lattice()
    truth = -((candidates.codes - [2, 4, 3, 5, 2]) ** 2 @ np.array([1.0, 0.3, 2.0, 0.5, 1.0]))
    ours, random = _regrets(candidates, truth / truth.std())
    assert ours < 0.2 * random


def test_better_than_random_where_noise_is_as_large_as_the_signal():
    candidates = _lattice()
    ours, random = _regrets(candidates, _additive(candidates), seeds=6, noise=1.0)
    assert ours < 0.6 * random


def test_two_clusters_of_codes():
    rng = np.random.default_rng(0)
    codes = np.concatenate([rng.integers(1, 6, size=(400, 4)), rng.integers(60, 66, size=(400, 4))])
    candidates = CandidateSet(codes)
    low = candidates.codes[:, 0] < 30
    # The better cluster is the small one's; inside it the first two entries pay.
    truth = np.where(low, 1.0, 0.0) + 0.1 * (candidates.codes[:, 0] % 60) + 0.1 * (candidates.codes[:, 1] % 60)
    ours, random = _regrets(candidates, truth)
    assert ours < 0.3 * random


@pytest.mark.parametrize("d", [2, 30])
def test_two_and_thirty_entries(d):
    candidates = _lattice(n=600 if d > 2 else 40, d=d, values=9 if d > 2 else 30)
    ours, random = _regrets(candidates, _additive(candidates), n=32, seeds=3)
    assert ours <= 0.6 * random


@pytest.mark.parametrize("value", [0.0, 71.3])
def test_a_constant_objective(value):
    candidates = _lattice()
    _search(candidates, np.full(len(candidates), value))


def test_ten_candidates_are_evaluated_one_by_one_until_none_is_left():
    codes = np.array([[i, 10 - i] for i in range(10)])
    candidates = CandidateSet(codes, macs=np.full(10, 5))
    assert sorted(_search(candidates, np.arange(10.0), n=10, batch=4)) == list(range(10))


def test_a_million_candidates():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 13, size=(1_000_000, 18))
    candidates = CandidateSet(codes, macs=100 + codes.sum(axis=1))
    truth = np.log(candidates.codes) @ rng.gamma(1.0, 1.0, size=18)
    rows = _search(candidates, truth, n=24, batch=16)
    assert truth[rows].max() > np.quantile(truth, 0.9999)  # the best of 24 drawn ones stands at about 0.96


def test_results_far_below_the_rest_do_not_blind_the_model():
    candidates = _lattice()
    truth = _additive(candidates)
    broken = np.where(np.random.default_rng(0).random(len(truth)) < 0.1, truth - 100, truth)
    rows = _search(candidates, broken, n=40)
    assert truth.max() - broken[rows].max() < 0.1


def _history(candidates, rows, values):
    rows = np.asarray(rows)
    return History(
        codes=candidates.codes[rows],
        numbers=np.arange(len(rows)),
        values=np.asarray(values, dtype=float),
        running=np.isnan(values),
        rows=rows,
        due=np.empty(0, dtype=np.int64),
    )


def _with_reports(candidates, rows, values, reports):
    """A history whose codes without a value were stopped at rung 0."""
    history = _history(candidates, rows, values)
    running = np.zeros(len(rows), dtype=bool)
    return dataclasses.replace(history, running=running, reports=tuple({0: float(v)} for v in reports))


def test_a_report_tells_of_the_score_as_far_as_it_goes_with_it_whatever_codes_were_stopped():
    rng = np.random.default_rng(0)
    candidates = _lattice()
    rows = rng.choice(len(candidates), 600, replace=False)
    score = rng.normal(size=600)
    reports = 5 + 2 * (0.8 * score + 0.6 * rng.normal(size=600))
    stopped = reports < np.quantile(reports, 2 / 3)
    known, y, own = results_of(_with_reports(candidates, rows, np.where(stopped, np.nan, 10 + 3 * score), reports))
    assert known.all()
    assert (own[~stopped] == 0).all()
    assert (y[~stopped] == 10 + 3 * score[~stopped]).all()
    # A report measures the score with a correlation of 0.8: a noise of 3 (1 / 0.64 - 1)^(1/2).
    assert own[stopped] == pytest.approx(3 * np.sqrt(1 / 0.64 - 1), rel=0.25)
    surprise = (y - 10 - 3 * score)[stopped] / own[stopped]
    assert np.abs(surprise.mean()) < 0.4
    assert 0.7 < surprise.std() < 1.2


@pytest.mark.parametrize("case", ["against the scores", "too few scores", "all alike"])
def test_reports_that_tell_nothing_are_left_out(case):
    candidates = _lattice()
    rows, score = np.arange(40), np.linspace(0, 1, 40)
    values = np.where(np.arange(40) < (36 if case == "too few scores" else 20), np.nan, score)
    reports = np.zeros(40) if case == "all alike" else -score if case == "against the scores" else score
    known, y, own = results_of(_with_reports(candidates, rows, values, reports))
    assert (known == np.isfinite(values)).all()
    assert (y == values[known]).all()
    assert (own == 0).all()


def test_the_model_knows_more_with_the_reports_of_stopped_codes_than_without():
    candidates = _lattice()
    truth = _additive(candidates)
    gains = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(candidates), 30, replace=False)
        reports = truth[rows] + 0.5 * truth.std() * rng.normal(size=30)
        values = np.where(reports < np.quantile(reports, 0.7), np.nan, truth[rows])
        fits = []
        for told in (reports, np.zeros(30)):
            mode = DefaultMode(candidates, batch_size=8, seed=0)
            model = mode.model(_with_reports(candidates, rows, values, told))
            mean = model.posterior.mean(mode.features.of_rows(np.arange(len(candidates))))
            fits.append(np.corrcoef(mean, truth)[0, 1])
        gains.append(fits[0] - fits[1])
    assert np.mean(gains) > 0.1


def test_the_first_iteration_begins_with_the_codes_that_are_given():
    candidates = _lattice()
    given = candidates.codes[[5, 300, 77]].tolist()
    rows = _search(candidates, _additive(candidates), n=8, batch=8, first=given)
    assert rows[:3] == [5, 300, 77]
    # The other five are as dispersed as they would be by themselves.
    assert rows[3:] == _search(candidates, _additive(candidates), n=5, batch=5)
    assert _search(candidates, _additive(candidates), n=3, batch=2, first=given)[:2] == [5, 300]
    with pytest.raises(ValueError, match=r"\(99, 1, 1, 1, 1\) is none"):
        AutoBSSSampler(candidates, first=[[99, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match="mode 'paper' disperses all"):
        AutoBSSSampler(candidates, mode="paper", first=given)


def test_codes_in_training_are_accounted_for():
    candidates = _lattice()
    truth = _additive(candidates)
    first = np.random.default_rng(1).choice(len(candidates), 20, replace=False)
    mode = DefaultMode(candidates, batch_size=8, seed=0)
    free = np.ones(len(candidates), dtype=bool)
    free[first] = False
    posterior = mode.model(_history(candidates, first, truth[first])).posterior
    every = np.flatnonzero(free)
    gain = log_expected_improvement(*posterior.mean_var(mode.features.of_rows(every)), posterior.fitted.max())
    best = every[np.argsort(-gain)[:8]].tolist()
    rows = []
    for _ in range(8):  # suggestions whose results are all unknown
        rows.append(mode.suggest(_history(candidates, [*first, *rows], [*truth[first], *[np.nan] * len(rows)]), free))
        free[rows[-1]] = False
    assert rows[0] == best[0]
    assert len(set(rows)) == 8
    # What a pending code will tell is not looked for again: they are not simply the first, second .. best.
    assert set(rows) != set(best)


def test_where_no_gain_is_a_number_above_zero_the_most_promising_code_is_still_suggested():
    line = np.arange(120)[:, None]
    candidates = CandidateSet(line)
    free = np.isin(candidates.codes[:, 0], [3, 100])
    done = np.flatnonzero(~free)
    history = _history(candidates, done, candidates.codes[done, 0])
    mode = DefaultMode(candidates, batch_size=8, seed=0)
    posterior = mode.model(history).posterior
    moments = posterior.mean_var(mode.features.of_rows(np.flatnonzero(free)))
    assert (expected_improvement(*moments, posterior.fitted.max()) == 0).all()
    assert candidates.codes[mode.suggest(history, free)].tolist() == [100]


def test_the_suggestion_is_a_function_of_seed_and_history_alone():
    candidates = _lattice()
    truth = _additive(candidates)
    first = np.random.default_rng(1).choice(len(candidates), 20, replace=False)
    free = np.ones(len(candidates), dtype=bool)
    free[first] = False
    history = _history(candidates, first, truth[first])
    fresh = DefaultMode(candidates, batch_size=8, seed=3).suggest(history, free)
    used = DefaultMode(candidates, batch_size=8, seed=3)
    used.suggest(_history(candidates, first[:12], truth[first[:12]]), free)
    assert used.suggest(history, free) == fresh


def test_another_study_warms_the_search_up():
    candidates = _lattice()
    truth = _additive(candidates)
    earlier = optuna.create_study(direction="maximize")
    for row in np.random.default_rng(3).choice(len(candidates), 24, replace=False):
        params = dict(zip(candidates.names, candidates.codes[row].tolist(), strict=True))
        earlier.add_trial(
            optuna.trial.create_trial(params=params, distributions=candidates.distributions, value=float(truth[row]))
        )
    study = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(candidates, batch_size=8, seed=0))
    study.add_trials(earlier.trials)
    fresh = []
    for _ in range(6):
        trial = study.ask(fixed_distributions=candidates.distributions)
        assert trial.params not in [t.params for t in earlier.trials]
        fresh.append(truth[candidates.index(trial.params)])
        study.tell(trial, fresh[-1])
    assert max(fresh) > np.quantile(truth, 0.99)


def test_failed_and_pruned_trials_do_not_come_back():
    candidates = _lattice()
    study = optuna.create_study(sampler=AutoBSSSampler(candidates, batch_size=4, seed=0))
    for i in range(24):
        trial = study.ask(fixed_distributions=candidates.distributions)
        if i % 3 == 2:
            study.tell(trial, float(i))
        else:
            study.tell(trial, state=TrialState.FAIL if i % 3 else TrialState.PRUNED)
    assert len({tuple(t.params.values()) for t in study.trials}) == 24


def test_minimising_the_negative_is_maximising():
    candidates = _lattice()
    truth = _additive(candidates)
    suggested = []
    for direction, sign in (("maximize", 1), ("minimize", -1)):
        study = optuna.create_study(direction=direction, sampler=AutoBSSSampler(candidates, batch_size=8, seed=0))
        for _ in range(20):
            trial = study.ask(fixed_distributions=candidates.distributions)
            study.tell(trial, sign * truth[candidates.index(trial.params)])
        suggested.append([t.params for t in study.trials])
    assert suggested[0] == suggested[1]


def test_threads_of_one_study_never_agree():
    candidates = _lattice()
    truth = _additive(candidates)
    study = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(candidates, batch_size=8, seed=0))

    def objective(trial):
        code = {n: trial.suggest_int(n, d.low, d.high) for n, d in candidates.distributions.items()}
        return truth[candidates.index(code)]

    study.optimize(objective, n_trials=48, n_jobs=6)
    codes = [candidates.index(t.params) for t in study.trials]
    assert None not in codes
    assert len(set(codes)) == 48


def test_two_objectives_are_refused():
    candidates = _lattice()
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=AutoBSSSampler(candidates, seed=0))
    with pytest.raises(RuntimeError, match="2 objectives"):
        study.ask(fixed_distributions=candidates.distributions)


def test_one_sampler_serves_two_studies():
    candidates = _lattice()
    rows = np.random.default_rng(1).choice(len(candidates), 12, replace=False)
    values = np.arange(12.0)
    free = np.ones(len(candidates), dtype=bool)
    shared = DefaultMode(candidates, batch_size=8, seed=0)
    shared.suggest(_history(candidates, rows, values), free)
    other = _history(candidates, rows[::-1], values)
    assert shared.suggest(other, free) == DefaultMode(candidates, batch_size=8, seed=0).suggest(other, free)


@pytest.mark.parametrize("penalty", [-1e300, -np.finfo(float).max])
def test_huge_penalties_do_not_end_the_search(penalty):
    candidates = _lattice()
    truth = _additive(candidates)
    broken = np.where(np.random.default_rng(0).random(len(truth)) < 0.3, penalty, truth)
    rows = _search(candidates, broken, n=24)
    assert broken[rows].max() > -10


def test_codes_far_outside_the_set_do_not_end_the_search():
    candidates = _lattice()
    study = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(candidates, batch_size=4, seed=0))
    far = {n: optuna.distributions.IntDistribution(1, 2**40) for n in candidates.names}
    for k in range(3):
        study.add_trial(
            optuna.trial.create_trial(
                params=dict.fromkeys(candidates.names, 2**36 + k), distributions=far, value=1.0 + k
            )
        )
    for k in range(8):
        study.tell(study.ask(fixed_distributions=candidates.distributions), float(k))


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed"):
        AutoBSSSampler(_lattice(), seed=-1)
