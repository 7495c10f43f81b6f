from collections.abc import Sequence

import numpy as np
import pytest
from benchmarks.small_tables import dense_task
from searching.protocol import ProtocolError, observe, play
from searching.task import Task


class Scripted:
    """Asks for the rows it was given and keeps what it is told."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self.asked = 0
        self.told: list[tuple[int, float]] = []
        self.asked_when_told: list[int] = []

    def ask(self) -> int:
        self.asked += 1
        return self.rows[self.asked - 1]

    def tell(self, rows: Sequence[int], values: Sequence[float]) -> None:
        self.told += zip(rows, values, strict=True)
        self.asked_when_told.append(self.asked)


def scripted(rows: Sequence[int], seed: int = 3) -> tuple[Scripted, object]:
    task, sampler = dense_task(), Scripted(rows)
    return sampler, play(task, "s", lambda _task, _seed: sampler, seed, evaluations=len(rows), batch=4)


def test_every_sampler_sees_the_same_result_of_a_code_in_the_same_repeat() -> None:
    one, _ = scripted(range(20))
    other, _ = scripted(list(range(20))[::-1])
    third, _ = scripted(range(20), seed=4)
    assert sorted(one.told) == sorted(other.told)
    assert sorted(one.told) != sorted(third.told)


def test_a_result_is_one_of_the_trainings_and_all_of_them_occur() -> None:
    task = dense_task()
    drawn = {seed: observe(task, 5, seed) for seed in range(60)}
    assert set(drawn.values()) == set(task.trained[5].tolist())


def test_results_come_after_whole_batches_only() -> None:
    sampler, _ = scripted(range(10))
    assert sampler.asked_when_told == [4, 8, 10]


def test_regrets_by_brute_force() -> None:
    task = Task(
        "tiny",
        "g",
        ("x",),
        np.arange(4)[:, None],
        np.arange(4),
        np.array([[1.0, 1.0], [5.0, 1.0], [2.0, 2.0], [2.5, 4.5]]),  # means 1, 3, 2, 3.5
    )
    # A seed in which row 1 looks like 5 and row 3 like 2.5, so that the picked code is not the best evaluated one.
    seed = next(s for s in range(100) if observe(task, 1, s) == 5 and observe(task, 3, s) == 2.5)
    run = play(task, "s", lambda _task, _seed: Scripted([0, 2, 1, 3]), seed, evaluations=4, batch=2)
    assert run.picked == [2.5, 1.5, 0.5, 0.5]
    assert run.best == [2.5, 1.5, 0.5, 0.0]
    assert run.hit == 4
    assert len(run.ask_seconds) == 4
    assert run.rows == [0, 2, 1, 3]


def test_regrets_of_a_longer_run_by_brute_force() -> None:
    task, rows = dense_task(), [int(r) for r in np.random.default_rng(0).permutation(100)[:30]]
    sampler, _ = scripted(rows)
    run = play(task, "s", lambda _task, _seed: Scripted(rows), 3, evaluations=30, batch=4)
    means = [sum(task.trained[r]) / 3 for r in range(len(task))]
    seen = dict(sampler.told)
    threshold = float(np.quantile(means, 0.995))
    for k in range(1, 31):
        pick = max(rows[:k], key=lambda r: seen[r])
        assert run.picked[k - 1] == pytest.approx(max(means) - means[pick], abs=1e-8)
        assert run.best[k - 1] == pytest.approx(max(means) - max(means[r] for r in rows[:k]), abs=1e-8)
    assert run.hit == next((i + 1 for i, r in enumerate(rows) if means[r] >= threshold), None)


@pytest.mark.parametrize(("rows", "message"), [([1, 2, 1], "which it has had"), ([1, -1], "does not have")])
def test_a_code_asked_twice_or_outside_the_set_is_an_error(rows: list[int], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        scripted(rows)
