"""Optuna storages that wait for a database which is away: a restart in mid-search costs time, and nothing else."""

from __future__ import annotations

import functools
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import GrpcStorageProxy, RDBStorage
from optuna.trial import TrialState

_log = logging.getLogger(__name__)

# Every method that talks to the storage, those that Optuna's cache calls included.
_METHODS: Final = (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "create_new_trial",
    "set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_all_trials",
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Patience:
    """Calls a storage again, with growing pauses, while it is away; says so once, and once when it is back.

    Args:
        seconds: For how long one call is repeated [s].
        away: Whether an error means that the storage is away, rather than that a call was wrong.
        where: The storage in words, for the two lines.
    """

    def __init__(self, seconds: float, away: Callable[[BaseException], bool], where: str) -> None:
        self.seconds, self.away, self.where = seconds, away, where
        self._inside = threading.local()
        self._lock = threading.Lock()
        self._since: float | None = None

    def call(self, do: Callable[[int], Any]) -> Any:
        """The result of ``do(attempt)``; calls within it, of the same thread, are left to this one to repeat."""
        if getattr(self._inside, "busy", False):
            return do(0)
        self._inside.busy = True
        try:
            return self._repeat(do)
        finally:
            self._inside.busy = False

    def _repeat(self, do: Callable[[int], Any]) -> Any:
        start, pause, attempt = time.monotonic(), _FIRST_PAUSE, 0
        while True:
            try:
                result = do(attempt)
            except Exception as error:
                if not self.away(error) or time.monotonic() - start > self.seconds:
                    raise
                self._say_away(error)
                attempt += 1
                time.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if attempt:
                self._say_back()
            return result

    def _say_away(self, error: BaseException) -> None:
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
                _log.warning(
                    "The storage %s does not answer (%s); waiting for it, up to %.0f s ...",
                    self.where,
                    type(error.__cause__ or error).__name__,
                    self.seconds,
                )

    def _say_back(self) -> None:
        with self._lock:
            if self._since is not None:
                _log.warning("The storage %s answers again, after %.0f s.", self.where, time.monotonic() - self._since)
                self._since = None


def _told(
    storage: Any,
    tell: Callable[[], bool],
    attempt: int,
    trial_id: int,
    state: TrialState,
    values: Sequence[float] | None,
) -> bool:
    """A repeated tell: the first one may have gone through although its answer was lost."""
    try:
        return tell()
    except UpdateFinishedTrialError:
        if not attempt:
            raise
        trial = storage.get_trial(trial_id)
        if (
            trial.state == state
            and (trial.values is None) == (values is None)
            and list(trial.values or ()) == list(values or ())
        ):
            return True
        raise


class PatientDatabase(RDBStorage):
    """Optuna's relational storage with patience.

    Args:
        url: The storage URL, with its driver.
        engine_kwargs: For ``sqlalchemy.create_engine``.
        patience: For how long one call is repeated [s].
        where: The storage in words, without its password.
        opened_before: Whether the first connection is repeated too. One that fails is a mistake in the URL, which no
            waiting mends, unless another process was there before.
    """

    def __init__(
        self, url: str, engine_kwargs: dict[str, Any], patience: float, *, where: str = "", opened_before: bool = False
    ) -> None:
        from sqlalchemy.engine import make_url

        where = where or make_url(url).render_as_string(hide_password=True)
        # Optuna's own methods are called while it is opened: they repeat nothing within this call.
        self._patience = Patience(patience if opened_before else 0.0, _database_away, where)
        opening = super().__init__
        self._patience.call(lambda _: opening(url, engine_kwargs))
        self._patience = Patience(patience, _database_away, where)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; a repeated call whose first one went through is no error."""
        tell = functools.partial(super().set_trial_state_values, trial_id, state, values)
        return bool(self._patience.call(lambda n: _told(self, tell, n, trial_id, state, values)))

    def set_trial_params(self, trial_id: int, params: Mapping[str, tuple[float, BaseDistribution]]) -> None:
        """Set several parameters of a trial at once, as (internal value, distribution); those it has stay as they are.

        One transaction, where Optuna makes one for each: a code has up to 21 entries, each a wait for the disk.
        """
        from optuna.storages._rdb.storage import _create_scoped_session

        def write(_: int) -> None:
            with _create_scoped_session(self.scoped_session, ignore_integrity_error=True) as session:
                for name, (value, distribution) in params.items():
                    self._set_trial_param_without_commit(session, trial_id, name, value, distribution, distribution)

        self._patience.call(write)


class PatientProxy(GrpcStorageProxy):
    """Optuna's gRPC proxy storage with patience.

    Args:
        host: The server's name.
        port: Its port.
        patience: For how long one call is repeated [s].
    """

    def __init__(self, host: str, port: int, patience: float) -> None:
        self._patience = Patience(patience, _server_away, f"grpc://{host}:{port}")
        super().__init__(host=host, port=port)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; a repeated call whose first one went through is no error."""
        tell = functools.partial(super().set_trial_state_values, trial_id, state, values)
        return bool(self._patience.call(lambda n: _told(self, tell, n, trial_id, state, values)))


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._patience.call(lambda _: method(self, *args, **kwargs))

    return call


for _class in (PatientDatabase, PatientProxy):
    for _name in _METHODS:
        if hasattr(_class, _name):
            setattr(_class, _name, _patient(getattr(_class, _name)))


def _database_away(error: BaseException) -> bool:
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
    return _database_away(error) or ("grpc" in sys.modules and _server_away(error))


def _server_away(error: BaseException) -> bool:
    import grpc

    return (
        isinstance(error, grpc.RpcError)
        and isinstance(error, grpc.Call)
        and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)
    )
