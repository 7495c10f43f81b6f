"""Real processes that share a search: no code twice, a killed worker's code once more, a restarted database, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from strategies import some_by_default

#: Seconds after which something is taken to hang: far more than a busy machine needs.
LONG = 600
SCRIPT = Path(__file__).with_name("worker_script.py")


class Search:
    """A run of ``worker_script.py``."""

    def __init__(self, folder, url, *, workers, trials, grace=60.0, seconds=0.0, alone=True, **environment):
        self.seen_file = folder / "seen.txt"
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
        self.process = subprocess.Popen(
            [
                sys.executable,
                SCRIPT,
                url,
                str(workers),
                str(trials),
                str(grace),
                self.seen_file,
                str(seconds),
                "alone" if alone else "shared",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # A shell starts background jobs with SIGINT ignored, which would be inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def seen(self):
        """Each evaluation that began: its code and its process."""
        lines = self.seen_file.read_text().splitlines() if self.seen_file.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def wait_for(self, evaluations):
        until(lambda: len(self.seen()) >= evaluations, self.process)

    def starting(self):
        """The worker processes that have evaluated nothing yet."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = []
        for child in (int(p) for p in path.read_text().split()):
            with contextlib.suppress(OSError):
                if b"bsszoo.study.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    children.append(child)
        return [child for child in children if child not in {pid for _, pid in self.seen()}]

    def codes(self, state="complete"):
        """The codes of the result, once it is there."""
        out, self.stderr = self.process.communicate(timeout=LONG)
        assert self.process.returncode == 0, self.stderr
        rows = [line.split(maxsplit=3)[1:] for line in out.splitlines() if line.startswith("ROW")]
        self.errors = {code: error for code, _, error in rows}
        return [code for code, its_state, _ in rows if its_state == state]


def until(true, process=None):
    """Wait until something is true, for as long as a process runs."""
    deadline = time.monotonic() + LONG
    while not true():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _distinct(search, trials):
    codes = search.codes()
    assert len(codes) == len(set(codes)) == trials
    assert Counter(code for code, _ in search.seen()) == Counter(codes)


@pytest.mark.slow
def test_eight_processes_on_postgresql_never_evaluate_a_code_twice(tmp_path, postgres):
    search = Search(tmp_path, postgres.database("eight"), workers=8, trials=80)
    _distinct(search, 80)
    assert len({pid for _, pid in search.seen()}) >= 4


def _file(tmp_path, kind):
    return {"sqlite": f"sqlite:///{tmp_path / 'study.db'}", "journal": f"journal://{tmp_path / 'study.log'}"}[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_eight_processes_on_a_file_never_evaluate_one_of_hundreds_twice(tmp_path, kind):
    _distinct(Search(tmp_path, _file(tmp_path, kind), workers=8, trials=250), 250)


@pytest.mark.parametrize(
    ("kind", "workers", "trials"),
    some_by_default(
        [("sqlite", 4, 24), ("journal", 4, 16), ("sqlite", 4, 40), ("journal", 4, 24)],
        [("sqlite", 4, 24), ("journal", 4, 16)],
    ),
)
def test_processes_on_a_file_never_evaluate_a_code_twice(tmp_path, kind, workers, trials):
    _distinct(Search(tmp_path, _file(tmp_path, kind), workers=workers, trials=trials), trials)


@pytest.mark.extended
def test_two_machines_share_a_study_and_each_reports_the_whole(tmp_path, postgres):
    url = postgres.database("two")
    one = Search(tmp_path, url, workers=2, trials=24, seconds=0.05, alone=False)
    two = Search(tmp_path, url, workers=2, trials=24, seconds=0.05, alone=False)
    assert one.codes() == two.codes()
    assert len(one.seen()) == len({code for code, _ in one.seen()}) == 24


def test_the_code_of_a_killed_worker_is_evaluated_again_once(tmp_path):
    go = tmp_path / "go"
    search = Search(tmp_path, f"sqlite:///{tmp_path / 'study.db'}", workers=2, trials=12, HOLD=f"4:{go}")
    search.wait_for(4)
    lost, pid = search.seen()[3]
    os.kill(pid, signal.SIGKILL)
    go.touch()
    codes = search.codes()
    assert len(codes) == len(set(codes)) == 12
    times = Counter(code for code, _ in search.seen())
    assert "A worker process ended (killed by SIGKILL); its code is evaluated again" in search.stderr
    assert times.pop(lost) == 2
    assert set(times.values()) == {1}
    assert {*times, lost} == set(codes)


@pytest.mark.extended
def test_a_machine_that_dies_with_its_workers_is_noticed_by_the_other(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    (tmp_path / "dies").mkdir()
    dies = Search(tmp_path / "dies", url, workers=1, trials=6, grace=2.0, alone=False, HOLD=f"1:{tmp_path / 'never'}")
    dies.wait_for(1)
    [worker] = {pid for _, pid in dies.seen()}
    dies.process.kill()
    dies.process.communicate()
    until(lambda: not _alive(worker))
    lost = dies.seen()[0][0]
    lives = Search(tmp_path, url, workers=1, trials=6, grace=2.0, alone=False)
    codes = lives.codes()
    assert len(set(codes)) == 6
    assert lost in codes
    assert [code for code, _ in lives.seen()].count(lost) == 1


@pytest.mark.extended
def test_workers_end_with_the_process_that_started_them_and_a_new_one_goes_on(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    # Twice: what ended the command is no fault of the codes that it evaluated, so none of them is given up.
    seen = 2
    for _ in range(2):
        search = Search(tmp_path, url, workers=2, trials=8, HOLD=f"3:{tmp_path / 'go'}")
        search.wait_for(seen + 1)
        begun = {pid for _, pid in search.seen()}
        search.process.kill()
        search.process.communicate()
        until(lambda: not any(_alive(pid) for pid in begun))  # noqa: B023  it is called here and now
        seen = len(search.seen())
    (tmp_path / "go").touch()
    again = Search(tmp_path, url, workers=2, trials=8)
    codes = again.codes()
    assert len(codes) == len(set(codes)) == 8
    # Only those that were being evaluated at a kill were evaluated again.
    assert 8 < len(again.seen()) <= 8 + 2 * 2


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", some_by_default([0, 2], [2]))
def test_ctrl_c_ends_all_workers_and_the_search_resumes_any_number_of_times(tmp_path, workers):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    seen = 2
    for _ in range(2):
        search = Search(tmp_path, url, workers=workers, trials=6, HOLD=f"3:{tmp_path / 'go'}")
        search.wait_for(seen + 1)
        search.process.send_signal(signal.SIGINT)
        _, stderr = search.process.communicate(timeout=LONG)
        assert search.process.returncode != 0
        assert "KeyboardInterrupt" in stderr
        assert not any(_alive(pid) for _, pid in search.seen())
        seen = len(search.seen())
    (tmp_path / "go").touch()
    assert len(set(Search(tmp_path, url, workers=0, trials=6).codes())) == 6


@pytest.mark.parametrize("mode", ["fast", pytest.param("immediate", marks=pytest.mark.slow)])
@pytest.mark.extended
def test_a_database_restart_in_mid_search_is_survived(tmp_path, postgres, mode):
    go = tmp_path / "go"
    search = Search(tmp_path, postgres.database(f"restart_{mode}"), workers=2, trials=20, HOLD=f"5:{go}")
    search.wait_for(5)
    postgres.stop(mode)
    # The parent meets the outage, and the test waits for its message.
    stderr = [search.process.stderr.readline()]
    while "does not answer" not in stderr[-1]:
        assert stderr[-1], stderr
        stderr.append(search.process.stderr.readline())
    postgres.start()
    go.touch()
    _distinct(search, 20)
    assert "".join([*stderr, search.stderr]).count("does not answer") == search.stderr.count("answers again") == 1


# -- workers that die -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "kills"), [(3, 4), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_workers_killed_while_they_start_are_replaced(tmp_path, workers, kills):
    search = Search(tmp_path, f"sqlite:///{tmp_path / 'study.db'}", workers=workers, trials=8)
    killed = set()
    while len(killed) < kills:
        until(lambda: search.process.poll() is not None or set(search.starting()) - killed)
        if search.process.poll() is not None:
            break
        pid = (set(search.starting()) - killed).pop()
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        until(lambda: not _alive(pid))  # noqa: B023  it is called here and now
    codes = search.codes()
    assert len(codes) == len(set(codes)) == 8
    assert killed
    assert "A worker process ended while it started (killed by SIGKILL); another one takes its place" in search.stderr


def test_the_temporary_folder_of_the_workers_is_taken_away(tmp_path):
    (tmp_path / "temporary").mkdir()
    search = Search(
        tmp_path,
        f"sqlite:///{tmp_path / 'study.db'}",
        workers=2,
        trials=6,
        TMPDIR=str(tmp_path / "temporary"),
        HOLD=f"2:{tmp_path / 'go'}",
    )
    search.wait_for(2)
    [folder] = (tmp_path / "temporary").glob("bsszoo-workers-*")
    assert folder.stat().st_mode & 0o077 == 0
    search.process.kill()
    search.process.communicate()
    until(lambda: not any(_alive(pid) for _, pid in search.seen()))
    assert not folder.exists()


_NO_GUARD = """
import sys, numpy as np, optuna
from bsszoo.spaces import Space
from bsszoo.search import CandidateSet
from bsszoo.evaluators import FunctionEvaluator
from bsszoo.study import SearchPlan, StudyAddress, open_storage, run_workers

def judge(code):
    return 1.0

codes = np.array([(64, 128, 256, 512, a, b, 1, 1) for a in range(1, 9) for b in range(1, 9)])
candidates = CandidateSet(codes, names=("C1", "C2", "C3", "C4", "L1", "L2", "L3", "L4"))
optuna.create_study(storage=open_storage(sys.argv[1]), study_name="s", direction="maximize", load_if_exists=True)
run_workers(StudyAddress(sys.argv[1], "s", 0), SearchPlan(Space.of("resnet18"), candidates, FunctionEvaluator(judge), 6,
                                                          6), lambda _: None, workers=2)
"""


def test_a_script_without_a_guard_ends_and_says_why(tmp_path):
    (tmp_path / "script.py").write_text(_NO_GUARD)
    done = subprocess.run(
        [sys.executable, "script.py", f"sqlite:///{tmp_path / 'study.db'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1].startswith("bsszoo.errors.RunError: A worker process ended before it")
    assert "if __name__ == '__main__':" in done.stderr


def test_an_evaluator_of_a_module_run_by_its_name_has_its_output_and_no_input_of_the_command(tmp_path):
    judge = "    print('judged', sys.argv[1:], repr(sys.stdin.read()), flush=True)\n    return 1.0"
    search = _NO_GUARD.replace("    return 1.0", judge).partition("codes =")
    body = "".join(search[1:]).replace("\n", "\n    ")
    (tmp_path / "mine.py").write_text(f"{search[0]}if __name__ == '__main__':\n    {body}")
    done = subprocess.run(
        [sys.executable, "-m", "mine", url := f"sqlite:///{tmp_path / 'study.db'}"],
        cwd=tmp_path,
        capture_output=True,
        input="for the command",
        text=True,
        check=True,
        timeout=LONG,
    )
    assert done.stdout.splitlines() == [f"judged {[url]} ''"] * 6


def test_more_workers_than_the_system_has_room_for_are_an_error_in_words(tmp_path):
    # So few open files that the system refuses while the first processes start: nothing waits for what they do.
    script = tmp_path / "few.py"
    script.write_text(
        "import resource, sys, worker_script\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "    worker_script.main()\n"
    )
    words = [f"sqlite:///{tmp_path}/study.db", "1000", "1200", "60", str(tmp_path / "seen.txt"), "0", "alone"]
    done = subprocess.run(
        [sys.executable, script, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert "of 1000 cannot be started: Too many open files" in last, done.stderr[-2000:]
    assert "fewer --workers" in last


@pytest.mark.extended
def test_a_code_that_kills_its_process_is_failed_after_two_and_the_search_goes_on(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    for _ in range(40):
        search = Search(tmp_path, url, workers=0, trials=4, DIES="2")
        search.process.wait()
        if search.process.returncode == 0:
            break
        assert search.process.returncode == -signal.SIGKILL
        search.process.communicate()
    failed = search.codes("failed")
    times = Counter(code for code, _ in search.seen())
    assert failed
    assert all("_l2-" in code and times[code] == 2 for code in failed)
    assert all(f"Two processes died while they evaluated {code}" in search.errors[code] for code in failed)
    complete = search.errors.keys() - set(failed)
    assert len(search.errors) == 4
    assert all("_l3-" in code and times[code] == 1 for code in complete)


@pytest.mark.extended
def test_workers_say_which_code_takes_them_along(tmp_path):
    search = Search(tmp_path, f"sqlite:///{tmp_path / 'study.db'}", workers=2, trials=6, DIES="2")
    failed = search.codes("failed")
    times = Counter(code for code, _ in search.seen())
    assert failed
    assert all(times[code] == (2 if code in failed else 1) for code in search.errors)
    for code in failed:
        assert f"Two processes died while they evaluated {code}, the last one killed by SIGKILL" in search.errors[code]
        assert f"while they evaluated {code}, the last one killed by SIGKILL: it counts as a failed" in search.stderr


@pytest.mark.parametrize("mode", ["immediate", pytest.param("fast", marks=pytest.mark.slow)])
@pytest.mark.extended
def test_a_database_restart_while_workers_start_costs_time_only(tmp_path, postgres, mode):
    search = Search(tmp_path, postgres.database(f"start_{mode}"), workers=3, trials=12)
    until(lambda: len(search.starting()) == 3, search.process)
    postgres.stop(mode)
    time.sleep(4)  # for as long as they need to reach it; were it too short, they would only meet no outage
    postgres.start()
    codes = search.codes()
    assert len(codes) == len(set(codes)) == 12


# -- campaigns: many faults, one after the other ---------------------------------------------------------------


def _campaign(tmp_path, kind, url, seed, *, workers, rounds):
    """Kill starting workers, busy ones and the command itself, and cut the journal, in an order that the seed gives."""
    rng, file = random.Random(seed), tmp_path / "study.log"
    trials = 16
    for _ in range(rounds):
        search = Search(tmp_path, url, workers=workers, trials=trials, seconds=0.05)
        for _ in range(rng.randint(0, 2)):
            if search.process.poll() is None:
                until(lambda: search.process.poll() is not None or search.starting())  # noqa: B023
                for pid in search.starting()[:1] if search.process.poll() is None else ():
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
        more = len(search.seen()) + rng.randint(0, 3)
        until(lambda: search.process.poll() is not None or len(search.seen()) >= more)  # noqa: B023
        busy = [pid for _, pid in search.seen()[-1:] if _alive(pid) and pid != search.process.pid]
        for pid in busy if rng.random() < 0.5 else ():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        search.process.kill()
        search.process.communicate()
        pids = {pid for _, pid in search.seen()}
        until(lambda: not any(_alive(pid) for pid in pids))  # noqa: B023
        if kind == "journal" and file.exists():
            whole = file.read_bytes()
            last = len(whole) - (whole[:-1].rfind(b"\n") + 1)
            if whole.endswith(b"\n") and b'"op_code":4,' in whole[-last:]:
                file.write_bytes(whole[: len(whole) - rng.randint(1, last - 1)])
            else:
                file.write_bytes(whole + b'{"op_code":5,"worker_id":"'[: rng.randint(1, 26)])
    search = Search(tmp_path, url, workers=workers, trials=trials)
    complete, failed = search.codes(), [code for code in search.errors if "Two processes died" in search.errors[code]]
    assert len(complete) + len(failed) == len(search.errors) == trials
    times = Counter(code for code, _ in search.seen())
    assert all(times[code] >= 2 for code in failed)
    return search


@pytest.mark.parametrize("kind", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_a_few_faults_one_after_the_other_lose_no_result(tmp_path, kind):
    _campaign(tmp_path, kind, _file(tmp_path, kind), 1, workers=2, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_many_faults_one_after_the_other_lose_no_result(tmp_path, kind, seed, request):
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").database(f"campaign_{seed}")
    else:
        url = _file(tmp_path, kind)
    _campaign(tmp_path, kind, url, seed, workers=1 + seed, rounds=6)
