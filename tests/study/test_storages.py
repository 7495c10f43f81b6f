"""Storage URLs: what opens, the errors of those that do not, and waiting for a database that is away."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from bsszoo.errors import SettingsError
from bsszoo.study import open_storage, patience, storages
from bsszoo.study.storages import masked

optuna.logging.set_verbosity(optuna.logging.ERROR)


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nowhere://x", "no database 'nowhere'"),
        ("just a name", "is no URL"),
        ("", "is no URL"),
        ("journal://relative/file.log", "three slashes"),
        ("journal:///no/such/folder/file.log", "there is no folder"),
        ("grpc://", "names no server"),
        ("grpc://host:port", "names no server"),
        ("sqlite:////no/such/folder/study.db", "unable to open database file"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_in_words(url, words):
    with pytest.raises(SettingsError, match=words):
        open_storage(url)


def test_a_missing_driver_is_named_as_what_to_install(monkeypatch):
    monkeypatch.setattr(storages.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'bsszoo\[grpc\]'"):
        open_storage("grpc://127.0.0.1:1")

    def missing(*_, **__):
        raise ImportError("No module named 'psycopg2'")

    monkeypatch.setattr(optuna.storages, "RDBStorage", missing)
    with pytest.raises(SettingsError, match=r"bsszoo\[postgresql\].*psycopg2"):
        open_storage("postgresql://me@host/db")


@pytest.mark.parametrize("password", ["s3cr3t", "s%40cr3t"])
def test_no_password_is_shown_by_any_error(password):
    pytest.importorskip("psycopg")
    with pytest.raises(SettingsError) as error:
        open_storage(f"postgresql://me:{password}@127.0.0.1:{_free_port()}/db")
    assert "cr3t" not in str(error.value)
    assert "me:***@127.0.0.1" in str(error.value)
    assert "cr3t" not in masked(f"postgresql://me:{password}/@host:x/db")


def test_a_server_that_is_not_there_is_an_error_at_once_and_not_waited_for(monkeypatch):
    pytest.importorskip("grpc")
    monkeypatch.setattr(storages, "CONNECT_WAIT", 0.2)
    with pytest.raises(SettingsError, match="run_grpc_proxy_server"):
        open_storage(f"grpc://127.0.0.1:{_free_port()}")


def test_processes_that_open_a_new_file_at_the_same_time_all_succeed(tmp_path):
    url, opened = f"sqlite:///{tmp_path / 'study.db'}", []
    threads = [threading.Thread(target=lambda: opened.append(open_storage(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4


def test_a_search_through_a_real_grpc_proxy(tmp_path):
    pytest.importorskip("grpc")
    from optuna.storages import get_storage
    from optuna.storages._grpc.server import make_server

    port = _free_port()
    server = make_server(get_storage(open_storage(f"sqlite:///{tmp_path / 'study.db'}")), "127.0.0.1", port)
    server.start()
    try:
        storage = open_storage(f"grpc://127.0.0.1:{port}")
        study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
        trial = study.ask({"x": optuna.distributions.IntDistribution(1, 9)})
        study.tell(trial, 2.5)
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [3.5])
        assert (
            optuna.load_study(storage=open_storage(f"sqlite:///{tmp_path / 'study.db'}"), study_name="s")
            .trials[0]
            .value
            == 2.5
        )
    finally:
        server.stop(None)


class _Flaky:
    """Makes a method of Optuna's storage fail, before or after it did its work."""

    def __init__(self, monkeypatch, name, *, times, after=False, error=None):
        self.calls, self.times, self.after = 0, times, after
        self.error = error or _connection_lost()
        original = getattr(optuna.storages.RDBStorage, name)
        flaky = self

        def method(self, *args, **kwargs):
            flaky.calls += 1
            if flaky.calls > flaky.times:
                return original(self, *args, **kwargs)
            if flaky.after:
                original(self, *args, **kwargs)
            raise flaky.error

        monkeypatch.setattr(optuna.storages.RDBStorage, name, method)


def _connection_lost():
    from sqlalchemy.exc import OperationalError

    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = OperationalError("SELECT 1", {}, ConnectionError("server closed the connection"))
    return error


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.001)
    return open_storage(f"sqlite:///{tmp_path / 'study.db'}", patience=5.0)


def test_a_call_is_repeated_until_the_database_is_back_with_one_line_each(database, monkeypatch, caplog):
    optuna.create_study(storage=database, study_name="s")
    flaky = _Flaky(monkeypatch, "get_study_id_from_name", times=3)
    study = optuna.load_study(storage=database, study_name="s")
    assert flaky.calls == 4
    assert caplog.text.count("does not answer") == caplog.text.count("answers again") == 1
    assert study.trials == []


def test_a_tell_whose_answer_was_lost_went_through_and_is_no_error(database, monkeypatch):
    study = optuna.create_study(storage=database, direction="maximize")
    trial = study.ask({"x": optuna.distributions.IntDistribution(1, 9)})
    _Flaky(monkeypatch, "set_trial_state_values", times=1, after=True)
    study.tell(trial, 4.5)
    assert study.trials[0].value == 4.5
    with pytest.raises(UpdateFinishedTrialError):
        database.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def test_a_database_that_stays_away_is_an_error_in_the_end(database, monkeypatch):
    database.patience.seconds = 0.05
    _Flaky(monkeypatch, "get_all_studies", times=10**6)
    with pytest.raises(StorageInternalError):
        database.get_all_studies()


def test_a_full_disk_or_a_wrong_call_is_not_waited_for(database, monkeypatch):
    import sqlite3

    from sqlalchemy.exc import OperationalError

    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    flaky = _Flaky(monkeypatch, "get_all_studies", times=10, error=error)
    with pytest.raises(StorageInternalError):
        database.get_all_studies()
    assert flaky.calls == 1
    with pytest.raises(KeyError):
        database.get_study_id_from_name("no such study")


# -- Ctrl-C in the middle of a call ----------------------------------------------------------------------------


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises ``KeyboardInterrupt``, as in a shell: a process of parallel tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupt_at(database, ctrl_c):  # noqa: ARG001  it lasts as long
    """Has this process send itself a signal at the next SQL statements of some numbers, counted from 1."""
    from sqlalchemy import event

    engine, countdown = database.database.engine, []

    def statement(*_):
        countdown[:] = [n - 1 for n in countdown]
        if 0 in countdown:
            os.kill(os.getpid(), signal.SIGINT)

    event.listen(engine, "before_cursor_execute", statement)
    yield lambda *numbers: countdown.__setitem__(slice(None), numbers)
    event.remove(engine, "before_cursor_execute", statement)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_ctrl_c_in_the_middle_of_a_write_comes_after_it_and_leaves_no_lock(database, interrupt_at, tmp_path, at):
    study = optuna.create_study(storage=database)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupt_at(at)
    with pytest.raises(KeyboardInterrupt) as stopped:  # what it refers to keeps cursors alive, and with them locks
        study.set_user_attr("a", 1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with sqlite3.connect(tmp_path / "study.db", timeout=0) as another:
        another.execute("BEGIN EXCLUSIVE")
    study.set_user_attr("b", 2)
    assert study.user_attrs == {"a": 1, "b": 2}
    del stopped


def test_a_second_ctrl_c_is_not_made_to_wait(database, interrupt_at):
    study = optuna.create_study(storage=database)
    interrupt_at(1, 2)
    with pytest.raises(KeyboardInterrupt):
        study.set_user_attr("a", 1)
    assert "a" not in optuna.load_study(study_name=None, storage=open_storage(database.database.url)).user_attrs


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_wait_for_a_database_that_is_away(database, monkeypatch):
    flaky = _Flaky(monkeypatch, "get_all_studies", times=10**6)
    monkeypatch.setattr(patience.time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        database.get_all_studies()
    assert flaky.calls == 1


def test_sigterm_in_the_middle_of_a_journals_record_comes_after_it(tmp_path, monkeypatch):
    url = f"journal://{tmp_path / 'study.log'}"
    study = optuna.create_study(storage=open_storage(url))
    to_disk = os.fsync
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(list(tmp_path.iterdir())))

    def interrupted(descriptor):
        os.kill(os.getpid(), signal.SIGTERM)
        to_disk(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    try:
        study.set_user_attr("a", 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    # The lock, a file beside it, was gone by then.
    assert received == [[tmp_path / "study.log"]]
    assert optuna.load_study(study_name=None, storage=open_storage(url)).user_attrs == {"a": 1}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://host/db?user=me&password=hunter2",
        "mysql://host/db?passwd=hunter2&charset=utf8",
        "postgresql://me:p@hunter2/x?y@host/db",
        "grpc://me:hunter2@host:13000",
    ],
)
def test_no_part_of_a_password_is_shown(url):
    assert "hunter2" not in masked(url)
    assert "host" in masked(url)
