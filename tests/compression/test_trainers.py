"""Trainings in processes of their own: nothing is lost or left over when one fails, dies or is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bsszoo.codes import Code
from bsszoo.compression.trainers import Trainers
from bsszoo.errors import EvaluationError
from bsszoo.evaluators.base import listening

CODE = Code.parse("resnet18_c8-16-24-32_l1-1-1-1_px32")

JUDGE = """
import os, pathlib, time
from bsszoo.evaluators.base import tell

class Judge:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def tested(self, code, number):
        print("what a library prints is no answer")
        (self.folder / f"pid{number}").write_text(str(os.getpid()))
        if number == 100:
            raise RuntimeError("no memory left")
        if number == 101:
            os.write(2, b"a library's last words")
            os._exit(3)
        if number == 102:
            raise SystemExit("enough")
        tell(1, 4)
        while number >= 200 and not (self.folder / f"go{number}").exists():
            time.sleep(0.02)
        return number + 0.5, os.environ["OMP_NUM_THREADS"], os.getpid()
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "judge_of_trainers.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    import judge_of_trainers  # type: ignore[import-not-found]

    yield judge_of_trainers.Judge(tmp_path)
    del sys.modules["judge_of_trainers"]


def _wait_for(path: Path) -> str:
    while not (path.is_file() and path.read_text()):
        time.sleep(0.02)
    return path.read_text()


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A process that has ended and was not waited for.
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text() if Path("/proc").is_dir() else False


def test_two_at_a_time_each_on_its_share_of_the_cores_and_a_process_takes_one_after_the_other(
    judge, tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    heard: list[tuple[int, int]] = []
    with (
        listening(lambda *updates: heard.append(updates)),
        Trainers(judge, 2) as trainers,
        ThreadPoolExecutor(2) as pool,
    ):
        first, second = (pool.submit(trainers.tested, CODE, number) for number in (200, 201))
        pids = {_wait_for(tmp_path / f"pid{number}") for number in (200, 201)}
        while (2, 8) not in heard:  # of both, added up
            time.sleep(0.02)
        for number in (200, 201):
            (tmp_path / f"go{number}").touch()
        results = [first.result(), second.result(), trainers.tested(CODE, 3)]
    assert [result[0] for result in results] == [200.5, 201.5, 3.5]
    assert {str(result[2]) for result in results} == pids
    assert len(pids) == 2
    assert {result[1] for result in results} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert set(heard) == {(1, 4), (2, 8)}
    assert all(_gone(int(pid)) for pid in pids)


def test_a_training_that_fails_is_an_error_and_its_process_goes_on(judge) -> None:
    with Trainers(judge, 1) as trainers:
        pid = trainers.tested(CODE, 0)[2]
        with pytest.raises(EvaluationError, match="RuntimeError: no memory left"):
            trainers.tested(CODE, 100)
        with pytest.raises(EvaluationError, match="SystemExit: enough"):
            trainers.tested(CODE, 102)
        assert trainers.tested(CODE, 1)[2] == pid


def test_a_process_that_dies_is_an_error_with_its_last_words_and_another_takes_its_place(judge, tmp_path) -> None:
    with Trainers(judge, 1) as trainers, ThreadPoolExecutor(1) as pool:
        pid = trainers.tested(CODE, 0)[2]
        with pytest.raises(EvaluationError, match=r"ended with 3: .*a library's last words"):
            trainers.tested(CODE, 101)
        running = pool.submit(trainers.tested, CODE, 200)
        os.kill(int(_wait_for(tmp_path / "pid200")), signal.SIGKILL)
        with pytest.raises(EvaluationError, match="ended by signal 9"):
            running.result()
        result = trainers.tested(CODE, 1)
    assert result[0] == 1.5
    assert result[2] != pid


def test_stopping_ends_a_training_under_way(judge, tmp_path) -> None:
    with ThreadPoolExecutor(1) as pool:
        trainers = Trainers(judge, 1)
        running = pool.submit(trainers.tested, CODE, 200)
        pid = int(_wait_for(tmp_path / "pid200"))
        trainers.stop()
        with pytest.raises(EvaluationError):
            running.result()
        assert _gone(pid)
        with pytest.raises(EvaluationError, match="have been ended"):
            trainers.tested(CODE, 1)


@pytest.mark.usefixtures("judge")
def test_they_end_with_the_process_that_started_them(tmp_path) -> None:
    script = (
        "from judge_of_trainers import Judge\nfrom bsszoo.codes import Code\n"
        "from bsszoo.compression.trainers import Trainers\n"
        f"Trainers(Judge({str(tmp_path)!r}), 1).tested(Code.parse({str(CODE)!r}), 200)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    pid = int(_wait_for(tmp_path / "pid200"))
    parent.kill()
    parent.wait()
    while not _gone(pid):
        time.sleep(0.05)
