"""The command line as a person meets it: output, exit codes, messages, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import forked
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.codes import FAMILIES


def _bsszoo(*arguments, cwd):
    return forked.run(["-m", "bsszoo", *arguments], cwd=cwd)


def test_list_as_json_and_as_a_table(tmp_path):
    rows = json.loads(_bsszoo("list", "*autobss*", "--json", cwd=tmp_path).stdout)
    assert {"resnet50_autobss", "mobilenetv2_130m_autobss"} <= {r["name"] for r in rows}
    assert all(r["two_x_macs"] == 2 * r["macs"] for r in rows)
    text = _bsszoo("list", "--family", "resnet18", cwd=tmp_path).stdout
    assert "resnet18_rand" in text
    assert "resnet50" not in text
    nothing = _bsszoo("list", "nothing*", cwd=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (1, "")


def test_show_takes_names_and_codes(tmp_path):
    by_name = _bsszoo("show", "mobilenetv2_autobss", cwd=tmp_path)
    by_code = _bsszoo("show", "mobilenetv2{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}", cwd=tmp_path)
    assert by_name.returncode == by_code.returncode == 0
    assert by_name.stdout == by_code.stdout
    assert "296,528,128" in by_name.stdout
    assert "593.1M" in by_name.stdout
    assert "Table 3" in by_name.stdout


def test_cost_checks_itself_with_thop(tmp_path):
    done = _bsszoo("cost", "resnet18_rand", "--check", "--json", "--image-size", "64", cwd=tmp_path)
    (row,) = json.loads(done.stdout)
    assert row["thop_macs"] == row["macs"]
    assert row["built_params"] == row["params"] == 24_866_440


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compress", "mobilnetv2", "--flops", "130M"], "Did you mean 'mobilenetv2'"),
        (["compress", "mobilenetv2", "--flops", "1M"], "Raise --flops to 8152740"),
        (["compress", "mobilenetv2", "--flops", "1T"], "--flops is '1T'"),
        (["compress", "mobilenetv2", "--flops", "130M", "--activations", "1M"], "Raise --activations to 1371216"),
        (["compress", "mobilenetv2", "--flops", "130M", "--activations", "x"], "--activations is 'x'"),
        (["compress", "mobilenetv2", "--flops", "130M", "--latency", "fast"], "such as 12.5"),
        (["compress", "mobilenetv2"], "A compression needs a budget"),
        (["latency-table", "none.json"], "The latency table none.json cannot be read"),
        (["compress", "maskrcnn_resnet50", "--flops", "90B", "--latency", "9"], "of detectors are not measured"),
        (["compress", "mobilenetv2", "--flops", "130M", "--latency-table", "no.csv"], "no.csv cannot be read"),
        (["compress", "mobilenetv2", "--flops", "130M", "--latency-model", "nowhere:f"], "no module 'nowhere'"),
        (["compress", "mobilenetv2", "--flops", "130M", "--params-cap", "2:1"], "--params-cap is '2:1'"),
        (["compress", "mobilenetv2", "--flops", "130M", "--depth-cap", "x"], "--depth-cap is 'x'"),
        (["show", "resnet18{64,128,256,512,2,2,2}"], "8 entries"),
        (["show", "resnet18{64,128,256,512,2,2,2,0}"], "L5 is 0"),
        (["list", "--family", "resnet"], "Did you mean 'resnext' or 'resnet50' or 'resnet18'"),
        (["cost", "resnet18", "--image-size", "0"], "image_size is 0"),
    ],
)
def test_a_mistake_is_named_with_exit_code_2(tmp_path, arguments, words):
    done = _bsszoo(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_option_is_in_lower_case():
    """Some versions of typer take an option's name from its placeholder, unless it is declared."""

    def options(command):
        for parameter in command.params:
            yield from (name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-"))
        for each in getattr(command, "commands", {}).values():
            yield from options(each)

    names = list(options(typer.main.get_command(app)))
    assert len(names) > 60
    assert all(name == name.lower() for name in names)


def test_help_names_every_family_and_command(tmp_path):
    assert all(word in _bsszoo("--help", cwd=tmp_path).stdout for word in ("list", "show", "cost", "compress"))
    text = _bsszoo("compress", "--help", cwd=tmp_path).stdout
    assert all(name in text for name in ("resnet18", "convnext_atto", "bsszoo list"))
    listed = json.loads(_bsszoo("list", "--json", cwd=tmp_path).stdout)
    assert {re.split(r"_c\d", row["code"])[0] for row in listed} == set(FAMILIES)


def test_compress_prints_the_table_and_the_commands(tmp_path):
    done = _bsszoo(
        "compress", "mobilenetv2", "--flops", "130M", "--trials", "8", "--batch", "4", "--no-measure", cwd=tmp_path
    )
    assert done.returncode == 0
    for words in ("original", "uniform", "found 1", "2 x MACs", "not an accuracy", "bsszoo.create(", "report.html"):
        assert words in done.stdout
    for words in ("Cap: depth at most", "20,000 codes", "8/8 trials"):
        assert words in done.stderr
    (folder,) = (tmp_path / "bsszoo-runs").iterdir()
    assert {p.name for p in folder.iterdir()} >= {"result.json", "trials.csv", "report.html", "study.db"}


def test_codes_that_were_taken_to_differ_are_said_to(tmp_path, monkeypatch):
    (tmp_path / "depths.py").write_text("def judge(code):\n    return float(sum(code.depths))\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    few = ["compress", "resnet18", "--flops", "60%", "--batch", "4", "--no-measure", "--evaluator", "depths:judge"]
    for trials, said in (
        ("4", "These codes are the best by score;"),
        ("24", "The first 6 codes are the best by score, the"),
    ):
        done = CliRunner().invoke(app, [*few, "--out", trials, "--trials", trials])
        assert done.exit_code == 0, done.output
        assert said in done.output


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n\n\ndef judge(code):\n    pathlib.Path(str(code)).touch()\n    time.sleep(0.5)\n"
        "    return float(sum(code.depths))\n"
    )
    arguments = [
        "compress",
        "mobilenetv2",
        "--flops",
        "130M",
        "--trials",
        "12",
        "--batch",
        "4",
        "--no-measure",
        "--evaluator",
        "slow:judge",
        "--out",
        "run",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "bsszoo.cli.main", *arguments],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell gives what it starts in the background a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # Two controls and two trials are judged, and the third has begun.
    while len(list(tmp_path.glob("mobilenetv2_*"))) < 5 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command resumes" in errors
    assert "Traceback" not in errors
    assert "Stopped after 2 of 12 trials" in errors
    done = _bsszoo(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert "resuming after 2 finished trials" in done.stderr


@pytest.mark.extended
def test_the_message_of_ctrl_c_stays_on_a_terminal(tmp_path):
    """Progress bars that go away would erase the lines above them."""
    pty = pytest.importorskip("pty")
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n\n\ndef judge(code):\n    pathlib.Path(str(code)).touch()\n    time.sleep(0.5)\n"
        "    return 1.0\n"
    )
    words = ["compress", "resnet18", "--flops", "60%", "--trials", "9", "--no-measure", "--evaluator", "slow:judge"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bsszoo", *words],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    shown, interrupted = b"", False
    with contextlib.suppress(OSError):  # of a terminal that nothing has open any more
        while part := os.read(ours, 4096):
            shown += part
            if not interrupted and len(list(tmp_path.glob("resnet18_*"))) >= 4:
                process.send_signal(signal.SIGINT)
                interrupted = True
    os.close(ours)
    assert process.wait() == 130
    end = shown.decode()[shown.decode().index("Stopped after") :]
    assert "The same command resumes from there." in end.replace("\r\n", " ")
    assert "\x1b[2K" in shown.decode(), "there were bars"
    assert "\x1b[1A" not in end
    assert "\x1b[2K" not in end


def test_what_is_assumed_of_a_weights_file_is_a_note(tmp_path):
    code = "vit_patch8_c64-64-64-64_l1-1-1-1_b64-64-64-64_g32-32-32-32_stem64_px32"
    torch.save(bsszoo.create(code, num_classes=3).state_dict(), tmp_path / "net.pth")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    done = _bsszoo("predict", "net.pth", "a.png", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("Note: In net.pth heads are taken to have 64 channels") == 1
    named = _bsszoo("predict", code, "a.png", "--weights", "net.pth", cwd=tmp_path)
    assert "heads" not in named.stderr
