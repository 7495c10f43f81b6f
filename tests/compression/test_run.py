"""The main job end to end: what it leaves on disk, repeating, resuming after a real SIGKILL, refusing what it must."""

from __future__ import annotations

import csv
import html
import importlib
import json
import shlex
import signal
import sys
import time

import forked
import pytest

import bsszoo
from bsszoo.codes import Code, code_cost
from bsszoo.compression import Compression
from bsszoo.compression.folder import run_folder
from bsszoo.errors import BudgetError, RunError, SettingsError, UnknownNameError
from bsszoo.models.names import resolve_code

SMALL = {"flops": "130M", "trials": 12, "batch": 4, "measure": False}


@pytest.mark.usefixtures("plots")
def test_it_finds_diverse_codes_under_the_budget(tmp_path):
    job = Compression("mobilenetv2", out=tmp_path / "run", **{**SMALL, "trials": 20})
    job.search()
    result = job.measure()
    assert [n.role for n in result.networks[:2]] == ["original", "uniform"]
    found = [n for n in result.networks if n.role == "found"]
    assert 5 <= len(found) <= 10
    assert len({n.code for n in found}) == len(found)
    assert all(n.cost.macs <= 130_000_000 and n.cost == code_cost(n.code) for n in found)
    assert all(t.cost.macs <= 130_000_000 for t in result.trials)
    assert all(n.latency_ms and n.latency_ms > 0 for n in result.networks)
    assert result.evaluator.caution

    data = json.loads((tmp_path / "run" / "result.json").read_text())
    assert data["budget"] == {"macs": 130_000_000, "min_macs": 117_000_000, "params": None}
    assert Code.parse(data["best"]["code"]) == Code.from_dict(data["best"]["code_parts"]) == found[0].code
    assert data["best"]["two_x_macs"] == 2 * data["best"]["macs"] == 2 * found[0].cost.macs
    assert data["seed"] == 0
    assert {"bsszoo", "optuna", "torch", "timm", "python"} <= set(data["versions"])
    rows = list(csv.DictReader((tmp_path / "run" / "trials.csv").open()))
    assert [int(r["number"]) for r in rows] == list(range(20))
    assert all(float(r["score"]) == t.score for r, t in zip(rows, result.trials, strict=True))
    page = (tmp_path / "run" / "report.html").read_text()
    assert str(found[0].code) in page
    assert "What the results teach" not in page, "they are a formula's"


def test_several_limits_hold_for_every_code_and_stand_in_the_files(tmp_path):
    from bsszoo.compression.plan import budget_space
    from bsszoo.compression.reopen import report_study
    from bsszoo.search import LatencyTable
    from bsszoo.spaces.chain import space_shapes

    space = budget_space(resolve_code("mobilenetv2"), 130_000_000)
    table = LatencyTable({shape: shape.out_width / 1000 for shape in space_shapes(space)})
    table.save(tmp_path / "table.json")
    limits = {"params": "2.6M", "activations": "60%", "latency": "9.5", "latency_table": tmp_path / "table.json"}
    result = bsszoo.compress("mobilenetv2", out=tmp_path / "run", **limits, **SMALL)
    for trial in result.trials:
        assert trial.cost.params <= 2_600_000
        assert trial.cost.activations <= 0.6 * 6_678_112
        assert table.of(trial.code) <= 9.5
    budget = json.loads((tmp_path / "run" / "result.json").read_text())["budget"]
    assert (budget["activations"], budget["latency_ms"]) == (round(0.6 * 6_678_112), 9.5)
    with pytest.raises(SettingsError, match=r"latency_ms was 9\.5 and now is 9\.4"):
        bsszoo.compress("mobilenetv2", out=tmp_path / "run", **{**limits, "latency": 9.4}, **SMALL)
    assert report_study(str(tmp_path / "run")).path.exists()
    # Each network's latency is what the table says, in every output; the control may be beyond the limit.
    for row in result.networks:
        if row.role == "found":  # the controls' blocks are not of this grid
            assert row.predicted_ms == pytest.approx(table.of(row.code))
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["networks"]
    assert [n["predicted_latency_ms"] for n in kept] == [n.predicted_ms for n in result.networks]
    assert "Limited [ms]" in (tmp_path / "run" / "report.html").read_text()
    # The file may be elsewhere, or gone, when the run goes on or its page is written again.
    moved = tmp_path / "elsewhere.json"
    (tmp_path / "table.json").rename(moved)
    again = bsszoo.compress("mobilenetv2", out=tmp_path / "run", **{**limits, "latency_table": moved}, **SMALL)
    assert [t.code for t in again.trials] == [t.code for t in result.trials]
    moved.unlink()
    page = report_study(str(tmp_path / "run"), out=tmp_path / "again.html").path.read_text()
    assert "are not those of the run" not in page


def test_a_page_is_written_without_the_latency_model(tmp_path, monkeypatch):
    from bsszoo.compression.reopen import report_study

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mylatency.py").write_text("def ms(code):\n    return sum(code.depths) / 2\n")
    result = bsszoo.compress(
        "resnet18",
        flops="60%",
        out=tmp_path / "run",
        latency=4.5,
        measure=False,
        latency_model="mylatency:ms",
        trials=4,
        batch=4,
    )
    assert all(sum(t.code.depths) / 2 <= 4.5 for t in result.trials)
    assert result.best.predicted_ms == sum(result.best.code.depths) / 2
    (tmp_path / "mylatency.py").unlink()
    monkeypatch.delitem(sys.modules, "mylatency")
    importlib.invalidate_caches()
    page = report_study(str(tmp_path / "run"), out=tmp_path / "again.html").path.read_text()
    assert "are not those of the run: it had a limit on latency" in page
    assert str(result.best.code) in page


def test_fewer_codes_than_trials_are_noted_and_a_control_beyond_the_limit_too(tmp_path):
    result = bsszoo.compress(
        "resnet18",
        flops="60%",
        out=tmp_path,
        latency=2.1,
        measure=False,
        depth_cap="none",
        latency_model=lambda code: sum(code.depths) / 2,
        trials=400,
        batch=4,
    )
    assert len(result.trials) == result.candidates < 400
    assert any(f"Only {result.candidates} codes keep the limits: all were evaluated" in n for n in result.notes)
    uniform = next(n for n in result.networks if n.role == "uniform")
    assert uniform.predicted_ms == 4.0
    assert any("The uniformly rescaled network has 4 ms, beyond the limit of 2.1 ms" in n for n in result.notes)


@pytest.mark.usefixtures("plots")
def test_where_nothing_was_trained_the_uniform_network_is_recommended_and_it_is_said_everywhere(tmp_path):
    from bsszoo.models.resolve import resolve

    result = bsszoo.compress("mobilenetv2", out=tmp_path / "run", **{**SMALL, "trials": 4})
    uniform = next(row for row in result.networks if row.role == "uniform")
    assert result.recommended == uniform
    assert result.best.role == "found"
    sentence = result.recommendation
    assert sentence.startswith("Nothing was trained")
    assert sentence in " ".join(str(result).split())
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["recommendation"] == sentence
    assert written["recommended"]["code"] == str(uniform.code)
    assert (written["recommended"]["test_accuracy"], written["recommended"]["weights"]) == (None, None)
    assert written["best"]["code"] == str(result.best.code)
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert sentence in page
    assert result.train in page
    # The folder as a network is what is recommended, too.
    assert resolve(tmp_path / "run").code == uniform.code == resolve(str(result.recommended.code)).code
    assert list(result.build().default_cfg["input_size"]) == [3, 224, 224]
    # What the user measured may be recommended.
    judged = bsszoo.compress(
        "mobilenetv2", out=tmp_path / "own", evaluator=lambda code: 1.0 * sum(code.depths), **SMALL
    )
    assert judged.recommended is judged.best
    assert (judged.recommendation, judged.train) == (None, None)
    assert resolve(tmp_path / "own").code == judged.best.code


def test_a_uniform_network_beyond_the_limits_is_not_recommended(tmp_path):
    result = bsszoo.compress("mobilenetv2", out=tmp_path, activations="60%", **{**SMALL, "trials": 4})
    assert any("beyond the limit of" in note for note in result.notes)
    assert result.recommended is result.best
    assert "Train them before you take one" in result.recommendation


@pytest.mark.extended
def test_the_command_that_trains_the_candidates_does(tmp_path, monkeypatch):
    """As a user would: what is printed, with the user's folder in place of its name."""
    from typer.testing import CliRunner

    from bsszoo.cli.main import app
    from bsszoo.hub.source import find_trained
    from bsszoo.models.resolve import resolve

    monkeypatch.chdir(tmp_path)
    small = {"flops": "80%", "trials": 2, "batch": 2, "measure": False, "seed": 2}
    result = bsszoo.compress("resnet18_c16-32-64-64_l1-1-1-1_px32", out="a run", **small)
    words = shlex.split(result.train)
    assert words[:3] == ["bsszoo", "compress", "resnet18_c16-32-64-64_l1-1-1-1_px32"]
    words[words.index("pictures")] = "digits"
    done = CliRunner().invoke(app, [*words[1:], "--confirm", "1", "--epochs", "4"])
    assert done.exit_code == 0, done.output
    assert "2 trials are finished already" in done.output
    written = json.loads((tmp_path / "a run" / "result.json").read_text())
    rows = {row["label"]: row for row in written["confirmation"]["networks"]}
    found = [row for row in result.networks if row.role == "found"]
    assert list(rows) == ["original", "uniform", *(row.label for row in found)]
    assert {rows[row.label]["code"] for row in found} == {str(row.code) for row in found}
    assert rows["original"]["tests"][0] > 50
    assert "Nothing was trained" not in done.output.split("Confirmed:")[1]
    take = written["recommended"]
    assert take["test_accuracy"] > 50
    assert "image_size: 32" in (tmp_path / "a run" / "training_recipe.yaml").read_text()
    assert f"{take['test_accuracy']:.2f}%" in written["recommendation"]
    # The folder is then that network, with its weights.
    network = resolve(tmp_path / "a run")
    assert (str(network.code).removesuffix("_px32"), network.num_classes) == (take["code"].removesuffix("_px32"), 10)
    assert find_trained(tmp_path / "a run").weights == tmp_path / "a run" / "recommended" / "model.safetensors"
    # The search alone goes on as before, and keeps what was trained; other trainings are other results.
    again = bsszoo.compress("resnet18_c16-32-64-64_l1-1-1-1_px32", out="a run", **small)
    assert str(again.recommended.code) == take["code"]
    assert not again.untrained


def test_the_command_that_trains_is_the_runs_own(tmp_path):
    """With weights it is the one that inherits them; without a text for a network there is none."""
    import torch

    job = Compression(tmp_path / "my.pth", flops="60%", trials=2, batch=2, measure=False, out=tmp_path / "a")
    code = "resnet18_c16-32-64-64_l1-1-1-1_px32"
    torch.save(bsszoo.create(code, num_classes=10).state_dict(), tmp_path / "my.pth")
    words = shlex.split(job.search().train)
    assert words == ["bsszoo", "compress", str(tmp_path / "my.pth"), "--flops", "60%", "--data", "pictures", *words[7:]]
    assert not {"--evaluator", "--out"} & set(words)
    module = Compression(bsszoo.create("resnet18"), flops="60%", trials=2, batch=2, measure=False, out=tmp_path / "b")
    assert module.search().train is None


def test_the_same_settings_repeat_exactly(tmp_path):
    a, b = (bsszoo.compress("mobilenetv2", out=tmp_path / name, **SMALL) for name in "ab")
    c = bsszoo.compress("mobilenetv2", out=tmp_path / "c", seed=1, **SMALL)
    assert [(t.code, t.score) for t in a.trials] == [(t.code, t.score) for t in b.trials]
    assert [t.code for t in a.trials] != [t.code for t in c.trials]


def test_a_finished_run_is_read_again_and_more_trials_extend_it(tmp_path):
    calls = []

    def judge(code):
        calls.append(code)
        return float(code.widths[0])

    first = bsszoo.compress("mobilenetv2", evaluator=judge, out=tmp_path, **SMALL)
    assert len(calls) == 12 + 2  # and the two controls
    again = bsszoo.compress("mobilenetv2", evaluator=judge, out=tmp_path, **SMALL)
    assert len(calls) == 14
    assert again.trials == first.trials
    assert again.networks == first.networks
    more = bsszoo.compress("mobilenetv2", evaluator=judge, out=tmp_path, **{**SMALL, "trials": 16})
    assert len(calls) == 18
    assert more.trials[:12] == first.trials


@pytest.mark.usefixtures("short_timings")
def test_a_finished_run_is_printed_again_and_no_result_is_written(tmp_path):
    few = {**SMALL, "trials": 4, "flops": "60%", "measure": True, "out": tmp_path}
    code = "resnet18_c16-32-64-64_l1-1-1-1_px32"
    first = bsszoo.compress(code, **few)
    names = ("result.json", "trials.csv", "report.html", "notes.json")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / name for name in names)}
    again = bsszoo.compress(code, **few)
    assert str(again) == str(first)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    # What is missing or cut off is written again, and further networks are measured beside the others.
    (tmp_path / "trials.csv").unlink()
    page = tmp_path / "report.html"
    page.write_text(page.read_text()[:1000])
    assert bsszoo.compress(code, **few).networks == first.networks
    assert (tmp_path / "trials.csv").is_file()
    assert page.read_text().rstrip().endswith("</html>")
    more = bsszoo.compress(code, **{**few, "trials": 6})
    assert all(row.latency_ms for row in more.networks)
    assert len(json.loads((tmp_path / "result.json").read_text())["networks"]) == len(more.networks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed was 0 and now is 1"),
        ({"flops": "140M"}, "macs was 130000000 and now is 140000000"),
        ({"batch": 6}, "batch was 4 and now is 6"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path, change, words):
    bsszoo.compress("mobilenetv2", out=tmp_path, **{**SMALL, "trials": 4})
    with pytest.raises(SettingsError, match=words):
        bsszoo.compress("mobilenetv2", out=tmp_path, **{**SMALL, "trials": 4, **change})


_SCRIPT = """
import sys, time
import bsszoo, bsszoo.report.page

bsszoo.report.page.write_report = lambda *_, **__: None  # takes longer than the search

def slow(code):
    with open(sys.argv[1] + ".seen", "a") as seen:
        seen.write(".")
    time.sleep(0.15)
    return sum(code.depths) + code.widths[2] / 100

bsszoo.compress("mobilenetv2", flops="130M", trials=12, batch=4, measure=False, evaluator=slow, out=sys.argv[1])
"""


@pytest.mark.extended
def test_killed_and_run_again_it_ends_as_if_never_killed(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(_SCRIPT)
    assert forked.run([script, "whole"], tmp_path).returncode == 0
    seen = tmp_path / "cut.seen"
    for evaluations in (3, 8):
        process = forked.Command([script, "cut"], tmp_path)
        while process.poll() is None and len(seen.read_text() if seen.exists() else "") < evaluations:
            time.sleep(0.02)
        process.kill()
        assert process.wait().returncode == -signal.SIGKILL
    assert forked.run([script, "cut"], tmp_path).returncode == 0

    def codes(name):
        rows = csv.DictReader((tmp_path / name / "trials.csv").open())
        return [(r["code"], r["score"]) for r in rows]

    assert codes("cut") == codes("whole")
    whole, cut = (json.loads((tmp_path / n / "result.json").read_text())["networks"] for n in ("whole", "cut"))
    assert whole == cut


def test_the_divisor_of_widths_is_a_setting_where_it_changes_the_grid(tmp_path):
    from bsszoo.compression.reopen import report_study

    few = {**SMALL, "trials": 2, "batch": 2}

    def steps(name, network="mobilenetv2", **more):
        job = Compression(network, out=tmp_path / name, **{**few, **more})
        job.search()
        page = report_study(str(tmp_path / name), out=tmp_path / "again.html").path.read_text()
        assert "are not those of the run" not in page
        settings = json.loads((tmp_path / name / "settings.json").read_text())
        return [axis[1] - axis[0] for axis in job._prepared.plan.space.widths], settings.get("divisor")

    assert steps("default") == ([2, 4, 8, 16, 24, 48], 8)
    assert steps("sixteen", divisor="16") == ([2, 4, 8, 16, 24, 48], 16)
    paper = ([2, 5, 10, 14, 24, 48], None)
    assert steps("none", divisor="none") == steps("paper", search="paper") == steps("scale", scale=0.604) == paper
    assert steps("both", scale=0.604, divisor=8) == ([2, 4, 8, 16, 24, 48], 8)
    # The steps of this one are multiples of 8 as they are.
    assert steps("resnet", "resnet18", flops="60%")[1] is None
    with pytest.raises(SettingsError, match="divisor was 8 and now is None"):
        steps("default", divisor="none")
    for wrong in ("0", "eight", -8, 2.5):
        with pytest.raises(SettingsError, match="--divisor is"):
            steps("wrong", divisor=wrong)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with run_folder(tmp_path), pytest.raises(SettingsError, match="Another process"):
        bsszoo.compress("mobilenetv2", out=tmp_path, **SMALL)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(SettingsError, match="other files"):
        bsszoo.compress("mobilenetv2", out=tmp_path, **SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        bsszoo.compress("mobilenetv2", out=tmp_path / "file" / "run", **SMALL)


def test_some_failing_trials_are_recorded_with_their_reasons(tmp_path):
    def shaky(code):
        if code.depths[0] % 2:
            raise MemoryError("no room")
        return float(sum(code.widths))

    result = bsszoo.compress("mobilenetv2", evaluator=shaky, out=tmp_path, **SMALL)
    failed = [t for t in result.trials if t.state == "failed"]
    assert failed
    assert len(result.trials) == 12
    assert all(t.error == "MemoryError: no room" for t in failed)
    assert any("trials failed" in n for n in result.notes)
    assert "MemoryError: no room" in (tmp_path / "report.html").read_text()


def test_if_all_fail_the_run_ends_with_the_cause(tmp_path):
    def broken(_code):
        raise KeyError("missing_column")

    with pytest.raises(RunError, match=r"All 12 trials failed.*missing_column"):
        bsszoo.compress("mobilenetv2", evaluator=broken, out=tmp_path, **SMALL)


def test_bad_arguments(tmp_path):
    for more, error, words in (
        ({"trials": 0}, SettingsError, "--trials"),
        ({"seed": -1}, SettingsError, "--seed"),
        ({"slack": 0.0}, BudgetError, "--slack"),
        ({"flops": "much"}, BudgetError, "--flops"),
        ({"storage": "nowhere://x"}, SettingsError, "cannot be opened"),
        ({"evaluator": "no_such_module_here:f"}, UnknownNameError, "no_such_module_here"),
    ):
        with pytest.raises(error, match=words):
            bsszoo.compress("mobilenetv2", out=tmp_path / "x", **{**SMALL, **more})
    with pytest.raises(UnknownNameError, match="Did you mean 'mobilenetv2'"):
        bsszoo.compress("mobilenet2", out=tmp_path / "x", **SMALL)


def test_a_zoo_name_and_a_percentage(tmp_path):
    result = bsszoo.compress(
        "resnet50_autobss",
        flops="50%",
        params="60%",
        out=tmp_path,
        **{k: v for k, v in {**SMALL, "trials": 4}.items() if k != "flops"},
    )
    original = result.networks[0]
    assert original.code == Code.parse("resnet50{128,256,768,2048,9,6,9,3,48,128,192,512}")
    assert all(t.cost.macs <= original.cost.macs // 2 + 1 for t in result.trials)
    assert all(t.cost.params <= round(original.cost.params * 0.6) for t in result.trials)


def test_another_storage_holds_the_study(tmp_path):
    import optuna

    url = f"sqlite:///{tmp_path / 'shared.db'}"
    bsszoo.compress("mobilenetv2", storage=url, out=tmp_path / "run", **SMALL)
    (name,) = optuna.get_all_study_names(url)
    assert len(optuna.load_study(study_name=name, storage=url).trials) == 12
    assert not (tmp_path / "run" / "study.db").exists()
