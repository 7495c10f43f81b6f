"""Heartbeats: how workers that share a study notice that one of them died, on any storage and without a common clock.

A worker increments a count in an attribute of the trial it evaluates. A worker that sees another's count unchanged for
the grace time, by its local clock, counts it as dead and gives its trial up, so that the code is asked for again.
Optuna's heartbeat exists on relational databases only, and inside ``study.optimize`` only.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from bsszoo.errors import SettingsError
from bsszoo.optuna_parts import finish, read_again, write_attribute
from bsszoo.search.history import DROPPED, LOST, RESULT, code_of, result_of

if TYPE_CHECKING:
    from optuna.study import Study

#: User attribute of a running trial: its worker's name, and a count that rises while the worker lives.
BEAT: Final = "bsszoo:beat"

# Seconds that a worker may take to its first heartbeat, however short the grace time is.
_FIRST_BEAT: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """Seconds without a heartbeat after which a worker counts as dead, and the interval of heartbeats.

    Raises:
        SettingsError: The grace time is not above 0.
    """

    grace: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.grace, bool) or not isinstance(self.grace, (int, float)) or not 0 < self.grace < 1e6:
            raise SettingsError(f"--grace is {self.grace!r}; it takes seconds above 0, such as 60.")

    @property
    def beat(self) -> float:
        """Seconds between two heartbeats: four fit into the grace time."""
        return self.grace / 4


def worker_name() -> str:
    """A unique name: the machine, the process, and some random digits."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def owner(trial: FrozenTrial) -> str | None:
    """The name of the worker that evaluates a trial; None before its first heartbeat."""
    beat = trial.user_attrs.get(BEAT)
    return str(beat[0]) if isinstance(beat, (list, tuple)) and beat else None


def settle(study: Study, trial: FrozenTrial) -> bool:
    """Tell the result of a running trial whose evaluation has ended; whether it had one."""
    result = result_of(trial)
    if result is None:
        return False
    if result["pruned"]:
        # As Optuna's tell: its value is the last report, which is no result.
        last = trial.last_step
        _finish(study, trial, TrialState.PRUNED, None if last is None else [trial.intermediate_values[last]])
    elif result["value"] is None:
        _finish(study, trial, TrialState.FAIL, None)
    else:
        _finish(study, trial, TrialState.COMPLETE, [result["value"]])
    return True


def give_up(study: Study, trial: FrozenTrial, why: str) -> None:
    """End a trial without a result: ``LOST``, ``RETURNED`` or ``SURPLUS``. Harmless when another did so just before.

    A result that its worker wrote in the meantime stays.
    """
    try:
        write_attribute(study, trial, DROPPED, why)
    except UpdateFinishedTrialError:
        return
    now = read_again(study, trial)
    if now.state == TrialState.RUNNING and not settle(study, now):
        _finish(study, now, TrialState.FAIL, None)


def _finish(study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
    try:
        finish(study, trial, state, values)
    except UpdateFinishedTrialError:
        _log.debug("trial %d was finished by another process", trial.number)


class Observer:
    """Watches the running trials of others. Time counts only while the storage can be read, in steps of a beat at most:
    after an outage, or a sleep of this machine, everyone has the whole grace time again.
    """

    def __init__(self, study: Study, names: Sequence[str], lease: Lease) -> None:
        self._study, self._names, self._lease = study, tuple(names), lease
        self._seen: dict[int, tuple[Any, float]] = {}
        self._last = time.monotonic()

    def look(self, held: frozenset[int] = frozenset()) -> list[int]:
        """Give up the trials whose workers died, except those that this worker holds (``held``, their numbers).

        Returns the numbers of the trials given up.
        """
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        now = time.monotonic()
        step, self._last = min(now - self._last, self._lease.beat), now
        seen, lost = {}, []
        for trial in trials:
            if trial.number in held:
                continue
            # A trial that is being asked for gets its code after a while, and its owner's name after that.
            state = (trial.user_attrs.get(BEAT), code_of(trial, self._names), RESULT in trial.user_attrs)
            before, silent = self._seen.get(trial.number, (None, 0.0))
            silent = silent + step if before == state else 0.0
            # Before its first heartbeat a worker draws codes, fits a model, or its process still starts.
            grace = self._lease.grace if state[0] is not None else max(self._lease.grace, _FIRST_BEAT)
            if silent >= grace:
                give_up(self._study, trial, LOST)
                lost.append(trial.number)
            else:
                seen[trial.number] = (state, silent)
        self._seen = seen
        return lost


class Heartbeat:
    """A thread that sends this worker's heartbeats and watches the others', while the context is entered.

    A worker whose evaluation holds Python's interpreter lock for longer than the grace time counts as dead. When the
    storage fails, the thread continues with the next beat; the main thread meets the same error and reports it.
    """

    def __init__(self, study: Study, names: Sequence[str], lease: Lease, name: str | None = None) -> None:
        self.name = name or worker_name()
        self._study, self._lease = study, lease
        self._observer = Observer(study, names, lease)
        self._held: dict[int, tuple[FrozenTrial, int]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bsszoo-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def hold(self, trial: FrozenTrial) -> None:
        """Start to send heartbeats for a trial.

        Raises:
            UpdateFinishedTrialError: The trial was given up as lost before it began.
        """
        write_attribute(self._study, trial, BEAT, [self.name, 0])
        with self._lock:
            self._held[trial.number] = trial, 0

    def release(self, trial: FrozenTrial) -> None:
        """Stop them."""
        with self._lock:
            self._held.pop(trial.number, None)

    def _run(self) -> None:
        while not self._stop.wait(self._lease.beat):
            try:
                self._beat()
                with self._lock:
                    held = frozenset(self._held)
                for number in self._observer.look(held):
                    _log.warning(
                        "Trial %d had no heartbeat for %g s: its worker counts as dead, its code will "
                        "be evaluated again.",
                        number,
                        self._lease.grace,
                    )
            except Exception as error:
                # A storage that is away for a while must not end the thread that holds the trials.
                _log.debug("the heartbeat failed: %s", error)

    def _beat(self) -> None:
        with self._lock:
            held = list(self._held.values())
        for trial, count in held:
            try:
                write_attribute(self._study, trial, BEAT, [self.name, count + 1])
            except UpdateFinishedTrialError:
                self.release(trial)
                continue
            with self._lock:
                if trial.number in self._held:
                    self._held[trial.number] = trial, count + 1
