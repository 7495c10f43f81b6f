"""``run_workers``: several processes on this machine search one study; the one that started them watches over them."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from bsszoo.errors import RunError
from bsszoo.search.history import ENDED, LOST, MOST_DEATHS, RETURNED, code_of, dropped
from bsszoo.study.crew import Crew, StudyAddress, Worker
from bsszoo.study.leases import Lease, Observer, give_up, owner
from bsszoo.study.loop import Report, SearchPlan, abandoned, left_running, missing, settle_all, survived
from bsszoo.study.result import TrialRow

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from optuna.study import Study

# Seconds between two looks at what other machines did.
_LOOK: Final = 1.0
# Processes that may die one after the other, with none in between that finished a trial, however many there are.
_MOST_DEATHS: Final = 64
# Starts that the system may refuse in a row, for want of memory or of processes, and seconds until the next try.
_REFUSALS: Final = 5
_REFUSED_PAUSE: Final = 2.0
# The refusals that pass when other processes end.
_PASSING: Final = (errno.EAGAIN, errno.ENOMEM)


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
        lease: When a worker is taken for dead that gives no sign of life, on other machines too.
        alone: Whether no other machine works on the study; trials that an earlier process left are then taken over.
        waiting: Called once when only trials of other machines are left, with their number.

    Raises:
        SettingsError: The evaluator cannot be sent to another process.
        RunError: Processes cannot be started, end before they can begin, or die one after the other.
    """
    lease = lease or Lease()
    try:
        opened = Crew(address, plan, lease, workers)
    except OSError as error:
        raise RunError(
            f"No worker process can be started, since the search cannot be written to a temporary folder: "
            f"{error.strerror or error}. Make room there, or name another folder in TMPDIR."
        ) from error
    with opened as crew:
        study = address.open(plan)
        report, observer = Report(study, plan, on_trial), Observer(study, plan.candidates.names, lease)
        watch = _Watch(study, plan, crew, _take_over(study, plan, workers) if alone else [])
        settle_all(study)
        looked, told = time.monotonic(), False
        try:
            while True:
                watch.bury()
                if report.catch_up():
                    watch.deaths, told = 0, False
                if time.monotonic() - looked > lease.beat:
                    looked = time.monotonic()
                    observer.look()
                watch.fill()
                if not crew.members and not watch.adopted:
                    others = left_running(study, plan)
                    if alone and others:
                        # Nobody evaluates them: their workers died before they gave a sign of life.
                        for trial in others:
                            give_up(study, trial, RETURNED)
                        continue
                    if not others and missing(study, plan) <= 0:
                        break
                    if others and waiting is not None and not told:
                        waiting(len(others))
                        told = True
                crew.pause(min(_LOOK, lease.beat))
        finally:
            stopped = crew.stop()
            with suppress(Exception):
                mine = [
                    t for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if owner(t) in stopped
                ]
                survived(study, mine)
                for trial in () if alone else mine:
                    give_up(study, trial, RETURNED)
        report.catch_up()


@dataclass(slots=True)
class _Watch:
    """Replaces worker processes that end; ``adopted`` are trials of an earlier run that wait for a worker."""

    study: Study
    plan: SearchPlan
    crew: Crew
    adopted: list[int]
    deaths: int = 0
    false_starts: int = 0
    refusals: int = 0
    next_start: float = field(default_factory=time.monotonic)

    def bury(self) -> None:
        """Free the codes of the processes that have ended.

        Raises:
            RunError: They end in a way that another one would end in as well.
        """
        gone = self.crew.ended()
        if any(w.ready for w in (*gone, *self.crew.members)):
            self.false_starts = 0
        for worker in gone:
            if worker.ready and worker.process.exitcode == 0:
                continue
            self.deaths += 1
            self._free(worker)
            if worker.fault is not None:
                raise RunError(f"A worker process ended: {worker.fault}")
            if not worker.ready and not worker.killed:
                self._false_start(worker)
            where = "" if worker.ready else " while it started"
            _log.warning(
                "A worker process ended%s (%s); %s.",
                where,
                worker.end,
                "its code is evaluated again, by another one" if worker.ready else "another one takes its place",
            )
            if self.deaths > min(max(4, 2 * self.crew.size), _MOST_DEATHS):
                raise RunError(
                    f"{self.deaths} worker processes died one after the other, the last one with {worker.end}{where}, "
                    f"and none finished a trial. Does the evaluator {self.plan.evaluator.info.name} run out of memory? "
                    "Fewer --workers need less."
                )

    def _false_start(self, worker: Worker) -> None:
        self.false_starts += 1
        if self.false_starts >= 2:
            raise RunError(
                f"A worker process ended before it could begin ({worker.end}); what it said stands above. A script "
                "that calls bsszoo.compress(.., workers=..) does so under `if __name__ == '__main__':`, and the "
                f"evaluator {self.plan.evaluator.info.name} has to be importable."
            )

    def _free(self, worker: Worker) -> None:
        """Give up the trial that a dead process had, or keep for another one what it was to take over."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and owner(trial) == worker.name:
                with suppress(UpdateFinishedTrialError):
                    self.study._storage.set_trial_user_attr(trial._trial_id, ENDED, worker.end)
                give_up(self.study, trial, LOST)
                names = self.plan.candidates.names
                code = code_of(trial, names)
                if (
                    code is not None
                    and 1 + sum(dropped(t) == LOST and code_of(t, names) == code for t in trials) >= MOST_DEATHS
                ):
                    _log.warning(
                        "Two worker processes died while they evaluated %s, the last one %s: it counts as a "
                        "failed trial.",
                        self.plan.space.code(list(code)),
                        worker.end,
                    )
            elif trial._trial_id == worker.trial_id and trial.state == TrialState.RUNNING and dropped(trial) is None:
                self.adopted.insert(0, trial._trial_id)

    def fill(self) -> None:
        """Start as many processes as there are codes to evaluate.

        Raises:
            RunError: The system starts none.
        """
        starts = missing(self.study, self.plan) + len(self.adopted)
        # Those that start have not asked yet, so the codes that they will take still seem to be missing.
        while starts > 0 and self.crew.room and time.monotonic() >= self.next_start:
            trial_id = self.adopted[0] if self.adopted else None
            try:
                self.crew.start(trial_id)
            except OSError as error:
                self._refused(error)
                return
            self.refusals = 0
            if trial_id is not None:
                self.adopted.pop(0)
            starts -= 1

    def _refused(self, error: OSError) -> None:
        running = sum(w.ready for w in self.crew.members)
        self.refusals += 1
        self.next_start = time.monotonic() + _REFUSED_PAUSE
        if error.errno in _PASSING and (running or self.refusals < _REFUSALS):
            if self.refusals == 1:
                _log.warning(
                    "No further worker process can be started (%s); %d of %d run, and another try follows.",
                    error.strerror,
                    running,
                    self.crew.size,
                )
            return
        raise RunError(
            f"Worker process {len(self.crew.members) + 1} of {self.crew.size} cannot be started: "
            f"{error.strerror or error}. Finished trials are kept; the same command goes on with fewer "
            "--workers."
        ) from error


def _take_over(study: Study, plan: SearchPlan, workers: int) -> list[int]:
    """Ids of trials that a dead run left and that go on under their numbers, one for each worker at most."""
    left = abandoned(study, plan)
    for trial in left[workers:]:
        # Nobody would give signs of life for one that waits; its code is asked for again instead.
        give_up(study, trial, RETURNED)
    return [t._trial_id for t in left[:workers]]
