"""``run_workers``: several processes on this machine search one study, started and watched by one parent.

A worker is an ordinary process that joins the study (``study/worker.py``). It reads the search from a file: a pipe is
smaller than a search, and would hang this process for good when a worker dies before it reads. It ends with this
process, whose end closes its standard input.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from bsszoo.errors import RunError, SettingsError
from bsszoo.optuna_parts import write_attribute
from bsszoo.search.history import ENDED, LOST, MOST_DEATHS, RETURNED, code_of, dropped
from bsszoo.study.leases import Lease, Observer, give_up, owner, worker_name
from bsszoo.study.loop import Notifier, SearchPlan, abandoned, left_running, missing, settle_all, survived
from bsszoo.study.result import TrialRow

if TYPE_CHECKING:
    from optuna.study import Study

    from bsszoo.study.storages import StudyAddress

_log = logging.getLogger(__name__)

#: Seconds that a process which was asked to end gets before it is killed.
LAST_SECONDS: Final = 5.0
#: What limits the threads of the numerical libraries; each process takes its share of the cores.
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Seconds between two checks of other machines' trials, and of this machine's processes.
_LOOK: Final = 1.0
_POLL: Final = 0.05
# Processes that may be starting at the same time: a machine too small for all of them then fails with few.
_STARTING: Final = 8
# Processes that may die one after the other, with none in between that finished a trial, however many there are.
_MOST_DEATHS: Final = 64
# Starts that the system may refuse in a row, for want of memory or of processes, and seconds until the next try.
_REFUSALS: Final = 5
_REFUSED_PAUSE: Final = 2.0
# The refusals that pass when other processes end.
_PASSING: Final = (errno.EAGAIN, errno.ENOMEM)
_GUARD: Final = (
    "A script that calls bsszoo.compress(.., workers=..) does so under `if __name__ == '__main__':`, and its evaluator "
    "has to be importable."
)

#: Whether this process is a worker that loads the script which started the search.
loading_script = False


def run_workers(
    address: StudyAddress,
    plan: SearchPlan,
    on_trial: Callable[[TrialRow], None],
    *,
    workers: int,
    lease: Lease | None = None,
    alone: bool = True,
    waiting: Callable[[int], None] | None = None,
) -> None:
    """As ``run_search``, by several processes on this machine, each of which evaluates one code at a time.

    A process that dies is noticed at once, also while it starts: its code is evaluated again, once, and another process
    takes its place. When this process is stopped or dies, its workers end.

    Args:
        address: A study that exists already, in a storage that several processes can open.
        plan: The search; its evaluator is sent to other processes.
        on_trial: Called with each trial as it finishes, whoever evaluated it.
        workers: How many processes.
        lease: When a worker without heartbeats counts as dead, on other machines too.
        alone: Whether no other machine works on the study; trials that an earlier process left are then resumed.
        waiting: Called once when only trials of other machines are left, with their number.

    Raises:
        SettingsError: The evaluator cannot be sent to another process.
        RunError: Processes cannot be started, end before they can begin, or die one after the other.
    """
    if loading_script:
        raise RunError(_GUARD)
    lease = lease or Lease()
    search = _pickled(address, plan, lease, workers)
    study = address.open(plan)
    with _WorkerPool(study, plan, search, workers) as pool:
        notifier, observer = Notifier(study, plan, on_trial), Observer(study, plan.candidates.names, lease)
        if alone:
            pool.resume()
        settle_all(study)
        looked, waiting_reported = time.monotonic(), False
        try:
            while True:
                pool.reap()
                if notifier.notify():
                    pool.deaths, waiting_reported = 0, False
                if time.monotonic() - looked > lease.beat:
                    looked = time.monotonic()
                    observer.look()
                pool.fill()
                if not pool.workers and not pool.resumable:
                    others = left_running(study, plan)
                    if alone and others:
                        # No worker evaluates them: theirs died before their first heartbeat.
                        for trial in others:
                            give_up(study, trial, RETURNED)
                        continue
                    if not others and missing(study, plan) <= 0:
                        break
                    if others and waiting is not None and not waiting_reported:
                        waiting(len(others))
                        waiting_reported = True
                pool.pause(min(_LOOK, lease.beat))
        finally:
            stopped = pool.stop()
            with suppress(Exception):
                running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                held = [trial for trial in running if owner(trial) in stopped]
                survived(study, held)
                for trial in () if alone else held:
                    give_up(study, trial, RETURNED)
        notifier.notify()


@contextmanager
def share_of_threads(workers: int) -> Iterator[None]:
    """The environment in which a process is started, so that its libraries take their share of the cores only."""
    added = threads_each(workers)
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def threads_each(processes: int, threads: int | None = None) -> dict[str, str]:
    """Variables for the environment of each of several processes: its share of the cores, where the user set none.

    Its share of ``threads`` where these are given, whatever the user set.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, (threads or cores) // processes))
    return {name: share for name in THREADS if threads or name not in os.environ}


def command_of(module: str) -> list[str]:
    """The command that runs ``main`` of a module in a process which can import what this one can, bsszoo among it."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; from {module} import main; main()"]


def taken_input() -> int:
    """A new descriptor of this process's standard input, which nothing else can read from then on."""
    taken, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return taken


@dataclass(slots=True)
class _Worker:
    """A worker process; ``beside`` is the file it writes, ``number`` the trial that it resumes first."""

    process: subprocess.Popen[bytes]
    beside: Path
    number: int | None
    ready: bool = False

    def look(self) -> bool:
        """Whether it has ended; ``ready`` is whether it has ever begun to work."""
        ended = self.process.poll() is not None
        self.ready = self.ready or self.beside.exists()
        return ended

    @property
    def fault(self) -> str:
        """Why it ended, if it wrote that down."""
        return self.beside.read_text(encoding="utf-8") if self.beside.exists() else ""

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self.process.returncode
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"


class _WorkerPool:
    """The worker processes of a run, while the context is entered.

    ``resumable`` are the numbers of an earlier run's trials that wait for a worker, ``deaths`` counts those since a
    trial was finished, ``false_starts`` the errors before work began, ``refusals`` the starts refused in a row.
    """

    def __init__(self, study: Study, plan: SearchPlan, search: bytes, size: int) -> None:
        self.study, self.plan, self.size = study, plan, size
        self.workers: list[_Worker] = []
        self.resumable: list[int] = []
        self.deaths = self.false_starts = self.refusals = 0
        self._next_start = time.monotonic()
        self._search = search
        self._file: Path | None = None

    def __enter__(self) -> _WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._file is not None:
            shutil.rmtree(self._file.parent, ignore_errors=True)

    def resume(self) -> None:
        """Have trials that a dead run left resumed under their numbers, one for each worker at most."""
        left = abandoned(self.study, self.plan)
        for trial in left[self.size :]:
            # A waiting one would have no heartbeat; its code is asked for again instead.
            give_up(self.study, trial, RETURNED)
        self.resumable = [trial.number for trial in left[: self.size]]

    def reap(self) -> None:
        """Free the codes of the processes that have ended.

        Raises:
            RunError: They end in a way that another one would end in as well.
        """
        gone = [worker for worker in self.workers if worker.look()]
        if any(worker.ready for worker in self.workers):
            self.false_starts = 0
        self.workers = [worker for worker in self.workers if worker not in gone]
        for worker in gone:
            worker.process.communicate()  # closes its standard input
            if worker.ready and worker.process.returncode == 0:
                continue
            self.deaths += 1
            self._free(worker)
            if worker.fault:
                raise RunError(f"A worker process ended: {worker.fault}")
            if not worker.ready and worker.process.returncode >= 0:
                self.false_starts += 1
            if self.false_starts >= 2:
                raise RunError(
                    f"A worker process ended before it could begin ({worker.end}); its output is above. {_GUARD}"
                )
            where, then = (
                ("", "its code is evaluated again, by another one")
                if worker.ready
                else (" while it started", "another one takes its place")
            )
            _log.warning("A worker process ended%s (%s); %s.", where, worker.end, then)
            if self.deaths > min(max(4, 2 * self.size), _MOST_DEATHS):
                raise RunError(
                    f"{self.deaths} worker processes died one after the other, the last one with {worker.end}{where}, "
                    f"and none finished a trial. Does the evaluator {self.plan.evaluator.info.name} run out of memory? "
                    "Fewer --workers need less."
                )

    def _free(self, worker: _Worker) -> None:
        """Give up the trial that a dead process had, or leave the one that it was to resume to another worker."""
        trials, names = self.study.get_trials(deepcopy=False), self.plan.candidates.names
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            if owner(trial) == worker.beside.name:
                with suppress(UpdateFinishedTrialError):
                    write_attribute(self.study, trial, ENDED, worker.end)
                give_up(self.study, trial, LOST)
                code = code_of(trial, names)
                lost = 1 + sum(dropped(t) == LOST and code_of(t, names) == code for t in trials)
                if code is not None and lost >= MOST_DEATHS:
                    _log.warning(
                        "Two worker processes died while they evaluated %s, the last one %s: it counts as a "
                        "failed trial.",
                        self.plan.space.code(list(code)),
                        worker.end,
                    )
            elif trial.number == worker.number and dropped(trial) is None:
                self.resumable.insert(0, trial.number)

    def fill(self) -> None:
        """Start as many processes as there are codes to evaluate.

        Raises:
            RunError: The system starts none.
        """
        # Those that start have not asked yet, so the codes that they will take still seem to be missing.
        for _ in range(missing(self.study, self.plan) + len(self.resumable)):
            starting = sum(not worker.ready for worker in self.workers)
            room = len(self.workers) < self.size and starting < max(_STARTING, os.cpu_count() or 1)
            if not room or time.monotonic() < self._next_start:
                return
            try:
                self._start()
            except OSError as error:
                self._refused(error)
                return
            self.refusals = 0

    def _start(self) -> None:
        if self._file is None or not self._file.exists():  # the first one; or old temporary files were removed
            # Private: whoever can write there would run code here.
            self._file = Path(tempfile.mkdtemp(prefix="bsszoo-workers-")) / "search.pickle"
            self._file.write_bytes(self._search)
        beside, numbers = self._file.with_name(worker_name()), self.resumable[:1]
        command = [*command_of("bsszoo.study.worker"), str(self._file), beside.name, *map(str, numbers)]
        with share_of_threads(self.size):
            process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.workers.append(_Worker(process, beside, numbers[0] if numbers else None))
        del self.resumable[:1]

    def _refused(self, error: OSError) -> None:
        running = sum(worker.ready for worker in self.workers)
        self.refusals += 1
        self._next_start = time.monotonic() + _REFUSED_PAUSE
        if error.errno in _PASSING and (running or self.refusals < _REFUSALS):
            if self.refusals == 1:
                _log.warning(
                    "No further worker process can be started (%s); %d of %d run, and another try follows.",
                    error.strerror,
                    running,
                    self.size,
                )
            return
        raise RunError(
            f"Worker process {len(self.workers) + 1} of {self.size} cannot be started: {error.strerror or error}. "
            "Finished trials are saved; the same command resumes from them, with fewer --workers if need be."
        ) from error

    def pause(self, seconds: float) -> None:
        """Wait until a process begins to work or ends; at most ``seconds``."""
        end, ready = time.monotonic() + seconds, [worker.ready for worker in self.workers]
        while time.monotonic() < end and not any(worker.look() for worker in self.workers):
            if [worker.ready for worker in self.workers] != ready:
                return
            time.sleep(_POLL)

    def stop(self) -> set[str]:
        """End all processes; the names of those that still ran."""
        running = [worker for worker in self.workers if worker.process.poll() is None]
        for worker in running:
            worker.process.terminate()
        deadline = time.monotonic() + LAST_SECONDS
        for worker in running:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            worker.process.kill()  # does nothing where it has ended
        for worker in self.workers:
            worker.process.communicate()
        self.workers = []
        return {worker.beside.name for worker in running}


def _pickled(address: StudyAddress, plan: SearchPlan, lease: Lease, workers: int) -> bytes:
    """All that a worker needs: first what every process can read, then the plan, which may need the script."""
    try:
        return pickle.dumps((sys.argv, _script(), address, lease)) + pickle.dumps(plan)
    except Exception as error:
        raise SettingsError(
            f"--workers {workers} sends the evaluator {plan.evaluator.info.name} to other processes, which cannot be "
            f"done: {str(error).splitlines()[0]}. Give a function at the top of a module (MODULE:FUNCTION on the "
            "command line), or one worker."
        ) from None


def _script() -> tuple[str, str] | None:
    """What ``__main__`` is, where an evaluator can be a part of it: a module by its name, or a file."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        # The __main__ of a package is a command, which holds no evaluator and may not expect to be imported.
        return None if spec.name.rpartition(".")[2] == "__main__" else ("module", spec.name)
    return None if file is None else ("file", str(Path(file).absolute()))
