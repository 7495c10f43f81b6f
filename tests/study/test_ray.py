"""Searches in a real Ray cluster of nodes on this machine: what is lost with a node, a process or the driver."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import ray_judges
import yaml
from ray_judges import LONG, Judge, climbing, plan, study_of, until

import bsszoo
from bsszoo.errors import EvaluationError, SettingsError
from bsszoo.evaluators.base import listening
from bsszoo.search.pruning import HalvingPruner
from bsszoo.study import run_search, trial_rows
from bsszoo.study.ray_cluster import RayCluster, Resources
from bsszoo.study.ray_search import each_on_ray, run_on_ray

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'bsszoo[ray]'")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes, of one CPU each; the second one says that it has two GPUs."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Of a coverage run or a shell; tasks have their own.
        patch.delenv("RAY_ADDRESS", raising=False)
        # A training starts a process, which needs the package where it is not installed.
        path = [str(Path(bsszoo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        # The driver's folder is one that every process of Ray looks for modules in, before all others.
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1, num_gpus=2)
        ray.init(address=made.address, log_to_driver=False, logging_level="CRITICAL")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def cluster(nodes):
    with RayCluster(nodes.address, Resources(1)) as connected:
        yield connected


def rows(study, search):
    return [(row.number, row.code, row.state, row.score, row.reports, row.error) for row in trial_rows(study, search)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- the same search ---------------------------------------------------------------------------------------------


def test_one_task_at_a_time_gives_exactly_the_codes_of_one_process(cluster, tmp_path):
    found = []
    for name in ("process", "tasks"):
        (tmp_path / name).mkdir()
        search = plan(climbing, trials=16)
        study, told = study_of(tmp_path / name, search), []
        if name == "process":
            run_search(study, search, told.append)
        else:
            run_on_ray(study, search, told.append, cluster, most=1)
        assert [row.number for row in told] == list(range(16))
        found.append((rows(study, search), [dict(t.params) for t in study.trials]))
    assert found[0] == found[1]
    # Rungs went through the driver: some were stopped, and what they reported is in the study.
    assert {state for _, _, state, *_ in found[1][0]} == {"complete", "pruned"}


@pytest.mark.extended
def test_a_search_begun_by_one_process_goes_on_in_the_cluster_and_the_other_way_round(cluster, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = plan(climbing, trials=12)
    unbroken = study_of(tmp_path / "whole", whole)
    run_search(unbroken, whole, lambda _: None)
    for trials, tasks in ((4, False), (8, True), (12, False)):
        search = plan(climbing, trials=trials)
        study = study_of(tmp_path, search)
        if tasks:
            run_on_ray(study, search, lambda _: None, cluster, most=1)
        else:
            run_search(study, search, lambda _: None)
    assert rows(study, whole) == rows(unbroken, whole)


def test_both_nodes_work_at_the_same_time_and_stop_codes_at_rungs(cluster, tmp_path):
    judge = Judge(tmp_path, "nodes=2")  # no evaluation ends before some began on both
    search = plan(judge, trials=8)
    study = study_of(tmp_path, search)
    run_on_ray(study, search, lambda _: None, cluster)
    assert [row.state for row in trial_rows(study, search)] == ["complete"] * 8
    assert len(judge.nodes()) == 2
    assert len({code for code, _, _ in judge.seen()}) == len(judge.seen()) == 8
    (tmp_path / "rungs").mkdir()
    search = plan(climbing, trials=20)
    study = study_of(tmp_path / "rungs", search)
    assert isinstance(study.pruner, HalvingPruner)
    run_on_ray(study, search, lambda _: None, cluster)
    for row in trial_rows(study, search):
        assert row.reports == tuple((i, ray_judges.at_rung(row.code, i)) for i in range(len(row.reports)))
        assert (row.state == "complete") == (len(row.reports) == 3)
    assert {row.state for row in trial_rows(study, search)} == {"complete", "pruned"}


# -- what is lost ------------------------------------------------------------------------------------------------


@pytest.mark.extended
def test_a_node_that_joins_is_used_and_when_it_is_lost_its_task_runs_again(nodes, cluster, tmp_path, caplog):
    judge = Judge(tmp_path, "late")
    search = plan(judge, trials=10)
    study = study_of(tmp_path, search)
    with ThreadPoolExecutor(1) as pool:
        # Ray lets nodes come and go by the main thread only.
        searched = pool.submit(run_on_ray, study, search, lambda _: None, cluster)
        until(lambda: searched.done() or len(judge.seen()) >= 2)  # both nodes are busy until the third one works
        node = nodes.add_node(num_cpus=1)
        (tmp_path / "part").write_text(node.node_id)
        (tmp_path / "part").rename(tmp_path / "late")
        until(lambda: searched.done() or node.node_id in judge.nodes())
        nodes.remove_node(node, allow_graceful=False)
        searched.result(timeout=LONG)
    assert [row.state for row in trial_rows(study, search)] == ["complete"] * 10
    times = Counter(code for code, _, _ in judge.seen())
    late = (tmp_path / "late").read_text()
    lost = {code for code, _, node in judge.seen() if node == late}
    assert len(lost) == 1
    assert {code for code, count in times.items() if count == 2} == lost
    assert len(times) == 10
    assert "A Ray node was lost" in caplog.text
    # The node was lost, which is no fault of the code.
    assert not any("bsszoo:started" in t.user_attrs for t in study.trials)


@pytest.mark.extended
def test_a_code_that_ends_two_processes_is_a_failed_trial_and_one_that_raises_too(cluster, tmp_path, caplog):
    judge = Judge(tmp_path, dies=2, raises=3)
    search = plan(judge, trials=8)
    study = study_of(tmp_path, search)
    run_on_ray(study, search, lambda _: None, cluster)
    times = Counter(code for code, _, _ in judge.seen())
    found = trial_rows(study, search)
    assert len(found) == 8
    assert {row.code.depths[0] for row in found} == {1, 2, 3}
    for row in found:
        blocks = row.code.depths[0]
        assert row.state == ("complete" if blocks == 1 else "failed")
        assert times[str(row.code)] == (2 if blocks == 2 else 1)
        if blocks == 2:
            assert f"Two processes died while they evaluated {row.code}, the last one on " in row.error
            assert "process " in row.error
        if blocks == 3:
            assert row.error == "ValueError: no 3 blocks, please"
            assert "raise ValueError" in row.trace
    assert "A process died while it evaluated" in caplog.text
    # One that died with an earlier driver's attempt counts: it is not tried twice again.
    assert all(t.user_attrs["bsszoo:started"] == 2 for t in study.trials if t.user_attrs.get("bsszoo:started"))


def driver(address, folder, trials, most):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    path = [str(Path(ray_judges.__file__).parent), str(Path(bsszoo.__file__).parents[1]), *sys.path]
    return subprocess.Popen(
        [sys.executable, ray_judges.__file__, address, str(folder), str(trials), str(most)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.extended
def test_a_killed_driver_resumes_to_the_same_codes_and_ctrl_c_leaves_no_process_at_work(nodes, tmp_path):
    judge, whole = Judge(tmp_path), Judge(tmp_path / "unbroken")
    whole.folder.mkdir()
    unbroken = study_of(whole.folder, plan(whole, trials=6))
    run_search(unbroken, plan(whole, trials=6), lambda _: None)
    # The third evaluation waits, is killed there once and interrupted once, and neither is the code's fault.
    for number, end in enumerate((signal.SIGKILL, signal.SIGINT), start=3):
        process = driver(nodes.address, tmp_path, 6, 1)
        until(lambda: len(judge.seen()) >= number or process.poll() is not None)  # noqa: B023
        assert process.poll() is None, process.communicate()
        process.send_signal(end)
        _, errors = process.communicate(timeout=LONG)
        pid = int(judge.seen()[-1][1])
        until(lambda: not alive(pid))  # noqa: B023
    assert "KeyboardInterrupt" in errors
    assert (tmp_path / f"interrupted-{pid}").exists()
    [third] = {code for code, _, _ in judge.seen()[2:]}
    (tmp_path / "go").touch()
    process = driver(nodes.address, tmp_path, 6, 1)
    _, errors = process.communicate(timeout=LONG)
    assert process.returncode == 0, errors
    study = study_of(tmp_path, plan(judge, trials=6))
    assert rows(study, plan(judge, trials=6)) == rows(unbroken, plan(whole, trials=6))
    assert Counter(code for code, _, _ in judge.seen()).most_common(1) == [(third, 3)]
    assert len(judge.seen()) == 6 + 2
    assert not any("bsszoo:started" in t.user_attrs for t in study.trials)


# -- what nodes lack ---------------------------------------------------------------------------------------------


@pytest.mark.extended
def test_a_node_without_a_path_is_named(cluster, tmp_path):
    cluster.check(ray_judges.climbing, (tmp_path / "run" / "trainings",), (tmp_path,))
    assert not list((tmp_path / "run" / "trainings").iterdir())
    with pytest.raises(SettingsError, match=rf"The Ray node \S+ \(\w+\) has no {tmp_path}/nowhere: .*\(1 more node"):
        cluster.check(ray_judges.climbing, (), (tmp_path / "nowhere",))
    with pytest.raises(SettingsError, match=r"No node of the Ray cluster holds cpus=64,.* has cpus=1,gpus=2"):
        RayCluster(cluster.address, Resources(64)).check(ray_judges.climbing)


def test_an_evaluator_that_nodes_cannot_load_or_that_cannot_be_sent_is_one_line(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def judge(code):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    (tmp_path / "only_here.py").unlink()
    with pytest.raises(SettingsError, match="cannot load the evaluator: ModuleNotFoundError: No module named 'only_he"):
        cluster.check(only_here.judge)
    with pytest.raises(
        SettingsError, match=r"--ray sends the evaluator to other machines, which cannot be done: .*lock"
    ):
        cluster.check(partial(ray_judges.climbing, threading.Lock()))


def test_a_node_with_another_version_is_named(nodes, cluster, tmp_path):
    other = tmp_path / "bsszoo"
    other.mkdir()
    for file in Path(bsszoo.__file__).parent.iterdir():
        if file.name != "version.py":
            (other / file.name).symlink_to(file)
    (other / "version.py").write_text("__version__ = '99.1'\n")
    node = nodes.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path)})
    try:
        until(lambda: len(cluster.nodes()) == 3)
        with pytest.raises(SettingsError, match=rf"has bsszoo 99.1, and this process {bsszoo.__version__}"):
            cluster.check(ray_judges.climbing)
    finally:
        nodes.remove_node(node)
    shutil.rmtree(other)


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1:9", "There is no Ray cluster at 127.0.0.1:9 that this process can join (Connection refused)"),
        ("nowhere.invalid:6379", "There is no Ray cluster at nowhere.invalid:6379 that this process can join ("),
        ("ray://head:10001", "by Ray Client the command would not be in the cluster"),
        ("head", "it takes auto, or HOST:PORT of the cluster's head"),
    ],
)
def test_a_wrong_address_is_one_line(address, wanted, tmp_path):
    words = ["compress", "resnet18", "--flops", "60%", "--ray", address, "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "bsszoo", *words], capture_output=True, text=True, check=False, timeout=LONG
    )
    assert done.returncode == 2
    assert wanted in done.stderr
    assert done.stderr.startswith("bsszoo: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_without_ray_installed_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r'pip install "bsszoo\[ray\]"'):
        RayCluster().__enter__()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"ray": "auto", "study": "s", "storage": "sqlite:///s.db"}, "one driver"),
        ({"ray_resources": "cpus=2"}, "give the cluster with --ray"),
        ({"out": "s3://bucket/run"}, "Mount the storage"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, wanted):
    with pytest.raises(SettingsError, match=wanted):
        bsszoo.compress("resnet18", flops="60%", **options)


@pytest.mark.parametrize("text", ["4", "cpus", "cpus=", "cpus=-1", "cpus=1.5", "cpus=1,cpus=2", "cpus=0,gpus=0", "=1"])
def test_resources_that_are_none_are_refused(text):
    with pytest.raises(SettingsError, match="--ray-resources is"):
        Resources.read(text)


def test_what_a_task_takes_and_how_many_a_node_holds(nodes):
    with RayCluster(nodes.address) as connected:
        # One GPU and its share of the CPUs; a task has one at least, and the node holds no more of those than CPUs.
        assert str(connected.resources) == "cpus=1,gpus=1"
        assert connected.holds() == 1
    assert Resources.read("gpus=0.5,cpus=2,fast=1").fit({"CPU": 8.0, "GPU": 1.0, "fast": 8.0}) == 2
    assert Resources.read("cpus=0.1").fit({"CPU": 1.0}) == 10
    assert Resources(1, 1).fit({"CPU": 8.0}) == 0


# -- outside a study ---------------------------------------------------------------------------------------------


def test_calls_report_their_updates_take_their_threads_and_gpus_and_fail_one_by_one(cluster, tmp_path):
    heard, results, faults = [], {}, {}

    def hear(done, total):
        heard.append((done, total))
        (tmp_path / "heard").touch()

    with listening(hear):
        values = [(number, tmp_path) for number in range(4)]
        for index, result in each_on_ray(cluster, ray_judges.telling, values, resources=Resources(1, 1)):
            try:
                results[index] = result()
            except EvaluationError as error:
                faults[index] = str(error)
    assert set(results) == {0, 3}
    assert {(threads, gpu in ("0", "1")) for _, threads, gpu in results.values()} == {("1", True)}
    assert faults[1] == "RuntimeError: no memory left"
    assert faults[2].startswith("2 processes died while they worked on it, the last one on ")
    assert heard[0] == (1, 4)


@pytest.mark.extended
def test_functions_of_a_script_are_sent_and_leave_files_under_the_names_that_the_driver_looks_for(cluster, tmp_path):
    torch = pytest.importorskip("torch")
    from bsszoo.evaluators.own import NetworkFunctions
    from bsszoo.evaluators.registry import Request
    from bsszoo.models.build import build
    from bsszoo.models.resolve import resolve, with_weights
    from bsszoo.options import TrainingOptions

    network = build(bsszoo.Code.parse("resnet18_c8-16-16-24_l1-2-1-1_px16"), num_classes=3)
    smaller = bsszoo.Code.parse("resnet18_c8-12-12-16_l1-1-1-1_b8-12-16-16_px16")

    def evaluate(network):
        """A figure of a few images."""
        return network(torch.ones(2, 3, 16, 16)).sum().item()

    def fine_tune(network):
        return network

    request = Request(with_weights(resolve(network), tmp_path), TrainingOptions(), tmp_path)
    judge = NetworkFunctions(evaluate, fine_tune).requested(request)
    assert judge(smaller).value == judge(smaller).value
    cluster.check(judge.tested, judge.writes, judge.reads)
    [(_, result)] = each_on_ray(cluster, judge.tested, [(smaller, 0)])
    assert len(result()) == 2
    judge.deliver(smaller, 0, tmp_path / "delivered")
    assert (tmp_path / "delivered" / "model.safetensors").is_file()


# -- trainings ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plots", "nodes")
@pytest.mark.slow
def test_real_trainings_confirmation_and_a_final_training_by_two_processes(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import drawn_shapes

    from bsszoo.train.classification.recipe import recipe_text, with_values

    monkeypatch.chdir(tmp_path)
    drawn_shapes.write(tmp_path / "shapes")
    text = "resnet18_c16-32-64-128_l2-2-2-2_px32"
    recipe = with_values(drawn_shapes.recipe(text), schedule={"epochs": 1, "warmup_epochs": 0})
    (tmp_path / "recipe.yaml").write_text(recipe_text(recipe))
    events = []
    settings = {
        "flops": "30%",
        "data": "shapes",  # relative to the driver's folder
        "recipe": "recipe.yaml",
        "evaluator": "training",
        "trials": 2,
        "batch": 2,
        "confirm": 1,
        "measure": False,
        "finish": "recipe.yaml",
        "out": "run",
    }
    result = bsszoo.compress(
        text, ray=ray.get_runtime_context().gcs_address, ray_resources="cpus=1", callbacks=[events.append], **settings
    )
    assert [trial.state for trial in result.trials] == ["complete"] * 2
    assert all(network.score is not None for network in result.networks if network.role != "original")
    confirmation = result.confirmation
    assert {row.role for row in confirmation.rows} == {"found", "uniform", "random"}
    assert all(len(row.tests) == 1 for row in confirmation.rows)
    assert confirmation.notes == ()
    assert result.finished is not None
    log = (tmp_path / "run" / result.finished.folder / "log.txt").read_text()
    assert "2 processes" in log or "world" in log, log
    # Finished trainings are only read, without Ray too, which is no setting of the run.

    def written() -> dict[Path, int]:
        """When each training ended; that of the recommended network is copied each time."""
        files = [
            file for part in ("trainings", "finish_*") for file in (tmp_path / "run").glob(f"{part}/**/summary.json")
        ]
        assert files
        return {file: file.stat().st_mtime_ns for file in files}

    times = written()
    again = bsszoo.compress(text, **settings)
    assert again.best.code == result.best.code
    assert [t.score for t in again.trials] == [t.score for t in result.trials]
    assert written() == times


# -- recipes for clusters ------------------------------------------------------------------------------------------

CLUSTERS = Path(__file__).parents[2] / "examples" / "cluster"

_SRUN = """#!/usr/bin/env bash
# In place of SLURM: the command, on this machine.
echo "$@" >>"$(dirname "$0")/started"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""


@pytest.mark.slow
def test_the_script_for_slurm_starts_a_cluster_searches_and_ends_it(tmp_path):
    tools = {
        "srun": _SRUN,
        "scontrol": "#!/bin/sh\nprintf 'one\\ntwo\\n'\n",
        "bsszoo": f'#!/bin/sh\nexec {sys.executable} -m bsszoo "$@"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {"SLURM_JOB_NODELIST": "one,two", "SLURM_CPUS_ON_NODE": "1", "RAY_PORT": port, "VENV": ""}
    environment |= {"PATH": os.pathsep.join(path)}
    package = os.pathsep.join([str(Path(bsszoo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    words = [
        "resnet18",
        "--flops",
        "60%",
        "--trials",
        "6",
        "--batch",
        "3",
        "--no-measure",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        ["bash", CLUSTERS / "slurm.sbatch", *words],
        env={**os.environ, **environment, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stderr
    assert "Ray: 2 nodes, 2 codes at once, each with cpus=1" in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    started = (tmp_path / "bin" / "started").read_text()
    assert "--nodelist=one ray start --head" in started
    assert "--exclude=one ray start --address=" in started
    # What it started has ended with it.
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(port)), 5)


def test_the_job_for_kuberay_is_of_the_form_that_its_fields_have():
    job = yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} == volumes
        # Ray's parameters are texts.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    # The command is one that is understood, and its folders are on the volume that all share.
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["bsszoo", "compress"]
    assert words[-2:] == ["--ray", "auto"]
    for option in ("--data", "--out"):
        assert words[words.index(option) + 1].startswith("/shared/")
