"""A run's folder that was damaged, or made by somebody else: an error that names what is wrong, never a traceback."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
from contextlib import closing

import pytest
from strategies import some_by_default

import bsszoo
from bsszoo.compression.plan import make_plan
from bsszoo.compression.reopen import report_study
from bsszoo.errors import BssZooError, SettingsError

SMALL = {"flops": "130M", "trials": 4, "batch": 4, "measure": False}
NETWORK = "mobilenetv2"
FILES = ("settings.json", "controls.json", "result.json", "trials.csv", "study.db", ".lock")
#: What is put in the place of values, of whatever kind these were.
STRANGE = (
    None,
    True,
    -1,
    0,
    1e308,
    10**25,
    "",
    "x" * 5000,
    "\x1b[2J",
    [],
    [[]],
    {},
    {"a": 1},
    [None],
    "../../etc",
    "os:getcwd",
)


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Few candidates and no page at the end of a run: they take longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(make_plan.__kwdefaults__, "candidates", 300)
        patch.setattr("bsszoo.report.page.write_report", lambda *_, **__: None)
        patch.setattr("bsszoo.compression.reopen.insight_of_rows", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    bsszoo.compress(NETWORK, out=folder, **SMALL)
    return folder


def _seeds(few, many):
    """Some seeds by default, and many where there is time."""
    slow = (pytest.param(seed, marks=pytest.mark.slow) for seed in range(few, many))
    return [*some_by_default(range(few), range(few // 2)), *slow]


def _use(folder):
    """Resume the run and write its page; only an error of ours may come, and it names the folder or the study."""
    message = []
    for use in (
        lambda: report_study(str(folder), out=folder.parent / "page.html"),
        lambda: bsszoo.compress(NETWORK, out=folder, **SMALL),
    ):
        try:
            use()
        except BssZooError as error:
            message.append(str(error))
    return message


# -- each kind of damage to each file -------------------------------------------------------------------------


def _cut_off(file, rng):
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(max(len(content), 1))])


def _bits(file, rng):
    content = bytearray(file.read_bytes() or b" ")
    for _ in range(rng.choice((1, 3, 50))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def _directory(file, _):
    file.unlink()
    file.mkdir()


def _text(content):
    return lambda file, _: file.write_bytes(content)


def _swapped(file, rng):
    """One value of a JSON file, however deep in it, becomes something else."""
    data = json.loads(file.read_text())
    _swap(data, rng)
    file.write_text(json.dumps(data))


def _swap(data, rng):
    places = []

    def walk(node):
        for key in node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(data)
    if not places:  # nothing is left of it
        return
    node, key = rng.choice(places)
    if isinstance(node, dict) and rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(STRANGE)


_KINDS = {
    "cut off": _cut_off,
    "bits": _bits,
    "empty": _text(b""),
    "directory": _directory,
    "no UTF-8": _text(b'{"a": "\xff"}'),
    "deep": _text(b"[" * 100_000),
    "deep object": _text(b'{"a":' * 50_000),
    "digits": _text(b'{"a": ' + b"9" * 6000 + b"}"),
    "a list": _text(b"[]"),
    "other keys": _text(b'{"trials": 3, "networks": 4, "confirmation": [], "finished": "x"}'),
}


@pytest.mark.parametrize("kind", some_by_default(_KINDS, ["cut off", "bits", "empty", "directory", "other keys"]))
@pytest.mark.parametrize("name", FILES)
def test_each_file_in_each_kind_of_damage(finished, tmp_path, name, kind):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    _KINDS[kind](folder / name, random.Random(f"{name} {kind}"))
    for message in _use(folder):
        assert str(folder) in message
        assert "Remove" not in message


@pytest.mark.parametrize("seed", _seeds(8, 100))
def test_values_of_other_kinds_in_the_files(finished, tmp_path, seed):
    folder, rng = tmp_path / "run", random.Random(seed)
    shutil.copytree(finished, folder)
    for _ in range(rng.randint(1, 3)):
        _swapped(folder / rng.choice(("settings.json", "controls.json", "result.json")), rng)
    _use(folder)


_COLUMNS = (
    ("study_user_attributes", "value_json"),
    ("study_system_attributes", "value_json"),
    ("trial_user_attributes", "value_json"),
    ("trial_system_attributes", "value_json"),
    ("trial_params", "distribution_json"),
    ("trial_params", "param_value"),
    ("trial_values", "value"),
    ("trials", "state"),
    ("study_directions", "direction"),
    ("trials", "number"),
    ("trial_values", "value_type"),
)


def json_value(text):
    """Whether a text is JSON still: an earlier damage may have hit the same value."""
    try:
        json.loads(text)
    except (ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize("seed", _seeds(16, 200))
def test_values_of_other_kinds_in_the_study(finished, tmp_path, seed):
    folder, rng = tmp_path / "run", random.Random(seed)
    shutil.copytree(finished, folder)
    with closing(sqlite3.connect(folder / "study.db")) as database:
        for _ in range(rng.randint(1, 3)):
            table, column = rng.choice(_COLUMNS)
            rows = database.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            if not rows:
                continue
            row, value = rng.choice(rows)
            if column == "value_json" and len(str(value)) < 4000 and rng.random() < 0.6 and json_value(value):
                data = {"": json.loads(value)}
                _swap(data, rng)
                value = json.dumps(data.get(""))
            else:
                value = rng.choice(("", "[" * 5000, "9" * 5000, "{}", "\x00", "x", None, 7, -1, 1e300))
            with contextlib.suppress(sqlite3.IntegrityError):  # a value that the table itself refuses is no damage
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        database.commit()
    _use(folder)


# -- what the words promise -----------------------------------------------------------------------------------


def test_damaged_settings_are_moved_and_the_run_resumes_from_the_study(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = (folder / "trials.csv").read_text()
    (folder / "settings.json").write_text("{")
    with pytest.raises(SettingsError, match=r"Move it .*: mv .*settings\.json .*settings\.json\.damaged"):
        bsszoo.compress(NETWORK, out=folder, **SMALL)
    (folder / "settings.json").rename(folder / "settings.json.damaged")
    with pytest.raises(SettingsError, match="seed was 0 and now is 1"):
        bsszoo.compress(NETWORK, out=folder, **SMALL, seed=1)
    bsszoo.compress(NETWORK, out=folder, **SMALL)
    assert (folder / "trials.csv").read_text() == before
    assert (folder / "settings.json").read_text() == (finished / "settings.json").read_text()


def test_damaged_results_are_put_aside_and_written_again_from_the_study(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "result.json").write_text('{"networks": [')
    for use in (lambda: bsszoo.compress(NETWORK, out=folder, **SMALL), lambda: report_study(str(folder))):
        with pytest.raises(SettingsError, match=r"result\.json cannot be read.*mv "):
            use()
    (folder / "result.json").rename(folder / "result.json.damaged")
    bsszoo.compress(NETWORK, out=folder, **SMALL)
    networks = [json.loads((f / "result.json").read_text())["networks"] for f in (folder, finished)]
    assert networks[0] == networks[1]


# -- somebody else's folder -----------------------------------------------------------------------------------


_LOUD = """
open({mark!r}, "a").write("imported ")
def ms(code):
    open({mark!r}, "a").write("called ")
    return 1.0
"""


def test_a_report_imports_and_calls_nothing_that_a_study_names(finished, tmp_path, monkeypatch):
    folder, mark = tmp_path / "gift", tmp_path / "mark"
    shutil.copytree(finished, folder)
    (folder / "notes.py").write_text(_LOUD.format(mark=str(mark)))
    (folder / "table.json").write_text("{}")
    monkeypatch.chdir(folder)
    for told in (
        {"latency_model": "notes:ms"},
        {"latency_table": str(folder / "table.json")},
        {"evaluator": "notes:ms"},
    ):
        with closing(sqlite3.connect(folder / "study.db")) as database:
            [[value]] = database.execute(
                "SELECT value_json FROM study_user_attributes WHERE key = 'settings'"
            ).fetchall()
            settings = {**json.loads(value), "latency_ms": 1e6, **told}
            database.execute(
                "UPDATE study_user_attributes SET value_json = ? WHERE key = 'settings'", [json.dumps(settings)]
            )
            database.commit()
        page = report_study(".", out=tmp_path / "page.html").path.read_text()
        assert "The latencies that limited the run came from" in page
        assert "which a report does not load" in page
    assert not mark.exists()


def test_a_text_in_the_place_of_a_number_reaches_no_command_of_the_page(finished, tmp_path):
    folder = tmp_path / "gift"
    shutil.copytree(finished, folder)
    data = json.loads((folder / "result.json").read_text())
    data["training"] = {
        "folder": ".",
        "recipe": "r.yaml",
        "data": None,
        "in_chans": 3,
        "num_classes": '10)\nimport os; os.system("true"',
    }
    (folder / "result.json").write_text(json.dumps(data))
    with pytest.raises(SettingsError, match=r"result\.json cannot be used"):
        report_study(str(folder))
