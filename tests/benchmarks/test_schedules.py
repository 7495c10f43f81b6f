"""Searches with trainings of several lengths: what each costs, what it leaves, and resumption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.scripts import load_script
from searching.tables import NAAP, read_table

script = load_script("schedules")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 networks of three costs, the accuracy after each of 90 epochs nearer to the last."""
    epochs = range(1, 91)
    columns = ["NumLayers", "NumStages", "FirstLayerWidth", "LastLayerWidth", "NumParams", "NumMACs"]
    lines = [",".join([*columns, *(f"e{i}Accuracy" for i in epochs)])]
    for n in range(120):
        layers, stages, width = n % 5 + 1, n // 5 % 4 + 1, 8 * (n // 20 + 1)
        last = 0.5 + 0.02 * layers + 0.001 * width + 0.01 * stages
        noise = np.random.default_rng(n).normal(0, 0.1)
        curve = [round(last + noise * (1 - i / 90) ** 3, 4) for i in epochs]
        lines.append(",".join(map(str, [layers, stages, width, width, 1000 + n, 200_000 + 1000 * n, *curve])))
    path = tmp_path_factory.mktemp("schedules") / "naap.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_training_that_goes_on_costs_the_further_epochs_and_a_whole_one_all(table: Path) -> None:
    task = read_table(table)[0]
    assert task.group == NAAP
    bill = script.Bill(task)
    assert bill.train(3, 9) == task.curve[3, 8]
    assert bill.train(3, 27) == task.curve[3, 26]
    bill.train(3, 9)  # it has been
    assert (bill.going_on, bill.from_start) == (27, 36)
    assert bill.end([3, 5]) == pytest.approx(task.best - max(task.mean[[3, 5]]))
    assert (bill.going_on, bill.from_start) == (180, 216)


def test_the_costs_of_the_plain_methods_are_known(table: Path) -> None:
    task = read_table(table)[1]
    for rung, epochs in enumerate((9, 27)):
        bill = script.Bill(task)
        values = task.curve[script.drawn(task, 16, 4), epochs - 1]
        rows = np.array(script.drawn(task, 16, 4))[np.argsort(-values, kind="stable")[:3]]
        assert script.i_epoch(task, 16, 4, bill, rung=rung, leaders=3) == pytest.approx(
            task.best - task.mean[rows].max()
        )
        assert bill.going_on == 16 * epochs + 3 * (90 - epochs)
    bill = script.Bill(task)
    script.halving(task, 27, 4, bill)
    assert bill.going_on == 27 * 9 + 9 * 18 + 3 * 63
    # Of ours the first eight go through both rungs; six are trained in full.
    bill = script.Bill(task)
    script.bsszoo(task, 16, 4, bill)
    longer = sum(epochs >= 27 for epochs in bill.longest.values())
    assert 8 <= longer < 16
    assert len(bill.longest) == 16
    assert sum(epochs == 90 for epochs in bill.longest.values()) == 6
    assert bill.going_on == 16 * 9 + longer * 18 + 6 * 63


def test_what_the_baseline_needs_is_read_off_its_frontier() -> None:
    points = script.frontier([(10.0, 1.0), (20.0, 0.5), (15.0, 1.2), (30.0, 0.5), (5.0, 2.0)])
    assert points == [(5.0, 2.0), (10.0, 1.0), (20.0, 0.5)]
    assert [script.cost_at(points, regret) for regret in (3.0, 2.0, 1.5, 0.75, 0.5)] == [5.0, 5.0, 7.5, 15.0, 20.0]
    assert script.cost_at(points, 0.4) == float("inf")


def test_a_comparison_goes_on_where_it_was_cut_off(table: Path, tmp_path: Path, capsys) -> None:
    words = ["--table", str(table), "--seeds", "2", "--only", "i-epoch 1/2,halving", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        script.main(words)
    assert "--only takes i-epoch 1/9, i-epoch 1/9 best 3" in capsys.readouterr().err
    words[5] = "halving,tpe-hyperband"
    script.main(words)
    first = capsys.readouterr().out
    file = tmp_path / script.FILE
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 3 * 2 * (6 + 3)
    file.write_text("".join(lines[:20]) + lines[20][:30])
    script.main(words)
    assert capsys.readouterr().out == first
    assert [json.loads(line) for line in file.read_text().splitlines()] == [json.loads(line) for line in lines]
    script.main(["--out", str(tmp_path), "--show", "--only", "halving,tpe-hyperband"])
    assert capsys.readouterr().out == first
