"""``Trainers``: processes that do short trainings one after the other, side by side, each on its share of the cores.

Small networks hardly train faster on more threads, so several trainings at a time take a fraction of the time. A
trainer is started when there is work for it, imports PyTorch and opens the images once, and takes trainings until it is
stopped. It ends with the process that started it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import threading
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any, Final

from bsszoo.codes.code import Code
from bsszoo.errors import EvaluationError
from bsszoo.evaluators.base import listening
from bsszoo.study.loop import reason
from bsszoo.study.workers import command_of, taken_input
from bsszoo.train.parent import PARENT, end_with_parent

# Lines of a trainer's errors that a message repeats.
_LINES: Final = 6
# How long one that closed its pipe may take to end by itself [s].
_LAST_SECONDS: Final = 5.0


class Trainers:
    """Trains codes as ``judge.tested`` does, in up to so many processes.

    Args:
        judge: What trains, a ``confirm.Tester``; it is sent to the processes, which import what this one can import.
        environment: Variables of the processes beside this one's, such as their number of threads.

    Raises:
        TypeError, AttributeError, pickle.PicklingError: The judge cannot be sent.
    """

    def __init__(self, judge: object, environment: dict[str, str]) -> None:
        self._judge, self._environment = pickle.dumps(judge), environment
        self._lock = threading.Lock()
        self._idle: list[_Trainer] = []
        self._all: list[_Trainer] = []
        self._updates: dict[_Trainer, tuple[int, int]] = {}
        self._stopped = False

    def __enter__(self) -> Trainers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def updates(self) -> tuple[int, int]:
        """The updates done, and their total, of the trainings that are under way."""
        with self._lock:
            counts = list(self._updates.values())
        return sum(done for done, _ in counts), sum(total for _, total in counts)

    def stop(self) -> None:
        """End all processes; a training under way is lost."""
        with self._lock:
            self._stopped = True
            for trainer in self._all:
                trainer.end()
            # Of one that is at work the thread that waits for it closes what it reads.
            for trainer in self._idle:
                trainer.close()

    def tested(self, code: Code, number: int) -> float | tuple[float, float]:
        """As ``Tester.tested``; called by up to as many threads as there are to be processes.

        Raises:
            EvaluationError: The training failed, or its process died.
        """
        with self._lock:
            if self._stopped:
                raise EvaluationError("The processes that train have been ended.")
            trainer = self._idle.pop() if self._idle else self._started()
        try:
            trainer.send(code, number)
            while True:
                kind, *values = trainer.answer()
                if kind != "updates":
                    break
                with self._lock:
                    self._updates[trainer] = (values[0], values[1])
        except BaseException:
            # Whatever it was: this one's next answer would be that of another training.
            trainer.end()
            raise
        finally:
            with self._lock:
                self._updates.pop(trainer, None)
                if trainer.alive:
                    self._idle.append(trainer)
                else:
                    trainer.close()
        if kind == "failed":
            raise EvaluationError(values[0])
        result: float | tuple[float, float] = values[0]
        return result

    def _started(self) -> _Trainer:
        trainer = _Trainer(self._judge, {**os.environ, **self._environment, PARENT: str(os.getpid())})
        self._all.append(trainer)
        return trainer


class _Trainer:
    """One process; the judge is the first thing it reads, then codes and numbers of trainings."""

    def __init__(self, judge: bytes, environment: dict[str, str]) -> None:
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            command_of("bsszoo.compression.trainers"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._judge: bytes | None = judge
        self.alive = True

    def send(self, code: Code, number: int) -> None:
        """Begin a training."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((self._judge or b"") + pickle.dumps((code, number)))
            self._process.stdin.flush()
        except OSError:
            raise EvaluationError(f"The process that trains {self._how()}") from None
        self._judge = None

    def answer(self) -> Any:
        """What it says next: ``updates`` done and their total, ``tested`` with a result, ``failed`` with the reason."""
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise EvaluationError(f"The process that trains {self._how()}") from None

    def end(self) -> None:
        """End the process, whatever it does."""
        self.alive = False
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close what the process, which has ended, was read by."""
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with suppress(OSError):  # what was written to it is lost, as it is to be
                stream.close()

    def _how(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_SECONDS)
        self.end()
        status = self._process.returncode
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        text = " | ".join([line for line in lines if line.strip()][-_LINES:])
        return (f"was ended by signal {-status}" if status < 0 else f"ended with {status}") + (text and f": {text}")


def main() -> None:
    """Take trainings from the standard input until it ends."""
    # Ctrl-C reaches every process of a terminal; the parent decides how this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    tasks, answers = os.fdopen(taken_input(), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a training prints is no answer

    def answer(*message: object) -> None:
        pickle.dump(message, answers)
        answers.flush()

    judge = pickle.load(tasks)
    with listening(lambda done, total: answer("updates", done, total)):
        while True:
            try:
                code, number = pickle.load(tasks)
            except EOFError:
                return
            try:
                answer("tested", judge.tested(code, number))
            except (Exception, SystemExit) as error:
                answer("failed", reason(error))
