"""The worker processes of one command: started, listened to, replaced and ended.

A new interpreter gets its arguments through a pipe whose reading end its parent holds as well. What is larger than the
pipe would hang the parent for good when the new process dies before it reads, so the search, which holds thousands of
candidates, is in a file, and the pipe takes names only.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optuna.trial import TrialState

from bsszoo.errors import SettingsError
from bsszoo.study.leases import Keeper, Lease, owner, worker_name
from bsszoo.study.loop import SearchPlan, evaluate, survived, work_once
from bsszoo.study.storages import first_line, open_storage

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from optuna.storages import BaseStorage
    from optuna.study import Study

    from bsszoo.search.sampler import Mode

# What limits the threads of the numerical libraries; each process takes its share of the cores.
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Seconds that a process which was asked to end gets before it is killed.
_LAST_SECONDS: Final = 5.0
# Processes that may be starting at the same time: a machine that cannot carry all of them shows it with few.
_STARTING: Final = 8


@dataclass(frozen=True, slots=True)
class StudyAddress:
    """Where a study is and how its codes are chosen: all that another process needs to join it."""

    storage: str = field(repr=False)  # it may hold a password
    name: str
    seed: int
    mode: Mode = "default"

    def open(self, plan: SearchPlan, storage: BaseStorage | None = None) -> Study:
        """The study, which exists already, with its sampler; in ``storage`` when that was opened before.

        A server that does not answer is waited for: whoever made the study has reached it.

        Raises:
            SettingsError: The storage cannot be opened.
        """
        import optuna

        from bsszoo.search.pruning import HalvingPruner
        from bsszoo.search.sampler import AutoBSSSampler

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = AutoBSSSampler(plan.candidates, mode=self.mode, batch_size=plan.batch_size, seed=self.seed)
        pruner = HalvingPruner(plan.reduction)
        opened = open_storage(self.storage, opened_before=True) if storage is None else storage
        return optuna.load_study(study_name=self.name, storage=opened, sampler=sampler, pruner=pruner)


@dataclass(slots=True)
class Worker:
    """A worker process; ``trial_id`` is the trial that it takes over first, ``fault`` why it ended, if it could say."""

    process: SpawnProcess
    connection: Connection
    name: str
    trial_id: int | None = None
    ready: bool = False
    fault: str | None = None

    def listen(self) -> None:
        """Read what it sent; after its end too, when the last words still wait in the pipe."""
        with suppress(EOFError, OSError):
            while self.connection.poll():  # None is a sign that it works, a text why it ends
                fault = self.connection.recv()
                self.ready, self.fault = True, fault or self.fault

    @property
    def killed(self) -> bool:
        """Whether a signal ended it."""
        return (self.process.exitcode or 0) < 0

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self.process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"


class Crew:
    """The worker processes of a run, while the context is entered.

    Args:
        address: The study.
        plan: The search.
        lease: When a worker is taken for dead.
        size: How many processes.

    Raises:
        SettingsError: The evaluator cannot be sent to another process.
        OSError: The search cannot be written to a temporary folder.
    """

    def __init__(self, address: StudyAddress, plan: SearchPlan, lease: Lease, size: int) -> None:
        self.address, self.lease, self.size = address, lease, size
        self.members: list[Worker] = []
        self._plan = _pickled(plan, size)
        # Readable by nobody else: whoever can write there would run code here.
        self._folder = Path(tempfile.mkdtemp(prefix="bsszoo-workers-"))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def room(self) -> bool:
        """Whether another process may be started now."""
        starting = sum(not w.ready for w in self.members)
        return len(self.members) < self.size and starting < max(_STARTING, os.cpu_count() or 1)

    def start(self, trial_id: int | None) -> None:
        """One more process, with a trial that it takes over first.

        Raises:
            OSError: The system starts no more processes, or the search cannot be written.
        """
        file = self._folder / "search.pickle"
        if not file.exists():  # the first one; or a cleaner of old files was there
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file.write_bytes(self._plan)
        # A fresh interpreter: a copy of this one (fork) would share its database connections and its locks.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        name = worker_name()
        process = context.Process(
            target=_work, args=(there, str(file), self.address, self.lease, name, trial_id), name=name
        )
        try:
            with share_of_threads(self.size):
                process.start()
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        self.members.append(Worker(process, here, name, trial_id))

    def ended(self) -> list[Worker]:
        """Take out the processes that have ended."""
        for worker in self.members:
            worker.listen()
        gone = [w for w in self.members if not w.process.is_alive()]
        for worker in gone:
            worker.process.join()
            worker.listen()
            worker.connection.close()
        self.members = [w for w in self.members if w not in gone]
        return gone

    def pause(self, seconds: float) -> None:
        """Wait until a process finishes a trial or ends; for so long at most, for those of other machines."""
        waited = [x for w in self.members for x in (w.process.sentinel, w.connection)]
        if waited:
            wait(waited, timeout=seconds)
        else:
            time.sleep(seconds)

    def stop(self) -> set[str]:
        """End all processes; the names of those that still ran."""
        running = [w for w in self.members if w.process.is_alive()]
        for worker in running:
            worker.process.terminate()
        deadline = time.monotonic() + _LAST_SECONDS
        for worker in running:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        for worker in self.members:
            worker.connection.close()
        self.members = []
        return {w.name for w in running}


@contextmanager
def share_of_threads(workers: int) -> Iterator[None]:
    """The environment in which a process is started, so that its libraries take their share of the cores only."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    mine = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(mine, str(max(1, cores // workers))))
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]


def _pickled(plan: SearchPlan, workers: int) -> bytes:
    try:
        return pickle.dumps(plan)
    except Exception as error:
        raise SettingsError(
            f"--workers {workers} sends the evaluator {plan.evaluator.info.name} to other processes, which cannot be "
            f"done: {str(error).splitlines()[0]}. Give a function at the top of a module (MODULE:FUNCTION on the "
            "command line), or one worker."
        ) from None


# -- in the worker's process ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Life:
    """What a worker process has to leave in order when the one that started it is gone."""

    name: str
    file: Path
    study: Study | None = None

    def end_with_parent(self, connection: Connection) -> None:
        """End this process with the one that started it: a new run takes over the code that it evaluates."""
        with suppress(EOFError, OSError):
            connection.recv()
        end = threading.Timer(_LAST_SECONDS, os._exit, (1,))
        end.daemon = True
        end.start()
        with suppress(Exception):
            shutil.rmtree(self.file.parent, ignore_errors=True)
            if self.study is not None:
                running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                survived(self.study, [t for t in running if owner(t) == self.name])
        os._exit(1)


def _work(
    connection: Connection, file: str, address: StudyAddress, lease: Lease, name: str, trial_id: int | None
) -> None:
    """What a worker process does."""
    # Ctrl-C reaches every process of a terminal; the one that started this one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    life = _Life(name, Path(file))
    threading.Thread(target=life.end_with_parent, args=(connection,), daemon=True).start()
    # The first process says for all of them that a storage is away.
    logging.getLogger("bsszoo.study").setLevel(logging.ERROR)
    try:
        plan: Any = pickle.loads(life.file.read_bytes())
        study = life.study = address.open(plan)
        connection.send(None)
        with Keeper(study, plan.candidates.names, lease, name) as keeper:
            if trial_id is not None:
                evaluate(study, plan, study._storage.get_trial(trial_id), keeper)
                connection.send(None)
            while work_once(study, plan, keeper):
                connection.send(None)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {first_line(error, address.storage)} ({where.filename}:{where.lineno})"
        with suppress(OSError):
            connection.send(said)
        sys.exit(1)
