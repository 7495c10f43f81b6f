"""``run_workers``: several processes on this machine search one study; the one that started them watches over them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Final

from optuna.trial import TrialState

from bsszoo.errors import RunError, SettingsError
from bsszoo.search.history import LOST, RETURNED
from bsszoo.study.leases import Keeper, Lease, Observer, give_up, owner, worker_name
from bsszoo.study.loop import Report, SearchPlan, abandoned, evaluate, left_running, missing, work_once
from bsszoo.study.result import TrialRow
from bsszoo.study.storages import first_line, open_storage

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from optuna.storages import BaseStorage
    from optuna.study import Study

    from bsszoo.search.sampler import Mode

# What limits the threads of the numerical libraries; each process takes its share of the cores.
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Seconds that a process which was asked to end gets before it is killed.
_LAST_SECONDS: Final = 5.0
# Seconds between two looks at what other machines did.
_LOOK: Final = 1.0


@dataclass(frozen=True, slots=True)
class StudyAddress:
    """Where a study is and how its codes are chosen: all that another process needs to join it."""

    storage: str
    name: str
    seed: int
    mode: Mode = "default"

    def open(self, plan: SearchPlan, storage: BaseStorage | None = None) -> Study:
        """The study, which exists already, with its sampler; in ``storage`` when that was opened before.

        Raises:
            SettingsError: The storage cannot be opened.
        """
        import optuna

        from bsszoo.search.sampler import AutoBSSSampler

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = AutoBSSSampler(plan.candidates, mode=self.mode, batch_size=plan.batch_size, seed=self.seed)
        opened = open_storage(self.storage) if storage is None else storage
        return optuna.load_study(study_name=self.name, storage=opened, sampler=sampler)


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    name: str
    ready: bool = False
    fault: str | None = None

    def listen(self) -> None:
        """Read what it sent; after its end too, when the last words still wait in the pipe."""
        with suppress(EOFError, OSError):
            while self.connection.poll():  # None is a sign that it works, a text why it ends
                fault = self.connection.recv()
                self.ready, self.fault = True, fault or self.fault

    def end(self) -> str:
        """How it ended, in words."""
        code = self.process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        return f"killed by {signal.Signals(-code).name}"


@dataclass(slots=True)
class _Crew:
    """The worker processes of a run."""

    address: StudyAddress
    plan: SearchPlan
    lease: Lease
    size: int
    members: list[_Worker] = field(default_factory=list)

    def start(self, trial_id: int | None) -> None:
        """One more process, with a trial that it takes over first."""
        # A fresh interpreter: a copy of this one (fork) would share its database connections and its locks.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        name = worker_name()
        process = context.Process(
            target=_work, args=(there, self.address, self.plan, self.lease, name, trial_id), name=name
        )
        with share_of_threads(self.size):
            process.start()
        there.close()
        self.members.append(_Worker(process, here, name))

    def ended(self) -> list[_Worker]:
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
        wait([x for w in self.members for x in (w.process.sentinel, w.connection)], timeout=seconds)

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


def run_workers(
    address: StudyAddress, plan: SearchPlan, on_trial: Callable[[TrialRow], None], *, workers: int,
    lease: Lease | None = None, alone: bool = True, waiting: Callable[[int], None] | None = None,
) -> None:
    """As ``run_search``, by several processes on this machine, each of which evaluates one code at a time.

    A process that dies is noticed at once: its code is evaluated again, once, and another process takes its place.
    When this process is stopped or dies, its workers end.

    Args:
        address: A study that exists already, in a storage that several processes can open.
        plan: The search; its evaluator is sent to other processes.
        on_trial: Called with each trial as it finishes, whoever evaluated it.
        workers: How many processes.
        lease: When a worker is taken for dead that gives no sign of life, on other machines too.
        alone: Whether no other machine works on the study; trials that an earlier process left are then taken over.
        waiting: Called once when only trials of other machines are left, with their number.

    Raises:
        SettingsError: The evaluator cannot be sent to another process.
        RunError: A process ended before it could begin, or one after the other dies.
    """
    _check_plan(plan, workers)
    lease = lease or Lease()
    study = address.open(plan)
    report, observer = Report(study, plan, on_trial), Observer(study, plan.candidates.names, lease)
    crew = _Crew(address, plan, lease, workers)
    adopted = _take_over(study, plan, workers) if alone else []
    deaths, looked, told = 0, time.monotonic(), False
    try:
        while True:
            for worker in crew.ended():
                if worker.process.exitcode != 0:
                    deaths += 1
                    _bury(study, worker, plan)
                    if deaths > max(4, 2 * workers):
                        raise RunError(f"{deaths} worker processes died one after the other, the last one with "
                                       f"{worker.end()}, and none finished a trial. Does the evaluator "
                                       f"{plan.evaluator.info.name} run out of memory? Fewer --workers need less.")
            if report.catch_up():
                deaths, told = 0, False
            if time.monotonic() - looked > lease.beat:
                looked = time.monotonic()
                observer.look()
            starts = missing(study, plan) + len(adopted)
            while starts > 0 and len(crew.members) < workers:
                crew.start(adopted.pop(0) if adopted else None)
                starts -= 1
            if not crew.members:
                others = left_running(study, plan)
                if not others and missing(study, plan) <= 0:
                    break
                if others and waiting is not None and not told:
                    waiting(len(others))
                    told = True
            crew.pause(min(_LOOK, lease.beat))
    finally:
        stopped = crew.stop()
        if not alone:
            with suppress(Exception):
                _give_back(study, stopped)
    report.catch_up()


def _check_plan(plan: SearchPlan, workers: int) -> None:
    try:
        pickle.dumps(plan)
    except Exception as error:
        raise SettingsError(
            f"--workers {workers} sends the evaluator {plan.evaluator.info.name} to other processes, which cannot be "
            f"done: {str(error).splitlines()[0]}. Give a function at the top of a module (MODULE:FUNCTION on the "
            "command line), or one worker."
        ) from None


def _take_over(study: Study, plan: SearchPlan, workers: int) -> list[int]:
    """Ids of trials that a dead run left and that go on under their numbers, one for each worker at most."""
    left = abandoned(study, plan)
    for trial in left[workers:]:
        # Nobody would give signs of life for one that waits; its code is asked for again instead.
        give_up(study, trial, RETURNED)
    return [t._trial_id for t in left[:workers]]


def _bury(study: Study, worker: _Worker, plan: SearchPlan) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if owner(trial) == worker.name:
            give_up(study, trial, LOST)
    if worker.fault is not None:
        raise RunError(f"A worker process ended: {worker.fault}")
    if worker.ready:
        _log.warning("A worker process ended (%s); its code is evaluated again, by another one.", worker.end())
    if not worker.ready:
        raise RunError(
            f"A worker process ended before it could begin ({worker.end()}); what it said stands above. A script that "
            "calls bsszoo.compress(.., workers=..) does so under `if __name__ == '__main__':`, and the evaluator "
            f"{plan.evaluator.info.name} has to be importable."
        )


def _give_back(study: Study, names: set[str]) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if owner(trial) in names:
            give_up(study, trial, RETURNED)


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


def _work(
    connection: Connection, address: StudyAddress, plan: SearchPlan, lease: Lease, name: str, trial_id: int | None
) -> None:
    """What a worker process does."""
    # Ctrl-C reaches every process of a terminal; the one that started this one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    # The first process says for all of them that a storage is away.
    logging.getLogger("bsszoo.study").setLevel(logging.ERROR)
    try:
        study = address.open(plan)
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


def _end_with_parent(connection: Connection) -> None:
    """End this process when the one that started it is gone: it would evaluate a code that a new run takes over."""
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)
