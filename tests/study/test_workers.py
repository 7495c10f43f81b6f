"""Real processes that share a search: no code twice, a killed worker's code once more, a restarted database, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("worker_script.py")


class Search:
    """A run of ``worker_script.py``."""

    def __init__(self, folder, url, *, workers, trials, grace=60.0, seconds=0.0, alone=True):
        self.seen_file = folder / "seen.txt"
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, url, str(workers), str(trials), str(grace), self.seen_file, str(seconds),
             "alone" if alone else "shared"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            # A shell starts background jobs with SIGINT ignored, which would be inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def seen(self):
        """Each evaluation that began: its code and its process."""
        lines = self.seen_file.read_text().splitlines() if self.seen_file.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def wait_for(self, evaluations):
        deadline = time.monotonic() + 120
        while len(self.seen()) < evaluations:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def codes(self, state="complete"):
        """The codes of the result, once it is there."""
        out, self.said = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, self.said
        rows = [line.split()[1:] for line in out.splitlines() if line.startswith("ROW")]
        return [code for code, its_state in rows if its_state == state]


def _distinct(search, trials):
    codes = search.codes()
    assert len(codes) == len(set(codes)) == trials
    assert Counter(code for code, _ in search.seen()) == Counter(codes)


def test_eight_processes_on_postgresql_never_evaluate_a_code_twice(tmp_path, postgres):
    search = Search(tmp_path, postgres.database("eight"), workers=8, trials=200)
    _distinct(search, 200)
    assert len({pid for _, pid in search.seen()}) >= 4


def _file(tmp_path, kind):
    return {"sqlite": f"sqlite:///{tmp_path / 'study.db'}", "journal": f"journal://{tmp_path / 'study.log'}"}[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_eight_processes_on_a_file_never_evaluate_one_of_hundreds_twice(tmp_path, kind):
    _distinct(Search(tmp_path, _file(tmp_path, kind), workers=8, trials=250), 250)


@pytest.mark.parametrize(("kind", "workers", "trials"), [("sqlite", 8, 80), ("journal", 4, 24)])
def test_processes_on_a_file_never_evaluate_a_code_twice(tmp_path, kind, workers, trials):
    _distinct(Search(tmp_path, _file(tmp_path, kind), workers=workers, trials=trials), trials)


def test_two_machines_share_a_study_and_each_reports_the_whole(tmp_path, postgres):
    url = postgres.database("two")
    one = Search(tmp_path, url, workers=2, trials=24, seconds=0.05, alone=False)
    two = Search(tmp_path, url, workers=2, trials=24, seconds=0.05, alone=False)
    assert one.codes() == two.codes()
    assert len(one.seen()) == len({code for code, _ in one.seen()}) == 24


def test_the_code_of_a_killed_worker_is_evaluated_again_once(tmp_path):
    search = Search(tmp_path, f"sqlite:///{tmp_path / 'study.db'}", workers=2, trials=12, seconds=0.6)
    search.wait_for(4)
    lost, pid = search.seen()[-1]
    os.kill(pid, signal.SIGKILL)
    codes = search.codes()
    assert len(codes) == len(set(codes)) == 12
    times = Counter(code for code, _ in search.seen())
    assert "A worker process ended (killed by SIGKILL); its code is evaluated again" in search.said
    assert times.pop(lost) == 2
    assert set(times.values()) == {1}
    assert {*times, lost} == set(codes)


def test_a_machine_that_dies_with_its_workers_is_noticed_by_the_other(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    (tmp_path / "dies").mkdir()
    dies = Search(tmp_path / "dies", url, workers=1, trials=6, grace=2.0, seconds=30.0, alone=False)
    dies.wait_for(1)
    dies.process.kill()
    lost = dies.seen()[0][0]
    lives = Search(tmp_path, url, workers=1, trials=6, grace=2.0, seconds=0.0, alone=False)
    codes = lives.codes()
    assert len(set(codes)) == 6
    assert lost in codes
    assert [code for code, _ in lives.seen()].count(lost) == 1


def test_workers_end_with_the_process_that_started_them_and_a_new_one_goes_on(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    search = Search(tmp_path, url, workers=2, trials=8, seconds=1.5)
    search.wait_for(3)
    search.process.kill()
    search.process.wait()
    pids = {pid for _, pid in search.seen()}
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun = len(search.seen())
    again = Search(tmp_path, url, workers=2, trials=8)
    codes = again.codes()
    assert len(codes) == len(set(codes)) == 8
    # Only those that were being evaluated at the kill were evaluated again.
    assert begun + 1 <= len(again.seen()) <= 8 + 2


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_all_workers_and_the_search_goes_on_later(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    search = Search(tmp_path, url, workers=2, trials=6, seconds=1.0)
    search.wait_for(3)
    search.process.send_signal(signal.SIGINT)
    _, said = search.process.communicate(timeout=60)
    assert search.process.returncode != 0
    assert "KeyboardInterrupt" in said
    assert not any(_alive(pid) for _, pid in search.seen())
    assert len(set(Search(tmp_path, url, workers=1, trials=6).codes())) == 6


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_restart_in_mid_search_is_survived(tmp_path, postgres, mode):
    search = Search(tmp_path, postgres.database(f"restart_{mode}"), workers=2, trials=20, seconds=0.1)
    search.wait_for(5)
    postgres.stop(mode)
    time.sleep(2)
    postgres.start()
    _distinct(search, 20)
    assert search.said.count("does not answer") == search.said.count("answers again") == 1
