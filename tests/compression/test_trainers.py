"""Trainings in processes of their own: nothing is lost or left over when one fails, dies or is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from bsszoo.codes import Code
from bsszoo.compression.confirm import confirm
from bsszoo.compression.plan import make_plan
from bsszoo.compression.trainers import Trainers
from bsszoo.errors import EvaluationError
from bsszoo.evaluators.base import listening
from bsszoo.models.names import resolve_code
from bsszoo.spaces.limits import Caps
from bsszoo.study.result import ResolvedBudget

CODE = Code.parse("resnet18_c8-16-24-32_l1-1-1-1_px32")

JUDGE = """
import os, pathlib, time
from bsszoo.evaluators.base import tell

class Judge:
    test_measures, test_unit = "width", "channels"
    leaders, screened, undecided, alike, controls = 2, 2, 2, 0.0, "original"

    def __init__(self, folder, spread=0.0):
        self.folder, self.spread, self.asked, self.held = pathlib.Path(folder), spread, [], False

    def processes(self, codes, workers):
        self.asked.append((len(codes), workers))
        return 2

    def open_test(self):
        (self.folder / "opened").touch()

    def deliver(self, code, number, folder):
        raise NotImplementedError

    def tested(self, code, number):
        print("what a library prints is no answer")
        with (self.folder / "calls").open("a") as calls:
            calls.write(f"{os.getpid()} {code} {number}\\n")
        (self.folder / f"pid{number}").write_text(str(os.getpid()))
        if number == 100:
            raise RuntimeError("no memory left")
        if number == 101:
            os.write(2, b"a library's last words")
            os._exit(3)
        if number == 102:
            raise SystemExit("enough")
        tell(1, 4)
        while (number >= 200 or self.held) and not (self.folder / f"go{number}").exists():
            time.sleep(0.02)
        if number >= 100:
            return number + 0.5, os.environ["OMP_NUM_THREADS"], os.getpid()
        return float(code.widths[0]), code.widths[0] + self.spread * (-1) ** (number + code.widths[1])
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Of a module beside the script, which only ``sys.path`` leads to."""
    (tmp_path / "judge_of_trainers.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(tmp_path)
    import judge_of_trainers  # type: ignore[import-not-found]

    yield judge_of_trainers.Judge(tmp_path)
    del sys.modules["judge_of_trainers"]


def _until(true: Any) -> None:
    """Wait for what a process does; a test that would hang fails after some minutes."""
    for _ in range(10_000):
        if true():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen")


def _pid(folder: Path, number: int) -> int:
    file = folder / f"pid{number}"
    _until(lambda: file.is_file() and file.read_text())
    return int(file.read_text())


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that has ended may still have to be waited for by whoever adopted it.
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return not Path(f"/proc/{pid}").exists()


def test_two_at_a_time_each_on_its_share_of_the_cores_and_a_process_takes_one_after_the_other(judge, tmp_path) -> None:
    with Trainers(judge, {"OMP_NUM_THREADS": "7"}) as trainers, ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(trainers.tested, CODE, number) for number in (200, 201))
        pids = {_pid(tmp_path, number) for number in (200, 201)}
        _until(lambda: trainers.updates == (2, 8))  # of both, added up
        for number in (200, 201):
            (tmp_path / f"go{number}").touch()
        results = [first.result(), second.result()]
        (tmp_path / "go202").touch()
        results.append(trainers.tested(CODE, 202))
        assert trainers.updates == (0, 0)
    assert [result[0] for result in results] == [200.5, 201.5, 202.5]
    assert {result[2] for result in results} == pids
    assert len(pids) == 2
    assert {result[1] for result in results} == {"7"}
    assert all(_gone(pid) for pid in pids)


def test_a_training_that_fails_is_an_error_and_its_process_goes_on(judge, tmp_path) -> None:
    with Trainers(judge, {}) as trainers:
        assert trainers.tested(CODE, 0) == (8.0, 8.0)
        with pytest.raises(EvaluationError, match="RuntimeError: no memory left"):
            trainers.tested(CODE, 100)
        with pytest.raises(EvaluationError, match="SystemExit: enough"):
            trainers.tested(CODE, 102)
        trainers.tested(CODE, 1)
    assert len({_pid(tmp_path, number) for number in (0, 100, 102, 1)}) == 1


def test_a_process_that_dies_is_an_error_with_its_last_words_and_another_takes_its_place(judge, tmp_path) -> None:
    with Trainers(judge, {}) as trainers, ThreadPoolExecutor(1) as pool:
        trainers.tested(CODE, 0)
        with pytest.raises(EvaluationError, match=r"ended with 3: .*a library's last words"):
            trainers.tested(CODE, 101)
        running = pool.submit(trainers.tested, CODE, 200)
        os.kill(_pid(tmp_path, 200), signal.SIGKILL)
        with pytest.raises(EvaluationError, match="ended by signal 9"):
            running.result()
        assert trainers.tested(CODE, 1) == (8.0, 8.0)
    assert len({_pid(tmp_path, number) for number in (0, 200, 1)}) == 3


def test_one_that_cannot_load_the_judge_says_why(judge, tmp_path) -> None:
    with Trainers(judge, {}) as trainers:
        (tmp_path / "judge_of_trainers.py").unlink()
        with pytest.raises(EvaluationError, match=r"ended with 1: .*No module named 'judge_of_trainers'"):
            trainers.tested(CODE, 0)


def test_stopping_ends_a_training_under_way(judge, tmp_path) -> None:
    with ThreadPoolExecutor(1) as pool:
        trainers = Trainers(judge, {})
        running = pool.submit(trainers.tested, CODE, 200)
        pid = _pid(tmp_path, 200)
        trainers.stop()
        with pytest.raises(EvaluationError):
            running.result()
        assert _gone(pid)
        with pytest.raises(EvaluationError, match="have been ended"):
            trainers.tested(CODE, 1)


@pytest.mark.usefixtures("judge")
def test_they_end_with_the_process_that_started_them(tmp_path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from judge_of_trainers import Judge\nfrom bsszoo.codes import Code\n"
        "from bsszoo.compression.trainers import Trainers\n"
        f"Trainers(Judge({str(tmp_path)!r}), {{}}).tested(Code.parse({str(CODE)!r}), 200)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    pid = _pid(tmp_path, 200)
    parent.kill()
    parent.wait()
    _until(lambda: _gone(pid))


# -- in the closing trainings ------------------------------------------------------------------------------------


def _confirmed(judge: Any, study: optuna.Study, **how: Any) -> Any:
    budget = ResolvedBudget(130_000_000, 117_000_000)
    plan = make_plan(resolve_code("mobilenetv2"), budget, caps=Caps(), seed=0, candidates=100)
    leaders = [plan.space.code(plan.candidates.codes[i].tolist()) for i in (0, 1)]
    return confirm(judge, plan, leaders, study, trainings=3, **how)


def _calls(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "calls").read_text().splitlines()]


def test_closing_trainings_run_in_them_those_that_are_not_told_apart_too(judge, tmp_path) -> None:
    judge.spread = 500.0
    found = _confirmed(judge, optuna.create_study(), most=4)
    assert judge.asked == [(1 + 3 * 3, 1)]
    assert (tmp_path / "opened").exists()
    calls = _calls(tmp_path)
    assert 1 + 3 * 3 < len(calls) == len({tuple(call[1:]) for call in calls})
    assert len({call[0] for call in calls}) == 2
    assert str(os.getpid()) not in {call[0] for call in calls}
    for row in found.rows:
        assert row.tests == (float(row.code.widths[0]),) * len(row.numbers)
    assert any(row.numbers == (0, 1, 2, 3) for row in found.rows)


def test_stopped_in_the_middle_no_process_is_left_and_only_the_rest_is_trained(judge, tmp_path) -> None:
    study = optuna.create_study()

    def stop(_text: str, done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _confirmed(judge, study, most=3, on_result=stop)
    pids = {int(call[0]) for call in _calls(tmp_path)}
    assert all(_gone(pid) for pid in pids)
    kept = len(study.user_attrs)
    assert kept == 4
    (tmp_path / "calls").unlink()
    found = _confirmed(judge, study, most=3)
    assert len(_calls(tmp_path)) == 10 - kept
    assert sorted(len(row.tests) for row in found.rows) == [1, 3, 3, 3]


def test_updates_are_told_in_this_thread_and_what_listeners_raise_is_no_result_of_a_training(judge, tmp_path) -> None:
    """Their error comes out, and what is trained afterwards is what the code is worth."""
    study, judge.held = optuna.create_study(), True
    heard: list[tuple[int, int, bool]] = []

    def hear(done: int, total: int) -> None:
        heard.append((done, total, threading.current_thread() is threading.main_thread()))
        if done == 2:
            raise OSError("the pipe is closed")

    with pytest.raises(OSError, match="the pipe is closed"), listening(hear):
        _confirmed(judge, study, most=3)
    assert set(heard) <= {(1, 4, True), (2, 8, True)}
    assert all(_gone(int(call[0])) for call in _calls(tmp_path))
    for number in range(3):
        (tmp_path / f"go{number}").touch()
    found = _confirmed(judge, study, most=3)
    for row in found.rows:
        assert row.tests == (float(row.code.widths[0]),) * len(row.numbers)


def test_a_judge_of_no_importable_class_trains_in_this_process(judge, tmp_path) -> None:
    class Local(type(judge)):
        pass

    found = _confirmed(Local(tmp_path), optuna.create_study(), most=3)
    assert {int(call[0]) for call in _calls(tmp_path)} == {os.getpid()}
    assert [row.label for row in found.rows] == ["original", "uniform", "found 1", "found 2"]
