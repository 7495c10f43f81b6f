import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import optuna
import pytest
from benchmarks.scripts import load_script
from benchmarks.small_tables import dense_task
from searching.protocol import observe
from simulation.clock import busiest, simulate, told_order, waiting_share
from simulation.counting import Watch
from simulation.feeding import idle_share
from simulation.report import first_below, interval, markdown
from simulation.searches import Outcome, RandomOrder, Setting, StudySearch, duration, play, run

from bsszoo.search import AutoBSSSampler

TASK = dense_task()


def setting(workers: int, batch: int = 4, evaluations: int = 14) -> Setting:
    return Setting(TASK.name, batch, workers, 3, evaluations, 3600.0)


script = load_script("workers")


def test_one_worker_is_the_sequential_search() -> None:
    made = play(TASK, StudySearch(TASK, 3, 4), setting(1), ask_cost=0.0)
    study = optuna.create_study(direction="maximize", sampler=AutoBSSSampler(TASK.candidates, batch_size=4, seed=3))
    rows = []
    for _ in range(14):
        trial = study.ask(fixed_distributions=TASK.candidates.distributions)
        row = TASK.candidates.index(trial.params)
        assert row is not None
        rows.append(row)
        study.tell(trial, observe(TASK, row, 3))
    assert [e.row for e in made] == rows
    assert [e.ended for e in made] == [e.began for e in made[1:]] + [
        pytest.approx(sum(duration(TASK, r, 3) for r in rows))
    ]


def test_a_schedule_made_by_hand() -> None:
    # Row k lasts so long; an ask takes 1. Worker 0 and 1 ask at 0 and are served at 0 and 1.
    lasting = [5.0, 1.0, 4.0, 0.5, 2.0]
    asked, known = [], []

    def ask() -> tuple[int, float]:
        asked.append(sorted(known))
        return len(asked) - 1, 1.0

    made = simulate(
        ask, lambda row: (float(row), lasting[row]), lambda row, _: known.append(row), workers=2, evaluations=5
    )
    assert [(e.worker, e.requested, e.served, e.began, e.ended) for e in made] == [
        (0, 0.0, 0.0, 1.0, 6.0),
        (1, 0.0, 1.0, 2.0, 3.0),  # waits while worker 0 is served
        (1, 3.0, 3.0, 4.0, 8.0),
        (0, 6.0, 6.0, 7.0, 7.5),
        (0, 7.5, 7.5, 8.5, 10.5),  # worker 1 tells at 8, while this is being chosen: not known to it
    ]
    assert asked == [[], [], [1], [0, 1], [0, 1, 3]]
    assert [e.row for e in told_order(made)] == [1, 0, 3, 2, 4]
    assert sorted(known) == [0, 1, 2, 3, 4]
    assert waiting_share(made) == pytest.approx((1 + 2 + 1 + 1 + 1) / (6 + 12.5))


def test_asks_are_served_in_the_order_in_which_they_were_made() -> None:
    calls = iter(range(60))
    made = simulate(
        lambda: (next(calls), 1.0), lambda row: (0.0, 0.25 * (row % 3)), lambda *_: None, workers=7, evaluations=60
    )
    assert [e.requested for e in made] == sorted(e.requested for e in made)
    assert all(a.began <= b.served for a, b in pairwise(made))
    # The choice is the bottleneck: one a unit of time, however many workers.
    assert made[-1].began == 60.0


@pytest.mark.parametrize("workers", [1, 3, 8, 40])
@pytest.mark.parametrize("cost", [0.0, 700.0])
def test_no_more_evaluations_at_a_time_than_workers(workers: int, cost: float) -> None:
    made = play(TASK, RandomOrder(TASK, 0), setting(workers, 0, 60), ask_cost=cost)
    assert busiest(made) <= workers
    assert len(made) == len({e.row for e in made}) == 60
    by_worker = defaultdict(list)
    for e in made:
        by_worker[e.worker].append(e)
    for mine in by_worker.values():
        assert all(a.ended == b.requested for a, b in pairwise(mine))
    if cost == 0.0:
        assert busiest(made) == workers


def test_without_the_cost_of_asks_a_seed_gives_the_same_search() -> None:
    first, again = (run(TASK, setting(6), ask_cost=0.0) for _ in range(2))
    assert first == again
    assert first.waiting == 0.0
    assert run(TASK, setting(1), ask_cost=0.0).ended != first.ended


def test_more_workers_than_the_first_iteration_evaluate_as_many_codes() -> None:
    outcome = run(TASK, setting(16, evaluations=20), ask_cost=0.0)
    assert len(outcome.picked) == 20
    assert outcome.ended == sorted(outcome.ended)


def test_durations_grow_with_macs_and_are_one_on_average() -> None:
    lasting = [duration(TASK, row, seed) for row in range(len(TASK)) for seed in range(10)]
    assert sum(lasting) / len(lasting) == pytest.approx(1, abs=0.03)
    order = TASK.macs.argsort()
    cheap, dear = ([duration(TASK, int(r), s) for r in rows for s in range(40)] for rows in (order[:10], order[-10:]))
    expected = 0.5 + 0.5 * TASK.macs[order[-10:]].mean() / TASK.macs.mean()
    assert sum(dear) / len(dear) == pytest.approx(expected, rel=0.05)
    assert sum(cheap) < sum(dear)


def test_workers_wait_once_asks_fill_the_time() -> None:
    # Asks of 1 s feed 11 workers with evaluations of 10 s; a worker alone waits for its own choices only.
    assert idle_share(1, 1.0, 10.0) == pytest.approx(1 / 11, abs=0.02)
    assert idle_share(44, 1.0, 10.0) == pytest.approx(1 - 10 / 44, abs=0.03)
    assert idle_share(4, 1e-6, 10.0) < 1e-5


def outcome(workers: int, seed: int, picked: list[float], ended: list[float], batch: int = 16) -> Outcome:
    return Outcome(Setting("t", batch, workers, seed, len(picked), 1800.0), "d", ended, picked, None, [0.5], 0.0)


def test_figures_of_the_report() -> None:
    alone, eight = outcome(1, 0, [3.0, 0.5, 0.1], [2.0, 4.0, 6.0]), outcome(8, 0, [3.0, 2.0, 0.1], [0.5, 0.6, 1.0])
    assert (first_below(alone, 0.5), first_below(eight, 0.5), first_below(eight, 0.0)) == (2, 3, math.inf)
    text = markdown([alone, eight], 0.5)
    # Half an hour an evaluation: 2 h alone, 0.5 h with eight.
    assert "| 1 | `batch_size` 16 | 1 | 2.0 (2.0 to 2.0) | 2 (2 to 2) | 1.0 | 1.00 | never" in text
    assert "| 8 | `batch_size` 16 | 1 | 0.5 (0.5 to 0.5) | 3 (3 to 3) | 4.0 | 0.50 | never" in text


def test_intervals_are_order_statistics() -> None:
    assert interval([1.0, math.inf, 2.0]) == (2.0, 1.0, math.inf)
    # Tables of the sign test: the 2nd and 9th of 10, the 6th and 15th of 20.
    assert interval(range(10)) == (4.5, 1, 8)
    assert interval(range(20)) == (9.5, 5, 14)
    assert interval(range(6)) == (2.5, 0, 5)


def test_calls_within_calls_of_a_storage_count_once() -> None:
    study = optuna.create_study()
    watch = Watch(study._storage)
    trial = study.ask()
    calls = watch.read().calls
    study.tell(trial, 1.0)
    assert watch.names["create_new_trial"] == 1
    assert watch.names["set_trial_state_values"] == 1
    assert watch.read().calls == sum(watch.names.values()) > calls > 0
    assert watch.read().statements == 0


def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "synthetic_tasks", lambda: [TASK])
    path = tmp_path / "a.jsonl"
    words = ["--tasks", TASK.name, "--seeds", "2", "--workers", "1,20", "--evaluations", "20", "--out", str(path)]
    script.main(words)
    assert capsys.readouterr().out.count("| 20 | `batch_size` 20 |") == 2
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 2 * 5
    path.write_text("".join(lines[:6]) + lines[6][:50])
    script.main([*words, "--show"])
    out = capsys.readouterr().out
    assert "| 1 | `batch_size` 16 | 2 |" not in out
    assert "| 1 | `batch_size` 16 | 1 |" in out
    script.main(words)
    assert "passed over" in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 11


@pytest.mark.parametrize(
    "words",
    [
        ["--workers", "a"],
        ["--workers", "0"],
        ["--tasks", "none"],
        ["--seeds", "0"],
        ["--evaluation-seconds", "0"],
        ["--feed", "0"],
        ["--feed", "x"],
        ["--storages", "paper"],
        ["--show", "--out", "missing.jsonl"],
    ],
)
def test_arguments_that_make_no_sense_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script.main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err
