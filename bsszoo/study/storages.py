"""Storages of studies: a URL opened as an Optuna storage that outlives a restart of its database.

sqlite:///file.db                      one machine
postgresql://user@host/database        any number of machines (MySQL likewise)
journal:///path/file.log               a file on a disk that the machines share
grpc://host:port                       Optuna's proxy server in front of one of the first two
"""

from __future__ import annotations

import importlib.util
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, unquote_plus, urlsplit

from bsszoo.errors import SettingsError
from bsszoo.texts import one_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from sqlalchemy.engine import URL

    from bsszoo.search.sampler import Mode
    from bsszoo.study.loop import SearchPlan

#: Seconds that a write to SQLite waits for the others' writes.
SQLITE_WAIT: Final = 60.0
#: Seconds after which a database server that does not answer counts as not reachable.
CONNECT_WAIT: Final = 10
# What `pip install` takes for each kind of database.
_DRIVERS: Final = {"postgresql": "bsszoo[postgresql]", "mysql": "pymysql", "mariadb": "pymysql"}
# Options of a URL or of a text of libpq (name='value' or name=value), and words in the names of those that are
# masked.
_OPTION: Final = re.compile(r"""([^\s=?&;]+)\s*=\s*(?:('(?:[^'\\]|\\.)*(?:'|$)|"[^"]*(?:"|$))|((?:\\.|[^\s&;])*))""")
_SECRET: Final = ("pass", "pwd", "secret", "token", "key")
_FORMS: Final = (
    "sqlite:///search.db, postgresql://user@host/database, journal:///path/on/a/shared/disk.log or grpc://host:13000"
)


#: What Optuna raises where a storage holds something else than it wrote there.
DAMAGE: Final = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError, RecursionError)


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
        sampler = AutoBSSSampler(
            plan.candidates,
            mode=self.mode,
            batch_size=plan.batch_size,
            seed=self.seed,
            replicates=plan.replicates,
            first=plan.first,
        )
        pruner = HalvingPruner(plan.reduction, pilots=plan.pilots)
        opened = open_storage(self.storage, opened_before=True) if storage is None else storage
        return optuna.load_study(study_name=self.name, storage=opened, sampler=sampler, pruner=pruner)


def open_storage(url: str, *, patience: float = 600.0, opened_before: bool = False, repair: bool = True) -> BaseStorage:
    """The storage at a URL.

    Args:
        url: Any that Optuna's relational storage takes, ``journal:///path`` or ``grpc://host:port``.
        patience: For how long a storage that was opened and then fails to answer is asked again [s].
        opened_before: Another process opened it, so a server that does not answer is away, and is waited for as well.
        repair: Remove a last line of a journal that was cut off; False leaves the file as it is, for reading.

    Raises:
        SettingsError: The URL is none of these, its driver is not installed, or the storage cannot be opened.
    """
    scheme = urlsplit(url).scheme if ":" in url else ""
    try:
        if scheme == "journal":
            return _journal(url, repair=repair)
        if scheme == "grpc":
            return _proxy(url, patience, opened_before=opened_before)
        return _relational(url, patience, opened_before=opened_before)
    except ImportError as error:
        kind = scheme.partition("+")[0]
        package = "bsszoo[grpc]" if kind == "grpc" else _DRIVERS.get(kind, f"the driver of {scheme}")
        raise SettingsError(
            f"The storage {masked(url)} needs a package that is not installed: pip install "
            f"'{package}' ({str(error).splitlines()[0]})."
        ) from None


def masked(storage: str) -> str:
    """A storage URL for messages and files: any password in it is masked."""
    for secret in sorted(secrets_of(storage), key=len, reverse=True):
        storage = storage.replace(secret, "***")
    return storage


def secrets_of(storage: str) -> tuple[str, ...]:
    """The passwords in a storage URL, as written and as decoded, which no message may hold.

    Also those of a text that is no URL, such as ``host=db user=me password=..``: it appears in the error about it.
    """
    # A password that was not escaped may hold @, / and ?: all before the last @ belongs to the user.
    head, at, _ = storage.partition("://")[2].rpartition("@") if "://" in storage else storage.rpartition("@")
    passwords = {head.partition(":")[2].lstrip("/").partition(":")[2]} if at else set()
    if at:
        passwords.add(head.partition(":")[2])
    for name, quoted, plain in _OPTION.findall(storage):
        if any(word in name.lower() for word in _SECRET):
            passwords.add(quoted.strip(quoted[:1]) if quoted else plain)
    return tuple(
        {
            p
            for written in passwords
            for p in (written, unquote(written), unquote_plus(written), repr(written)[1:-1])
            if p
        }
    )


def _journal(url: str, *, repair: bool) -> BaseStorage:
    from bsszoo.optuna_parts import ReplayedJournal
    from bsszoo.study.journal import RepairedJournalFile
    from bsszoo.study.patience import Patience, PatientStorage

    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute():
        raise SettingsError(
            f"The storage {masked(url)} names no file: a journal's path starts at the root, with three "
            "slashes, e.g. journal:///shared/search.log."
        )
    if not path.parent.is_dir():
        raise SettingsError(f"The storage {masked(url)} cannot be opened: there is no folder {path.parent}.")
    try:
        file = RepairedJournalFile(path, repair=repair)
        # A disk that fails is not waited for.
        return PatientStorage(ReplayedJournal(file, file.explained), Patience(0.0, lambda _: False, str(path)))
    except (OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error, url)
        raise SettingsError(f"The storage {masked(url)} cannot be opened: {why}.") from None


def _proxy(url: str, patience: float, *, opened_before: bool) -> BaseStorage:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 13000
    except ValueError:
        host = None
    if not host:
        raise SettingsError(
            f"The storage {masked(url)} names no server; it takes grpc://host:port, e.g. grpc://localhost:13000."
        )
    if importlib.util.find_spec("grpc") is None:
        raise ImportError("No module named 'grpc'")
    from optuna.storages import GrpcStorageProxy

    from bsszoo.study.patience import Patience, PatientStorage, server_away

    proxy = GrpcStorageProxy(host=host, port=port)
    opening = Patience(patience if opened_before else 0.0, lambda e: isinstance(e, ConnectionError), masked(url))
    try:
        opening.call(lambda _: proxy.wait_server_ready(timeout=CONNECT_WAIT))
    except ConnectionError:
        wait = patience if opened_before else CONNECT_WAIT
        raise SettingsError(
            f"The storage {masked(url)} cannot be opened: no server answered within {wait:g} s. "
            "Start optuna.storages.run_grpc_proxy_server there; see docs/many-machines."
        ) from None
    return PatientStorage(proxy, Patience(patience, server_away, f"grpc://{host}:{port}"))


def _relational(url: str, patience: float, *, opened_before: bool) -> BaseStorage:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    from bsszoo.study.patience import Patience, PatientStorage, database_away

    try:
        full = _with_driver(make_url(url))
    except (ArgumentError, ValueError):
        raise SettingsError(
            f"The storage {masked(url)} cannot be opened: it is no URL. It takes one such as {_FORMS}."
        ) from None
    address = full.render_as_string(hide_password=False)
    # A first connection that fails is a mistake in the URL, which no waiting mends, unless another process made it.
    opening = Patience(patience if opened_before else 0.0, database_away, masked(url))
    for attempt in range(6):
        try:
            database = opening.call(lambda _: RDBStorage(address, _engine_settings(full)))
        except NoSuchModuleError:
            raise SettingsError(
                f"The storage {masked(url)} cannot be opened: there is no database "
                f"{full.drivername!r}. It takes a URL such as {_FORMS}."
            ) from None
        except (SQLAlchemyError, StorageInternalError, RuntimeError, OSError, *DAMAGE) as error:
            # Processes that create the tables of one storage in the same instant: the later ones find them made.
            if attempt < 5 and _made_meanwhile(error):
                time.sleep(0.2 + 0.5 * random.random())
                continue
            raise SettingsError(f"The storage {masked(url)} cannot be opened: {first_line(error, url)}.") from None
        else:
            # Behind the cache that Optuna puts before a database.
            return PatientStorage(get_storage(database), Patience(patience, database_away, masked(url)), database)
    raise AssertionError


def check_readable(study: Study, url: str) -> None:
    """Read all of a study once, so that damage is met before anything is built on it.

    Args:
        study: The study.
        url: Its storage's.

    Raises:
        SettingsError: Its attributes or trials cannot be read.
    """
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import DatabaseError

    from bsszoo.study.patience import away

    try:
        study.user_attrs, study.directions, study.metric_names  # noqa: B018  reading is what is tried
        study.get_trials(deepcopy=False)
    except (DatabaseError, OptunaError, *DAMAGE) as error:
        if isinstance(error, SettingsError) or away(error):
            raise
        raise SettingsError(
            f"The study {study.study_name!r} in {masked(url)} is damaged and cannot be read: {type(error).__name__}: "
            f"{one_line(first_line(error, url))}. Nothing was changed. Bring a copy of the storage back; "
            "the results so far are in trials.csv of the run's folder too."
        ) from None


def first_line(error: BaseException, url: str) -> str:
    """The first line of an error's message, or of its cause's, without the storage's password."""
    text = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0].rstrip(".")
    for secret in secrets_of(url):
        text = text.replace(secret, "***")
    return text


def _with_driver(url: URL) -> URL:
    """``postgresql://`` and ``mysql://`` with the driver that is installed, where the usual one is not."""
    kind = {"postgres": "postgresql"}.get(url.drivername, url.drivername)
    choices = {
        "postgresql": ("psycopg", "psycopg2"),
        "mysql": ("MySQLdb", "pymysql"),
        "mariadb": ("MySQLdb", "pymysql"),
    }
    installed = [d for d in choices.get(kind, ()) if importlib.util.find_spec(d) is not None]
    if not installed:
        return url.set(drivername=kind)
    return url.set(drivername=f"{kind}+{installed[0].lower()}")


def _engine_settings(url: URL) -> dict[str, Any]:
    kind, _, driver = url.drivername.partition("+")
    if kind == "sqlite":
        return {"connect_args": {"timeout": SQLITE_WAIT}}
    settings: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "postgresql" and driver.startswith("psycopg"):
        # A server that vanishes without a word is noticed after a minute, not after the system's two hours.
        settings["connect_args"] = {
            "connect_timeout": CONNECT_WAIT,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
    return settings


def _made_meanwhile(error: BaseException) -> bool:
    text = f"{error} {error.__cause__}".lower()
    return any(words in text for words in ("already exists", "unique constraint", "duplicate", "database is locked"))
