import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
from benchmarks.small_tables import dense_task
from optuna.trial import FrozenTrial, TrialState
from searching import studies
from searching.plain import Evolution, HillClimbing, RandomSearch
from searching.protocol import play
from searching.samplers import SAMPLERS, missing
from searching.task import Task

EVALUATIONS, BATCH = 15, 12


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are small; threads that wait for each other on a busy machine take most of the time."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def needs(name: str) -> object:
    absent = name == "botorch" and importlib.util.find_spec("botorch") is None
    return pytest.param(name, marks=pytest.mark.skipif(absent, reason="botorch is not installed"))


def hard_task() -> Task:
    """Few codes are feasible, one entry is constant: most suggestions of a box need a repair."""
    task = dense_task(levels=4, entries=4)
    keep = np.random.default_rng(0).permutation(len(task))[:40]
    codes = np.column_stack([task.codes[keep], np.full(len(keep), 2)])
    return Task("hard", "made up", (*task.names, "fixed"), codes, task.macs[keep], task.trained[keep])


@pytest.mark.parametrize("name", [needs(name) for name in SAMPLERS])
def test_a_sampler_evaluates_codes_of_the_set_once_and_the_same_ones_again(name: str) -> None:
    tasks = [dense_task()] if SAMPLERS[name].needs_box else [dense_task(), hard_task()]
    for task in tasks:
        # ``play`` raises where a code is asked twice or is not in the set.
        runs = [
            play(task, name, lambda t, s: SAMPLERS[name].make(t, s, BATCH), seed, evaluations=EVALUATIONS, batch=BATCH)
            for seed in (0, 0)
        ]
        assert len(set(runs[0].rows)) == EVALUATIONS
        assert runs[0].rows == runs[1].rows


@pytest.mark.parametrize("name", ["random", "evolution", "hill", "tpe"])
def test_another_seed_gives_another_run(name: str) -> None:
    task = dense_task()
    first = [SAMPLERS[name].make(task, seed, BATCH).ask() for seed in range(5)]
    assert len(np.unique(first)) > 1


@pytest.mark.parametrize("name", ["tpe", "gp-repair", "gp-candidates", "paper", "default"])
def test_the_study_is_told_the_codes_that_were_evaluated(name: str) -> None:
    task = hard_task()
    made = []

    def make(task: Task, seed: int) -> studies._Study:
        sampler = SAMPLERS[name].make(task, seed, BATCH)
        assert isinstance(sampler, studies._Study)
        made.append(sampler)
        return sampler

    run = play(task, name, make, 0, evaluations=EVALUATIONS, batch=BATCH)
    trials = made[0].study.trials
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    assert [[t.params[n] for n in task.names] for t in done] == task.codes[run.rows].tolist()
    assert all(t.value in task.trained[row] for t, row in zip(done, run.rows, strict=True))
    failed = [t for t in trials if t.state == TrialState.FAIL]
    assert len(done) + len(failed) == len(trials)
    assert bool(failed) == (name in ("tpe", "gp-repair"))


def test_over_budget_suggestions_are_told_their_violation_and_cost_nothing() -> None:
    task = dense_task()
    assert task.box is not None
    sampler = studies.Constrained(task, 0)
    run = play(task, "gp-constraints", lambda _task, _seed: sampler, 0, evaluations=EVALUATIONS, batch=BATCH)
    done = [t for t in sampler.study.trials if t.state == TrialState.COMPLETE]

    def place(trial: FrozenTrial) -> int:
        return task.box.place[tuple(trial.params[n] for n in task.names)]

    over = [t for t in done if t.constraints["macs"] > 0]
    assert over
    assert len(over) <= studies.Constrained.FREE * EVALUATIONS + EVALUATIONS
    for trial in done:
        assert trial.constraints["macs"] == pytest.approx(task.box.macs[place(trial)] / task.box.limit - 1)
        assert trial.value in task.box.trained[place(trial)]
    assert sorted(task.box.rows[place(t)] for t in done if t.constraints["macs"] <= 0) == sorted(run.rows)


def test_random_search_is_uniform_over_the_candidates() -> None:
    task = dense_task()
    drawn = np.bincount([RandomSearch(task, seed).ask() for seed in range(30 * len(task))], minlength=len(task))
    assert drawn.std() == pytest.approx(30**0.5, rel=0.25)


@pytest.mark.parametrize("kind", [Evolution, HillClimbing])
def test_a_child_differs_in_one_entry_from_a_code_that_was_told(kind: type[Evolution] | type[HillClimbing]) -> None:
    task = dense_task()
    sampler = kind(task, 0)
    first = [sampler.ask() for _ in range(10)]
    sampler.tell(first, [float(v) for v in range(10)])
    for _ in range(10):
        child = task.codes[sampler.ask()]
        changed = (task.codes[first] != child).sum(axis=1)
        assert 1 in changed
        if kind is HillClimbing:
            # Of all that were told with a free neighbour, the best.
            assert changed[9] == 1 or not (task.neighbours(first[9]) & sampler.free).any()


def test_evolution_forgets_the_oldest() -> None:
    task = dense_task()
    sampler = Evolution(task, 0)
    sampler.tell(list(range(40)), [100.0] * 8 + [0.0] * 32)
    assert [row for row, _ in sampler.population] == list(range(8, 40))


def test_a_repair_takes_the_nearest_free_code() -> None:
    task, rng = dense_task(), np.random.default_rng(0)
    free = np.ones(len(task), dtype=bool)
    free[::3] = False
    spread = task.codes.std(axis=0)
    for _ in range(20):
        code = rng.integers(0, 3, 5)
        rows = np.flatnonzero(free)
        far = [sum(((task.codes[r][j] - code[j]) / spread[j]) ** 2 for j in range(5)) for r in rows]
        got = task.nearest(code, free, rng)
        assert free[got]
        assert far[rows.tolist().index(got)] == pytest.approx(min(far))


def test_a_sampler_that_cannot_run_is_named_with_the_reason() -> None:
    assert set(missing()) == ({"botorch"} if importlib.util.find_spec("botorch") is None else set())
