import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks.scripts import load_script
from benchmarks.small_tables import TRANSNAS, macro_archs, write_macro_json
from searching.figures import Comparison, checkpoints
from searching.ledger import FILE, Ledger
from searching.protocol import Run

script = load_script("search")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_macro_json(tmp_path_factory.mktemp("table") / "a.json", macro_archs()[::7])


def words(table: Path, out: Path, *more: str) -> list[str]:
    return [
        "--table",
        str(table),
        "--out",
        str(out),
        "--only",
        "hill,evolution",
        "--seeds",
        "4",
        "--evaluations",
        "24",
        "--batch",
        "8",
        *more,
    ]


def runs_of(out: Path) -> dict[tuple[str, str, int], dict[str, object]]:
    kept = {}
    for run in Ledger(out).read():
        entry = dataclasses.asdict(run)
        del entry["ask_seconds"]
        kept[run.task, run.sampler, run.seed] = entry
    return kept


def test_a_resumed_comparison_equals_an_unbroken_one(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    script.main(words(table, whole))
    lines = (whole / FILE).read_text().splitlines(keepends=True)
    assert len(lines) == 3 * 3 * 4
    broken.mkdir()
    (broken / FILE).write_text("".join(lines[:10]) + lines[10][:100])
    capsys.readouterr()
    script.main(words(table, broken))
    assert f"{FILE}:11: not a whole run" in capsys.readouterr().err
    assert runs_of(broken) == runs_of(whole)
    assert len((broken / FILE).read_text().splitlines()) == len(lines) + 1


def test_what_is_there_is_printed_again_without_a_table(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(words(table, tmp_path, "--plot", str(tmp_path / "p.svg")))
    first = capsys.readouterr().out
    before = (tmp_path / FILE).read_bytes()
    script.main([*words(table, tmp_path)[2:], "--show"])
    assert capsys.readouterr().out == first
    assert (tmp_path / FILE).read_bytes() == before
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert "36 runs of 24 evaluations in batches of 8" in first
    assert "| `hill` |" in first


def test_several_processes_give_what_one_gives(table: Path, tmp_path: Path) -> None:
    script.main(words(table, tmp_path / "one", "--only", "hill"))
    script.main(words(table, tmp_path / "two", "--only", "hill", "--jobs", "2"))
    assert runs_of(tmp_path / "one") == runs_of(tmp_path / "two") != {}


def test_runs_of_a_table_that_has_changed_are_made_anew(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(words(table, tmp_path))
    other = json.loads(table.read_text())
    for entry in other.values():
        entry["test_acc"] = [-v for v in entry["test_acc"]]
    changed = tmp_path / "b.json"
    changed.write_text(json.dumps(other))
    capsys.readouterr()
    script.main(words(changed, tmp_path))
    told = capsys.readouterr()
    assert "36/36 runs" in told.err
    # Without a table, the newer of the two.
    script.main([*words(table, tmp_path)[2:], "--show"])
    assert capsys.readouterr().out == told.out


def test_needs_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--synthetic", "--only", "random", "--seeds", "2", "--out", str(tmp_path)])
    assert "5 tasks: synthetic/additive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give --table PATH, --synthetic or both"),
        (["--synthetic", "--only", "random,magic"], "--only takes samplers"),
        (["--synthetic", "--seeds", "0"], "--seeds is at least 1"),
        (["--synthetic", "--plot", "p.txt"], "--plot ends in one of"),
        (["--table", "no-such-table.csv"], "Cannot read the table no-such-table.csv"),
        (["--table", "TRANSNAS"], "is more than transnas/class_scene .3 codes"),
        (["--table", "TRANSNAS", "--table", "TRANSNAS"], "Two tables hold the same tasks"),
        (["--show"], "holds no run of random search"),
    ],
)
def test_arguments_that_make_no_sense_end_with_2_and_say_why(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TRANSNAS)
    with pytest.raises(SystemExit) as ended:
        script.main([str(path) if w == "TRANSNAS" else w for w in given] + ["--out", str(tmp_path / "none")])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def run(sampler: str, task: str, seed: int, picked: list[float], hit: int | None = None) -> Run:
    return Run(task, "g", sampler, seed, len(picked), 1, "d", list(range(len(picked))), picked, picked, hit, [0.5])


def test_regrets_are_divided_by_random_search_on_each_task() -> None:
    runs = [
        run("random", "a", 0, [4.0, 2.0]),
        run("random", "a", 1, [2.0, 2.0]),
        run("random", "b", 0, [1.0, 0.0]),
        run("random", "b", 1, [3.0, 0.0]),
        run("hill", "a", 0, [3.0, 1.0], 1),
        run("hill", "a", 1, [3.0, 0.0]),
        run("hill", "b", 0, [1.0, 0.0], 2),
        run("hill", "b", 1, [1.0, 0.0], 2),
    ]
    comparison = Comparison(runs)
    got = comparison.ratios("hill", ["a", "b"], "picked")
    # Task a: 3/3 and .5/2; task b: 1/2, and nothing where random search has no regret left.
    assert [e.value for e in got] == pytest.approx([(1 + 0.5) / 2, 0.25])
    assert got[0].low <= got[0].value <= got[0].high
    rate, worst = comparison.hit_rate("hill", ["a", "b"])
    assert (rate.value, worst) == (pytest.approx(0.75), 0.5)
    assert comparison.seconds("hill", ["a", "b"]) == 0.5
    reference = comparison.ratios("random", ["a"], "picked")[0]
    assert (reference.value, reference.low, reference.high) == (1, 1, 1)


def test_an_interval_is_that_of_the_mean_over_seeds() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(1, 400)
    runs = [run("random", "a", s, [2.0]) for s in range(400)]
    runs += [run("hill", "a", s, [float(v)]) for s, v in enumerate(values)]
    got = Comparison(runs).ratios("hill", ["a"], "picked")[0]
    half = 1.96 * values.std() / 20 / 2
    assert got.value == pytest.approx(values.mean() / 2)
    assert (got.low, got.high) == pytest.approx((got.value - half, got.value + half), abs=half / 5)


def test_checkpoints_are_ends_of_batches() -> None:
    assert checkpoints(64, 16) == [16, 32, 48, 64]
    assert checkpoints(30, 4) == [8, 16, 24, 30]
    assert checkpoints(5, 5) == [5]
