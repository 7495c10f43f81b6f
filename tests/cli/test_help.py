"""The help, hints for other tools' options, ``--config``, ``--json`` and ``--quiet``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import forked
import pytest
import typer
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.codes.cost import stage_costs
from bsszoo.options import GROUPS, options_of

SMALL = "resnet18_c16-32-64-64_l1-1-1-1_px32"


def invoked(*words: object) -> str:
    """What a command prints on stdout, in this process; its exit code is 0."""
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def commands() -> dict[str, typer.core.TyperCommand]:
    group = typer.main.get_command(app)
    return dict(group.commands) | {"hub show": group.commands["hub"].commands["show"]}


@pytest.mark.parametrize("width", [80, 120])
def test_summaries_of_commands_are_whole_and_lines_fit(width: int) -> None:
    # A process of its own: typer's runner for tests has 80 columns whatever the terminal's are.
    env = dict(os.environ) | {"COLUMNS": str(width)}
    text = forked.run(["-m", "bsszoo", "--help"], env=env).stdout
    assert "..." not in text.partition("\n")[2]
    assert max(map(len, text.splitlines())) <= width
    for name, command in commands().items():
        summary = " ".join(command.help.split("\n\n")[0].split())
        assert " " in name or summary.removesuffix(".") in " ".join(text.split()), name
    lines = forked.run(["-m", "bsszoo", "compress", "-h"], env=env).stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width - 10, "the terminal's width is used"


def test_every_option_of_compress_stands_in_a_group() -> None:
    text = invoked("compress", "--help")
    titles = [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[:3] == ["Arguments", "Budget", "Latency"]
    assert {group.TITLE for group in GROUPS.values()} <= set(titles)
    other = text.partition("\nOther:\n")[2]
    assert {line.split()[0].rstrip(",") for line in other.splitlines() if line.startswith("  -")} == {
        "--config",
        "--track",
        "--json",
        "-q",
        "-h",
    }
    before = text.partition("\nOther:\n")[0]
    for name, field in options_of(*GROUPS.values()).items():
        assert (field.metadata["flag"] or f"--{name.replace('_', '-')}") in before


def test_a_help_that_is_no_terminals_has_no_colour() -> None:
    assert "\x1b" not in invoked("compress", "--help")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["compress", SMALL, "--macs", "50%"], "--flops"),
        (["compress", SMALL, "--flops", "50%", "--no-latency"], "--no-measure"),
        (["compress", SMALL, "--flops", "50%", "--lr", "1"], "--set"),
        (["train", "r.yaml", "--out", "x", "--lr", "1"], "--set"),
        (["validate", "x", "--batch-size", "3"], "--batch"),
        (["cost", "resnet18", "--resolution", "3"], "--image-size"),
    ],
)
def test_another_tools_option_is_answered_with_ours(words: list[str], hint: str) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert f"(Possible options: {hint})" in done.stderr


def test_a_file_gives_options_and_the_command_line_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"network: {SMALL}\nflops: 50%\ntrials: 3\nbatch: 2\nmeasure: false\nstage-depth-cap: none\nout: {tmp_path}/a\n"
    )
    quick = forked.run(["-m", "bsszoo", "compress", "--config", file, "--trials", "2", "--json", "-q"], cwd=tmp_path)
    assert (quick.returncode, quick.stderr) == (0, "")
    found = json.loads(quick.stdout)
    assert found == json.loads((tmp_path / "a" / "result.json").read_text())
    settings = json.loads((tmp_path / "a" / "settings.json").read_text())
    assert found["trials"]["complete"] == 2
    whole = bsszoo.compress(
        SMALL, flops="50%", trials=2, batch=2, measure=False, stage_depth_cap="none", out=tmp_path / "b"
    )
    assert json.loads((tmp_path / "b" / "settings.json").read_text()) == settings
    assert [str(row.code) for row in whole.networks] == [row["code"] for row in found["networks"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trails: 3", "there is no option 'trails'. Did you mean 'trials'"),
        ("- 3", "holds no options by name"),
        ("a: [", "cannot be read: while parsing"),
        ("quiet: true", "there is no option 'quiet'"),
        ("network: nowhere\nflops: 3M", "There is no model 'nowhere'"),
        (f"network: {SMALL}\nflops: 50%\ntrials: many", "Invalid value for '--trials'"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    done = forked.run(["-m", "bsszoo", "compress", "--config", "run.yaml"], cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_prints_json_and_is_quiet() -> None:
    for name, command in commands().items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        if name not in ("hub", "recipe"):
            assert "--json" in flags, name
        if name != "hub":
            assert {"--quiet", "-q"} <= flags, name


def test_a_network_as_json_has_its_stages() -> None:
    shown = json.loads(invoked("show", SMALL, "--json"))
    stages = stage_costs(bsszoo.Code.parse(SMALL))
    assert [(s["name"], s["width"], s["cost"]["macs"]) for s in shown["stages"]] == [
        (s.name, s.width, s.cost.macs) for s in stages
    ]
    assert shown["cost"]["params"] == bsszoo.cost(SMALL).params
    detector = json.loads(invoked("show", "retinanet_resnet50", "--json"))
    assert detector["cost"]["macs"] == bsszoo.cost("retinanet_resnet50").macs


def test_an_export_as_json_says_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    made = json.loads(invoked("export", SMALL, "--random", "--format", "torch", "--out", file, "--json", "-q"))
    assert (made["path"], made["size"]) == (str(file), file.stat().st_size)
    assert made["input_shape"] == [3, 32, 32]
