"""The scripts in examples/ run as their first lines say, and say what is so."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from package_tree import ROOT

import bsszoo

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@cache
def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # From the tree's root, so that the package beside the examples is found where bsszoo is not installed.
    command = [
        sys.executable,
        "-c",
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')",
        f"examples/{name}",
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_example_is_run_here() -> None:
    assert {p.name for p in EXAMPLES} == {"count_cost.py", "use_in_timm.py"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_an_example_runs_without_a_word_on_stderr(path: Path) -> None:
    done = run(path.name)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_cost_of_a_code_at_another_size() -> None:
    text = "resnet18{32,32,128,1024,4,14,14,1}"
    cost = bsszoo.cost(text, 256)
    out = run("count_cost.py", text, "--size", "256").stdout
    assert f"{cost.macs:,} MACs" in out
    assert f"2 x MACs are {cost.macs2:,}" in out
    assert f"{cost.params:,} parameters, {cost.activations:,} activations" in out


def test_a_name_that_does_not_exist_is_one_sentence() -> None:
    done = run("count_cost.py", "mobilnet")
    assert done.returncode == 1
    assert done.stderr.startswith("There is no model 'mobilnet' in the zoo. Did you mean")
    assert "Traceback" not in done.stderr


def test_counted_and_built_parameters_agree() -> None:
    out = run("use_in_timm.py").stdout
    assert "by code: 2,654,210 parameters built, 2,654,210 counted" in out
    assert "features at 1/32: (2, 2048, 7, 7)" in out
