"""The processes that read images, when the whole group gets a signal to end and the training still needs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import IterableDataset

from bsszoo.errors import DataError
from bsszoo.train.classification.recipe import RunPart
from bsszoo.train.classification.samples import default_readers, plain, reading_loader
from bsszoo.train.devices import Process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")

TRAINING = """
import os, signal, sys, time
from bsszoo.train.classification import samples

samples._CHECK = 1
reader = os.fork()
if reader == 0:
    samples._leave_signals_to_the_training(0)
    print(os.getpid(), flush=True)
    while True:
        time.sleep(60)
signal.signal(signal.SIGTERM, lambda *_: None)
time.sleep(float(sys.argv[1]))
os._exit(0)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: object, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.extended
def test_a_reader_runs_as_long_as_its_training_however_slow_an_update_is(number: signal.Signals) -> None:
    training = subprocess.Popen([sys.executable, "-c", TRAINING, "600"], stdout=subprocess.PIPE, text=True)
    assert training.stdout is not None
    reader = int(training.stdout.readline())
    try:
        os.kill(reader, number)
        os.kill(reader, number)
        assert not wait_for(lambda: not alive(reader), 3.5), "it left the training that still waits for it"
        training.kill()
        training.wait()
        if number == signal.SIGTERM:
            assert wait_for(lambda: not alive(reader), 300), "it stayed when its training was gone"
    finally:
        training.kill()
        if alive(reader):
            os.kill(reader, signal.SIGKILL)


def test_an_error_of_a_reader_is_raised_without_its_traceback() -> None:
    error = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 3\nbsszoo.errors.DataError: a/b.png cannot be read: cut off. Mend it.\n'
    )
    assert str(plain(error)) == "a/b.png cannot be read: cut off. Mend it."
    assert str(plain(DataError("There is no DataError: here"))) == "There is no DataError: here"


@pytest.mark.parametrize(
    ("wanted", "cores", "processes", "fixed", "expected"),
    [
        (4, 2, 1, False, 2),
        (4, 16, 1, False, 4),
        (8, 16, 4, False, 4),
        (4, 1, 8, False, 1),
        (0, 8, 1, False, 0),
        (4, 2, 1, True, 4),
    ],
)
def test_no_more_processes_read_than_there_are_cores(
    wanted: int, cores: int, processes: int, fixed: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[int]:
            return iter(range(8))

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    images = Fixed() if fixed else list(range(8))
    made = reading_loader(images, RunPart(workers=wanted), Process(torch.device("cpu")), list, batch_size=2)
    assert made.num_workers == expected
    assert default_readers() == min(16, max(1, cores // processes))
