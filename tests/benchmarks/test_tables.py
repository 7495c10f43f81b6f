import itertools
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from benchmarks.small_tables import TRANSNAS, macro_archs, macro_entry, network, write_macro_csv, write_macro_json
from searching.synthetic import synthetic_tasks
from searching.tables import canon, read_table
from searching.task import TableError, Task

REAL = os.environ.get("BSSZOO_TABLES")
needs_tables = pytest.mark.skipif(not REAL, reason="BSSZOO_TABLES names no folder of published tables")


def test_two_spellings_have_one_canonical_name_exactly_when_the_same_network_is_built() -> None:
    names = defaultdict(set)
    for arch in macro_archs():
        assert canon(canon(arch)) == canon(arch)
        assert network(canon(arch)) == network(arch)
        names[network(arch)].add(canon(arch))
    assert all(len(n) == 1 for n in names.values())
    assert len(names) == 3969


def test_csv_and_json_of_nas_bench_macro_give_the_same_tasks(tmp_path: Path) -> None:
    archs = macro_archs()
    from_json = read_table(write_macro_json(tmp_path / "a.json", archs))
    from_csv = read_table(write_macro_csv(tmp_path / "a.csv", archs[::-1], {a: canon(a) for a in archs}))
    assert [t.digest for t in from_json] == [t.digest for t in from_csv]
    assert [t.name for t in from_json] == ["macro@0.3", "macro@0.5", "macro@0.7"]
    distinct = {network(a): macro_entry(a)["flops"] for a in archs}
    for task, share in zip(from_json, (0.3, 0.5, 0.7), strict=True):
        limit = np.quantile(list(distinct.values()), share)
        assert len(task) == sum(flops <= limit for flops in distinct.values())
        assert task.macs.max() <= limit
        for row in range(0, len(task), 97):
            entry = macro_entry("".join(map(str, task.codes[row])))
            assert task.trained[row].tolist() == entry["test_acc"]
            assert task.macs[row] == entry["flops"]


def test_the_box_knows_every_spelling_of_every_network(tmp_path: Path) -> None:
    task = read_table(write_macro_json(tmp_path / "a.json", macro_archs()))[1]
    assert task.box is not None
    assert len(task.box.codes) == 3**8
    for place in range(0, 3**8, 53):
        arch = "".join(map(str, task.box.codes[place]))
        row = task.box.rows[place]
        assert task.box.trained[place].tolist() == macro_entry(arch)["test_acc"]
        assert (row < 0) == (task.box.macs[place] > task.box.limit)
        if row >= 0:
            assert network("".join(map(str, task.codes[row]))) == network(arch)


def test_a_part_of_nas_bench_macro_has_no_box(tmp_path: Path) -> None:
    tasks = read_table(write_macro_json(tmp_path / "a.json", macro_archs()[::5]))
    assert [t.box for t in tasks] == [None] * 3


def test_json_without_single_trainings_falls_back_on_their_mean(tmp_path: Path) -> None:
    entries = {a: {"mean_acc": i, "flops": str(float(i))} for i, a in enumerate(macro_archs()[:20])}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(entries))
    assert read_table(path)[2].trained.shape[1] == 1


def test_a_canon_column_that_is_wrong_is_an_error(tmp_path: Path) -> None:
    archs = macro_archs()[:30]
    wrong = {a: canon(a) for a in archs} | {archs[1]: archs[1]}
    with pytest.raises(TableError, match="canon says 00000001"):
        read_table(write_macro_csv(tmp_path / "a.csv", archs, wrong))


def test_networks_of_naap_440_and_tiny_resnets_are_compared_at_equal_cost(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    naap = ["ModelId,NumLayers,NumStages,FirstLayerWidth,LastLayerWidth,NumParams,NumMACs,e3Accuracy,e90Accuracy"]
    naap += [f"{i},3,2,12,16,{1000 + i % 30},{200000 + 10 * (i % 30)},0.4,{0.5 + i / 1000}" for i in range(60)]
    path = tmp_path / "naap.csv"
    path.write_text("\n".join(naap))
    tasks = read_table(path)
    assert [task.name for task in tasks] == ["naap@1of3", "naap@2of3", "naap@3of3"]
    assert sum(map(len, tasks)) == 30
    assert all(low.macs.max() < high.macs.min() for low, high in itertools.pairwise(tasks))
    # Two networks that the columns do not tell apart: the mean of 50.0 + 0.1 i and of 50.0 + 0.1 (i + 30).
    assert tasks[0].trained[:3, 0] == pytest.approx([51.5, 51.6, 51.7])
    tiny = ["base_model,num_blocks,num_filters,filter_size,lr,ss,acc_0,acc_140"]
    drawn = sorted({tuple(row) for row in rng.integers(1, 9, (80, 3)).tolist()})
    tiny += [f"resnet,{b},{f},{s},0.1,35000,0.005,{0.1 + i / 1000}" for i, (b, f, s) in enumerate(drawn)]
    tiny += ["resnet,1,4,3,0.1,70000,0.005,0.9", "resnet,1,4,5,0.1,35000,0.005,"]
    path = tmp_path / "tiny.csv"
    path.write_text("\n".join(tiny))
    tasks = read_table(path)
    assert [task.name for task in tasks] == [f"tiny@{i}of4" for i in (1, 2, 3, 4)]
    assert sum(map(len, tasks)) == len(drawn)
    for task in tasks:
        assert (task.macs == task.codes[:, 0] * task.codes[:, 1] ** 2 * task.codes[:, 2] ** 2).all()
    assert max(task.best for task in tasks) == pytest.approx(10 + (len(drawn) - 1) / 10)


def test_transnas_rows_become_bits_and_unknown_results_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TRANSNAS)
    scene, jigsaw = read_table(path)
    assert (scene.name, jigsaw.name) == ("transnas/class_scene", "transnas/jigsaw")
    assert scene.mean.tolist() == [50, 51, 49]
    assert jigsaw.mean.tolist() == [90, 91.5, 89]
    assert scene.macs.tolist() == [10_500_000, 20_250_000, 5_000_000]
    assert dict(zip(scene.names, scene.codes[0].tolist(), strict=True)) == {
        "m1_present": 1,
        "m1_double": 0,
        "m1_halve": 0,
        "m2_present": 1,
        "m2_double": 1,
        "m2_halve": 0,
        "m3_present": 1,
        "m3_double": 0,
        "m3_halve": 1,
        "m4_present": 1,
        "m4_double": 1,
        "m4_halve": 1,
        "m5_present": 1,
        "m5_double": 0,
        "m5_halve": 0,
        "m6_present": 0,
        "m6_double": 0,
        "m6_halve": 0,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("width,depth,accuracy\n1,2,3\n", "accuracy, depth, width(.|\n)*NAS-Bench-Macro as CSV"),
        ("", "no table that is known"),
        ("[1, 2]", "not a mapping"),
        ('{"0123": {"test_acc": [1]}}', "eight digits"),
        ('{"00000000": {"test_acc": [1]}}', "KeyError: 'flops'"),
        ('{"00000000": {"test_acc": [1], "flops": 1}, "00000001": {"test_acc": [1, 2], "flops": 1}}', "more trainings"),
        ("{", "cannot be read as a table"),
        (TRANSNAS.replace("a,1,2", "a,7,2"), "m1 .. m6 are 0 to 4"),
    ],
)
def test_an_unknown_or_broken_table_is_an_error_that_says_so(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x"
    path.write_text(content)
    with pytest.raises(TableError, match=message):
        read_table(path)


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="Cannot read"):
        read_table(tmp_path / "none.csv")


def test_synthetic_tasks_are_made_from_the_seed_alone() -> None:
    one, again, other = synthetic_tasks(0), synthetic_tasks(0), synthetic_tasks(1)
    assert [t.digest for t in one] == [t.digest for t in again]
    assert not {t.digest for t in one} & {t.digest for t in other}
    by_name = {t.name: t for t in one}
    falling, additive = by_name["synthetic/falling"], by_name["synthetic/additive"]
    assert np.corrcoef(falling.macs, falling.mean)[0, 1] < 0 < np.corrcoef(additive.macs, additive.mean)[0, 1]
    for task in one:
        assert task.box is not None
        assert task.macs.max() <= task.box.limit
        assert np.array_equal(task.box.codes[task.box.rows >= 0], task.codes)


def _real(columns: str) -> list[list[Task]]:
    found = []
    for path in sorted(Path(str(REAL)).glob("*")):
        if path.suffix in (".csv", ".json") and columns in path.read_text(encoding="utf-8")[:2000]:
            found.append(read_table(path))
    if not found:
        pytest.skip(f"no table with {columns} in {REAL}")
    return found


@needs_tables
def test_the_published_nas_bench_macro() -> None:
    every = _real("acc_s0") if REAL else []
    for tasks in every:
        assert len(tasks) == 3
        for task, share in zip(tasks, (0.3, 0.5, 0.7), strict=True):
            assert task.box is not None
            assert len(task) == pytest.approx(3969 * share, rel=0.01)
            # Twins were copied, not trained again.
            feasible = task.box.rows >= 0
            assert np.array_equal(task.box.trained[feasible], task.trained[task.box.rows[feasible]])


@needs_tables
def test_the_published_transnas_subset() -> None:
    for tasks in _real("macs_m"):
        assert [len(t) for t in tasks] == [662, 662, 725, 725, 725, 725, 725]
