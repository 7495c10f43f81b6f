"""Networks with published accuracies: counted as the zoo counts, within the budget, best first."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.codes.published import published_within, ready_instead

ALL = published_within(10**12)
IN_ZOO = [row for row in ALL if row.ready and row.name.partition(".")[0] in bsszoo.list_models()]


def test_the_zoo_counts_the_same_macs_and_parameters() -> None:
    """The table's are PyTorch's counts of timm's network."""
    assert len(IN_ZOO) > 5
    for row in IN_ZOO:
        cost = bsszoo.cost(row.name.partition(".")[0], image_size=row.image_size)
        assert (cost.macs, cost.params) == (row.macs, row.params), row.name


@given(st.integers(1, 10**10), st.floats(0, 1))
def test_rows_are_within_the_budget_and_best_first(macs: int, least: float) -> None:
    rows = published_within(macs, least=least)
    assert all(least * macs <= row.macs <= macs for row in rows)
    assert [row.top1 for row in rows] == sorted((row.top1 for row in rows), reverse=True)


def test_rows_are_sane() -> None:
    assert all(50 < row.top1 < 92 and row.macs > 10**6 and row.source for row in ALL)
    assert {row.data for row in ALL} == {"", "more", "teacher"}
    assert all(row.params and row.image_size for row in ALL if row.ready)


def test_what_is_ready_made_is_said() -> None:
    text = ready_instead(300_000_000) or ""
    assert text.startswith("Ready-made: timm's ")
    assert text.endswith("`bsszoo list --budget 300M` has more.")
    assert ready_instead(1000) is None


def test_a_search_without_data_names_a_network_that_is_ready(tmp_path) -> None:
    settings = {"trials": 2, "measure": False}
    run = bsszoo.compress("mobilenetv2", flops="130M", out=tmp_path / "a", **settings)
    assert run.notes[-1] == ready_instead(130_000_000)
    own = bsszoo.compress(
        "mobilenetv2", flops="130M", evaluator=lambda code: code.widths[0], out=tmp_path / "b", **settings
    )
    assert not any("Ready-made" in note for note in own.notes)


def test_the_command_lists_a_screen_of_them() -> None:
    shown = CliRunner().invoke(app, ["list", "--budget", "150M"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    best = published_within(150_000_000)[0]
    assert next(line for line in lines if best.name in line)
    assert any("are left out; --json has all" in line for line in lines)
    data = json.loads(CliRunner().invoke(app, ["list", "--budget", "150M", "--json"]).output)
    assert len(data) == len(published_within(150_000_000))
    assert data[0]["name"] == best.name
    some = json.loads(CliRunner().invoke(app, ["list", "mobilenet*", "--budget", "400M", "--json"]).output)
    assert some
    assert all(row["name"].startswith("mobilenet") for row in some)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "50%"], "a share is one of a network: write 150M"),
        (["--budget", "little"], "write 130M, 0.13G or 130e6"),
        (["--budget", "150M", "--family", "resnet50"], "give it alone, or with a pattern"),
        (["--budget", "150"], "Did you mean 150M?"),
        (["nosuch*", "--budget", "150M"], "No published network of at most 150,000,000 MACs matches"),
    ],
)
def test_wrong_arguments_are_said(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["list", *arguments])
    said = " ".join((result.output + str(result.exception)).split())
    assert words in said
    assert result.exit_code != 0
