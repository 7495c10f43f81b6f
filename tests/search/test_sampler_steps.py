"""What the steps of ``AutoBSSSampler`` hand on: dispersed codes first, then whole clusters and all that is pending."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.spatial.distance import cdist, pdist

from bsszoo.search import AutoBSSSampler, CandidateSet
from bsszoo.search import paper_mode as steps
from bsszoo.search.acquisition import expected_improvement
from bsszoo.search.clustering import representatives
from bsszoo.search.gp import condition
from bsszoo.search.kernels import SquaredExponential, sigma_rule
from bsszoo.search.paper_mode import refine, standardise

optuna.logging.set_verbosity(optuna.logging.ERROR)

BATCH = 8
_DRAWN = np.random.default_rng(0).integers(1, 9, size=(900, 5))
#: Five entries that weigh differently, under a budget.
LATTICE = CandidateSet(_DRAWN[_DRAWN.sum(axis=1) <= 24])
#: A plane so fine that a code and its neighbour have almost the same result.
GRID = CandidateSet(np.array([[a, b] for a in range(40) for b in range(40)]))


def _study(candidates, *, seed=0, clusters=64):
    sampler = AutoBSSSampler(candidates, mode="paper", batch_size=BATCH, seed=seed, clusters=clusters)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _ask(study, candidates, n=1):
    return [study.ask(fixed_distributions=candidates.distributions) for _ in range(n)]


def _codes(trials):
    return np.array([list(t.params.values()) for t in trials])


def _weighted(trial):
    return float(np.log(_codes([trial])[0]) @ [1.0, 2.0, 0.2, 0.1, 1.5])


def _hill(trial):
    return -float(((_codes([trial])[0] - [31, 9]) ** 2).sum())


def _run(study, candidates, n, truth):
    for _ in range(n):
        (trial,) = _ask(study, candidates)
        study.tell(trial, truth(trial))


def _standardised(candidates, codes):
    return (codes - candidates.codes.mean(axis=0)) / candidates.codes.std(axis=0)


def _map_and_results(study, candidates):
    """The refining map, the refined finished codes and their standardised results, from the study's trials alone."""
    done = study.get_trials(states=(TrialState.COMPLETE,))
    Z, Y = _standardised(candidates, _codes(done)), standardise(np.array([t.value for t in done]))
    A = refine(Z, Y)
    return A, Z @ A.T, Y


def _reach(points, chosen):
    """Mean distance of the points to the nearest chosen one: how well the chosen ones stand for all."""
    return cdist(points, chosen).min(axis=1).mean()


@pytest.fixture
def spied(monkeypatch):
    """Makes ``spied(name)`` record the arguments of every call that the sampler makes to that function."""

    def spy(name):
        calls, original = [], getattr(steps, name)

        def recording(*args):
            calls.append(args)
            return original(*args)

        monkeypatch.setattr(steps, name, recording)
        return calls

    return spy


# -- step 2: the first batch -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_first_batch_is_dispersed_far_better_than_random_ones(seed):
    Z = _standardised(GRID, GRID.codes)
    first = _standardised(GRID, _codes(_ask(_study(GRID, seed=seed), GRID, BATCH)))
    rng = np.random.default_rng(1)
    drawn = [Z[rng.choice(len(Z), BATCH, replace=False)] for _ in range(200)]
    # Eight even patches of the plane: their centres are twice as far apart and a fifth nearer to every code.
    assert pdist(first).min() > 2 * np.median([pdist(d).min() for d in drawn])
    reaches = [_reach(Z, d) for d in drawn]
    assert _reach(Z, first) < 0.8 * np.median(reaches)
    assert _reach(Z, first) < min(reaches)


# -- step 3: the width of the kernel -----------------------------------------------------------------------------


@pytest.mark.parametrize("failed", [(), (0, 3, 7)])
def test_the_first_iteration_is_the_finished_part_of_the_first_batch_and_no_more(spied, failed):
    calls, study = spied("sigma_rule"), _study(LATTICE)
    for index, trial in reversed(list(enumerate(_ask(study, LATTICE, BATCH)))):  # told in another order than asked
        if index in failed:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, _weighted(trial))
    results = [t.value for t in study.trials if t.state == TrialState.COMPLETE]
    for n in range(10):
        (trial,) = _ask(study, LATTICE)
        _, y, first = calls[-1]
        assert len(y) == len(results) + n
        assert first == BATCH - len(failed)
        # These are the first batch's own results, whatever finished since.
        assert np.corrcoef(y[:first], results)[0, 1] == pytest.approx(1)
        study.tell(trial, _weighted(trial))
    assert len(calls) == 10


def test_a_late_result_of_the_first_batch_still_counts_to_the_first_iteration(spied):
    calls, study = spied("sigma_rule"), _study(LATTICE)
    late, *others = _ask(study, LATTICE, BATCH)
    for trial in others:
        study.tell(trial, _weighted(trial))
    _run(study, LATTICE, 4, _weighted)
    assert [(len(y), first) for _, y, first in calls] == [(7, 7), (8, 7), (9, 7), (10, 7)]
    study.tell(late, _weighted(late))
    _ask(study, LATTICE)
    assert (len(calls[-1][1]), calls[-1][2]) == (12, 8)


# -- step 4: the codes that are judged ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_codes_judged_stand_for_the_clusters_of_refined_codes(spied, seed):
    calls, study = spied("expected_expected_improvement"), _study(LATTICE, seed=seed)
    _run(study, LATTICE, 16, _weighted)
    A, _, _ = _map_and_results(study, LATTICE)
    _ask(study, LATTICE)
    judged = calls[-1][2]
    Z = _standardised(LATTICE, LATTICE.codes)
    refined = Z @ A.T
    assert 48 <= len(judged) <= 64  # of 64 clusters, less those whose centre was evaluated before
    assert cdist(judged, refined).min(axis=1).max() < 1e-9
    rng = np.random.default_rng(1)
    reaches = [_reach(refined, refined[rng.choice(len(Z), len(judged), replace=False)]) for _ in range(100)]
    assert _reach(refined, judged) < 0.92 * np.median(reaches)
    assert _reach(refined, judged) < min(reaches)
    # Clusters of the codes as they are, not refined, stand for the refined ones less well.
    plain = [_reach(refined, refined[representatives(Z, 64, np.random.default_rng(s))]) for s in range(5)]
    assert _reach(refined, judged) < 0.97 * np.mean(plain)


# -- step 5: the acquisition -------------------------------------------------------------------------------------


def test_all_running_codes_and_no_others_are_pending(spied):
    calls, study = spied("expected_expected_improvement"), _study(LATTICE)
    _run(study, LATTICE, 12, _weighted)
    study.tell(_ask(study, LATTICE)[0], state=TrialState.FAIL)
    A, _, _ = _map_and_results(study, LATTICE)
    running = []
    for _ in range(5):
        asked = _ask(study, LATTICE)
        expected = _standardised(LATTICE, _codes(running).reshape(-1, 5)) @ A.T
        assert calls[-1][1].shape == (len(running), 5)
        np.testing.assert_allclose(calls[-1][1], expected, atol=1e-9)
        running += asked
    study.tell(running.pop(1), state=TrialState.FAIL)
    _ask(study, LATTICE)
    np.testing.assert_allclose(calls[-1][1], _standardised(LATTICE, _codes(running)) @ A.T, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_asks_without_results_between_them_keep_apart_where_ei_would_take_neighbours(seed):
    study = _study(GRID, seed=seed, clusters=len(GRID))  # every code is judged
    _run(study, GRID, BATCH, _hill)
    A, X, Y = _map_and_results(study, GRID)
    posterior = condition(SquaredExponential(sigma_rule(X, Y, BATCH)), X, Y)
    gain = expected_improvement(*posterior.mean_var(_standardised(GRID, GRID.codes) @ A.T), Y.max())
    best, second = GRID.codes[np.argsort(-gain)[:2]]
    assert np.abs(best - second).max() == 1
    picks = _codes(_ask(study, GRID, 4))
    assert picks[0].tolist() == best.tolist()
    assert pdist(picks).min() >= 4


def test_standardised_accuracies_have_the_papers_moments():
    y = standardise(np.array([70.1, 71.3, 69.2, 74.4, 72.0]))
    assert y.mean() == pytest.approx(0, abs=1e-12)
    assert y.var() == pytest.approx(1 + 0.1**2)
    assert (standardise(np.full(5, 3.3)) == 0).all()
