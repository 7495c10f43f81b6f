"""The documented walk from a budget to everybody, as a stranger runs it; `.ci/run` runs it too."""

from __future__ import annotations

import subprocess
import sys

import pytest
from package_tree import ROOT


@pytest.mark.slow
def test_the_walk_ends_with_the_same_logits_everywhere() -> None:
    done = subprocess.run(
        [sys.executable, "examples/hub/walk.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same logits, bit by bit") == 6
    assert "everywhere the same" in done.stdout
