"""Optuna storages that wait for a database which does not answer: a restart in mid-search costs time only.

Nor is any of their calls cut off in the middle by Ctrl-C, which would leave a database's session, and the lock that it
holds, as they happened to be.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from bsszoo.optuna_parts import Params, write_params_at_once

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@contextmanager
def signals_held() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM when what runs within has ended; a second one is handled at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held: list[tuple[int, FrameType | None]] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append((number, frame))
        if len(held) > 1:
            handle()

    def handle() -> None:
        while held:
            number, frame = held.pop(0)
            handler = handlers[signal.Signals(number)]
            assert callable(handler)
            handler(number, frame)

    try:
        with ExitStack() as stack:
            for number, handler in handlers.items():
                if callable(handler):
                    stack.callback(signal.signal, number, handler)
                    signal.signal(number, hold)
            yield
    finally:
        handle()


class Patience:
    """Calls a storage again, with growing pauses, while it is away; logs one line then, and one when it is back.

    Args:
        seconds: For how long one call is repeated [s].
        away: Whether an error means that the storage is away, rather than that a call was wrong.
        where: The storage's name in the two lines.
    """

    def __init__(self, seconds: float, away: Callable[[BaseException], bool], where: str) -> None:
        self.seconds, self.away, self.where = seconds, away, where
        self._lock = threading.Lock()
        self._since: float | None = None

    def call(self, do: Callable[[int], Any]) -> Any:
        """The result of ``do(attempt)``, attempts counted from 0; signals are handled between two of them."""
        start, pause, attempt = time.monotonic(), _FIRST_PAUSE, 0
        while True:
            try:
                with signals_held():
                    result = do(attempt)
            except Exception as error:
                if not self.away(error) or time.monotonic() - start > self.seconds:
                    raise
                self._log_away(error)
                attempt += 1
                time.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if attempt:
                self._log_back()
            return result

    def _log_away(self, error: BaseException) -> None:
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
                _log.warning(
                    "The storage %s does not answer (%s); waiting for it, up to %.0f s ...",
                    self.where,
                    type(error.__cause__ or error).__name__,
                    self.seconds,
                )

    def _log_back(self) -> None:
        with self._lock:
            if self._since is not None:
                _log.warning("The storage %s answers again, after %.0f s.", self.where, time.monotonic() - self._since)
                self._since = None


def _repeated(name: str) -> Any:
    """The inner storage's method of that name, called again while the storage is away."""

    def call(self: PatientStorage, *arguments: Any, **more: Any) -> Any:
        method = getattr(self.inner, name)
        return self.patience.call(lambda _: method(*arguments, **more))

    return call


class PatientStorage(BaseStorage):
    """Another storage, each of whose calls is done whole, and repeated while it is away.

    Args:
        inner: The storage.
        patience: Repeats its calls.
        database: The database behind ``inner``, where it is one.
    """

    def __init__(self, inner: BaseStorage, patience: Patience, database: RDBStorage | None = None) -> None:
        self.inner, self.patience, self.database = inner, patience, database

    create_new_study = _repeated("create_new_study")
    delete_study = _repeated("delete_study")
    set_study_user_attr = _repeated("set_study_user_attr")
    set_study_system_attr = _repeated("set_study_system_attr")
    get_study_id_from_name = _repeated("get_study_id_from_name")
    get_study_name_from_id = _repeated("get_study_name_from_id")
    get_study_directions = _repeated("get_study_directions")
    get_study_user_attrs = _repeated("get_study_user_attrs")
    get_study_system_attrs = _repeated("get_study_system_attrs")
    get_all_studies = _repeated("get_all_studies")
    create_new_trial = _repeated("create_new_trial")
    set_trial_param = _repeated("set_trial_param")
    get_trial_id_from_study_id_trial_number = _repeated("get_trial_id_from_study_id_trial_number")
    set_trial_intermediate_value = _repeated("set_trial_intermediate_value")
    set_trial_user_attr = _repeated("set_trial_user_attr")
    set_trial_system_attr = _repeated("set_trial_system_attr")
    get_trial = _repeated("get_trial")
    get_all_trials = _repeated("get_all_trials")
    get_best_trial = _repeated("get_best_trial")
    remove_session = _repeated("remove_session")

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; a repeated call whose first one went through, although its answer was lost, is no error."""

        def tell(attempt: int) -> bool:
            try:
                return self.inner.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                trial = self.inner.get_trial(trial_id)
                if attempt and (trial.state, trial.values) == (state, None if values is None else list(values)):
                    return True
                raise

        return bool(self.patience.call(tell))

    def set_trial_params(self, trial_id: int, params: Params) -> None:
        """Write parameters that a trial does not have: of a database in one transaction, else one by one."""
        if self.database is None:
            for name, (value, distribution) in params.items():
                self.set_trial_param(trial_id, name, value, distribution)
        else:
            database = self.database
            self.patience.call(lambda _: write_params_at_once(database, trial_id, params))


def database_away(error: BaseException) -> bool:
    """Whether a database is restarting, cut off or busy: not a wrong statement, a full disk or a file that is gone."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError

    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        text = str(link).lower()
        if isinstance(link, PoolTimeoutError):
            return True
        if isinstance(link, DBAPIError) and type(link.orig).__module__.startswith("sqlite3"):
            return "locked" in text or "busy" in text
        if isinstance(link, (OperationalError, InterfaceError)) or (
            isinstance(link, DBAPIError) and link.connection_invalidated
        ):
            return not any(
                words in text
                for words in (
                    "no space left",
                    "disk full",
                    "does not exist",
                    "denied",
                    "authentication failed",
                    "pg_hba.conf",
                )
            )
        link = link.__cause__ or link.__context__
    return False


def away(error: BaseException) -> bool:
    """Whether an error of a storage means that it does not answer, rather than that it is damaged."""
    return database_away(error) or ("grpc" in sys.modules and server_away(error))


def server_away(error: BaseException) -> bool:
    """Whether a gRPC server does not answer, or cuts a call off."""
    import grpc

    return (
        isinstance(error, grpc.RpcError)
        and isinstance(error, grpc.Call)
        and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)
    )
