"""The progress of a training: whole on a narrow terminal, in lines of text elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bsszoo.cli import training_progress
from bsszoo.cli.training_progress import Bars

WORDS = "loss 12.3456, lr 0.0001234, 12,345 images/s"


def screens(width: int) -> list[str]:
    """Every line on a terminal, of two bars at the size of ImageNet's numbers."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False)
    with Bars(console) as bars:
        bars.show("epoch 12/240", 123_456, 600_480, unit="updates", words=WORDS, left=5000)
        bars.show("validating", 9_984, 50_000)
        bars.remove("images")
        bars.say("epoch 12/240: done")
    assert isinstance(console.file, io.StringIO)
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()))


@pytest.mark.parametrize("width", [80, 120])
def test_all_of_it_stands_in_one_line(width: int) -> None:
    lines = screens(width)
    assert max(map(len, lines)) <= width
    assert any(re.fullmatch(rf"epoch 12/240 \S+ +123456/600480 {WORDS} -:--:-- *", line) for line in lines), lines
    assert any(re.match(r"validating +\S+ +9984/50000 ", line) for line in lines), lines
    assert any(line.startswith("epoch 12/240: done") for line in lines)


def test_elsewhere_it_is_a_line_of_text_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80)
    with Bars(console) as bars:
        bars.show("epoch 1/3", 1, 600, unit="updates", words="loss 1.0")  # too soon
        monkeypatch.setattr(training_progress, "_LINE_SECONDS", -1.0)
        bars.show("epoch 1/3", 123, 6_000, unit="updates", words="loss 1.0", left=5000)
        bars.show("validating", 9_984, None)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "epoch 1/3: 123 of 6,000 updates, loss 1.0, about 1 h 23 min left",
        "validating: 9,984 images",
    ]
