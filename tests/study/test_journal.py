"""A journal file that was cut off: repaired under its lock, with nothing that was finished lost; damage is named."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import bsszoo
from bsszoo.compression.reopen import report_study
from bsszoo.errors import SettingsError
from bsszoo.study import open_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def journal(tmp_path):
    """A file with three finished trials, and its URL."""
    file = tmp_path / "study.log"
    study = optuna.create_study(storage=open_storage(f"journal://{file}"), study_name="s")
    for value in range(3):
        study.tell(study.ask({"x": optuna.distributions.IntDistribution(1, 9)}), float(value))
    return file, f"journal://{file}"


def _values(storage):
    return [t.value for t in optuna.load_study(storage=storage, study_name="s").trials]


def test_a_file_cut_off_anywhere_in_its_last_line_opens_and_goes_on(journal):
    file, url = journal
    whole = file.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in (1, *range(2, last, 11), last - 1):
        file.write_bytes(whole[:-cut])
        study = optuna.load_study(storage=open_storage(url), study_name="s")
        assert [t.value for t in study.trials[:2]] == [0.0, 1.0]
        # Of a record that lacks nothing but its line end nothing is lost.
        assert study.trials[2].value == (2.0 if cut == 1 else None)
        if cut > 1:
            study.tell(2, 7.0)
        assert _values(open_storage(url)) == [0.0, 1.0, 2.0 if cut == 1 else 7.0]
        assert _values(JournalStorage(JournalFileBackend(str(file)))) == [0.0, 1.0, 2.0 if cut == 1 else 7.0]


@pytest.mark.parametrize("half", [b'{"op_code":6,"tri', b"\x00" * 5000, b"{" * 200_000, b'{"a":' + b"9" * 5000])
def test_what_a_writer_leaves_half_done_never_stands_before_another_record(journal, half):
    file, url = journal
    storage = open_storage(url)
    study = optuna.load_study(storage=storage, study_name="s")
    with file.open("ab") as out:  # as a process does that is killed, or finds the disk full
        out.write(half)
    assert len(study.trials) == 3
    study.tell(study.ask({"x": optuna.distributions.IntDistribution(1, 9)}), 3.0)
    assert _values(open_storage(url)) == [0.0, 1.0, 2.0, 3.0]
    assert all(line.startswith(b'{"op_code"') for line in file.read_bytes().splitlines())


_FULL = """
import optuna, os, resource, sys
from bsszoo.study import open_storage
file = sys.argv[1]
study = optuna.load_study(storage=open_storage("journal://" + file), study_name="s")
size = os.path.getsize(file)
for more in (1, 20, 100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, resource.RLIM_INFINITY))
    try:
        study.set_user_attr("text", "x" * 500)
    except OSError as error:
        print(error.strerror)
    assert os.path.getsize(file) == size, more
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
study.set_user_attr("text", "with room again")
"""


def test_a_write_that_the_disk_has_no_room_for_leaves_nothing(journal):
    file, url = journal
    done = subprocess.run([sys.executable, "-c", _FULL, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["File too large"] * 3
    study = optuna.load_study(storage=open_storage(url), study_name="s")
    assert study.user_attrs == {"text": "with room again"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"op_code":6,"trial_id":1,"wor',
        b"",
        b"[]",
        b'{"op_code":6,"worker_id":"x"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":"yesterday"}',
        b'{"op_code":77,"worker_id":"x"}',
        b'{"op_code":4,"worker_id":"x","study_id":' + b"1" * 5000 + b"}",
    ],
)
def test_damage_before_the_end_is_named_by_its_line_and_nothing_is_changed(journal, line, tmp_path):
    file, url = journal
    lines = file.read_bytes().splitlines(keepends=True)
    lines[5] = line + b"\n"
    file.write_bytes(b"".join(lines))
    for use in (lambda: open_storage(url), lambda: report_study(url), lambda: report_study(str(file))):
        with pytest.raises(SettingsError, match=r"Line 6 of the journal .* is damaged .*head -n 5 "):
            use()
    assert file.read_bytes() == b"".join(lines)
    remedy = tmp_path / "study.log.repaired"
    subprocess.run(f"head -n 5 {file} > {remedy}", shell=True, check=True)
    assert optuna.load_study(storage=open_storage(f"journal://{remedy}"), study_name="s").trials


def test_a_report_leaves_a_half_line_where_it_is(tmp_path):
    file = tmp_path / "study.log"
    url = f"journal://{file}"
    bsszoo.compress("resnet18", flops="60%", trials=2, batch=2, measure=False, storage=url, out=tmp_path / "run")
    with file.open("ab") as out:
        out.write(b'{"op_code":6,"tri')
    before = file.read_bytes()
    assert report_study(url, out=tmp_path / "page.html").path.is_file()
    assert file.read_bytes() == before


def test_a_folder_in_place_of_the_file_is_told_in_words(tmp_path):
    with pytest.raises(SettingsError, match="cannot be opened: Is a directory"):
        open_storage(f"journal://{tmp_path}")
