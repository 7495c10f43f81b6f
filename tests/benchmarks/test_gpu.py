"""``benchmarks/gpu.py`` at toy size on a CPU: it resumes, says what failed, and its table has every part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks.scripts import load_script
from on_gpu import data
from on_gpu.steps import CheckError, Rows, Setting
from pycocotools import mask as coder

from bsszoo.train.classification.recipe import DataPart
from bsszoo.train.detection.data import open_coco_split
from bsszoo.train.detection.recipe import CocoPart

script = load_script("gpu")
SCRIPT = Path(script.__file__)
PARTS = ("processes", "amp", "speed", "detection", "latency", "compress", "paper")


def words(folder: Path, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--toy", "--folder", str(folder), *more]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1]), **more}


def run(folder: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(folder, *more), capture_output=True, text=True, env=environment(**variables))


def state_of(folder: Path, step: str) -> str | None:
    file = folder / "results" / f"{step}.json"
    return json.loads(file.read_text())["state"] if file.is_file() else None


def lines_of(folder: Path) -> dict[str, list[str]]:
    """The table's lines of the parts, by their names."""
    lines = [line.split("|") for line in (folder / "table.md").read_text().splitlines()]
    return {cells[1].strip(): [c.strip() for c in cells[2:-1]] for cells in lines if len(cells) == 7}


@pytest.mark.extended
def test_a_killed_run_goes_on_and_repeats_nothing_that_was_finished(tmp_path: Path) -> None:
    killed = subprocess.Popen(words(tmp_path, "--part", "latency"), env=environment(), stderr=subprocess.DEVNULL)
    while killed.poll() is None and state_of(tmp_path, "latency-measure") is None:
        time.sleep(0.05)
    time.sleep(1)  # in the middle of the next step
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert state_of(tmp_path, "latency-measure") == "done"
    assert state_of(tmp_path, "latency-table") is None
    rows = tmp_path / "results" / "latency-measure.rows.json"
    before = rows.stat().st_mtime_ns
    again = run(tmp_path, "--part", "latency")
    assert again.returncode == 0, again.stderr
    assert "latency-measure: done before" in again.stderr
    assert rows.stat().st_mtime_ns == before
    table = lines_of(tmp_path)
    assert set(PARTS) <= table.keys()
    assert [table["latency"][i] for i in (0, 3)] == ["2 of 2", "done"]
    assert {table[name][3] for name in PARTS if name != "latency"} == {"not run"}
    assert "A table of 540 blocks" in again.stdout
    third = run(tmp_path, "--part", "latency")
    assert third.stdout == again.stdout


@pytest.mark.extended
def test_a_failing_part_is_said_with_its_last_lines_and_the_others_go_on(tmp_path: Path) -> None:
    # A GPU that is not there.
    done = run(tmp_path, "--part", "latency", "--device", "cuda:0", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "**latency-measure: failed**" in done.stdout
    assert "The device 'cuda:0' cannot be used" in done.stdout.partition("```text")[2].partition("```")[0]
    assert [state_of(tmp_path, step) for step in ("latency-measure", "latency-table")] == ["failed", "failed"]
    assert lines_of(tmp_path)["latency"][3] == "failed"


def test_what_does_not_fit_into_the_seconds_is_not_begun(tmp_path: Path) -> None:
    command = [str(SCRIPT.with_suffix(".sh")), *words(tmp_path, "--seconds", "0")[2:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(PYTHON=sys.executable))
    assert done.returncode == 0, done.stderr
    assert "processes: not begun, 0 s are left" in done.stderr
    assert {lines_of(tmp_path)[name][3] for name in PARTS} == {"not run"}


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, "cpu", toy=True, fashion=tmp_path / "none", workers=1, jobs=1)


def test_a_step_is_cut_off_at_its_limit(setting: Setting) -> None:
    [step] = script.PARTS[0].steps
    record = script._one(setting, step, 0.3)
    assert record["state"] == "cut off"
    assert record["seconds"] < 10


def test_rows_are_measured_once_and_anew_at_another_size(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, object]:
        made.append(1)
        return {"value": len(made)}

    for _ in range(2):
        assert Rows(tmp_path / "a.json", {"device": "cpu", "toy": True}).keep("one", make)["value"] == 1
    assert Rows(tmp_path / "a.json", {"device": "cpu", "toy": False}).keep("one", make)["value"] == 2
    rows = Rows(tmp_path / "b.json", {"device": "cpu"})
    rows.check(True, "right")
    rows.end()
    rows.check(False, "two differ")
    with pytest.raises(CheckError, match="two differ"):
        rows.end()


def test_without_fashion_mnist_others_stand_in_for_it_and_are_named(setting: Setting) -> None:
    pytest.importorskip("sklearn")
    from bsszoo.train.classification.data import open_splits

    rows = Rows(setting.folder / "rows.json", setting.identity)
    folder = data.fashion(setting, rows)
    assert "digits" in rows.notes[0]
    train, test = open_splits(DataPart(dataset=data.FASHION), folder, num_classes=10)
    assert (len(train), len(test)) == data.TOY
    assert set(test.labels) == set(range(10))  # type: ignore[union-attr]
    grey, labels = data._shapes(0, 30)
    assert grey.shape == (30, 28, 28)
    assert labels.max() < 10


def test_larger_shapes_have_larger_boxes_and_masks(setting: Setting) -> None:
    small, large = (data.coco(setting, train=8, val=2, times=times) for times in (1, 3))
    one, other = (
        json.loads((folder / "annotations" / "instances_train.json").read_text())["annotations"]
        for folder in (small, large)
    )
    assert len(one) == len(other) > 5
    for a, b in zip(one, other, strict=True):
        assert np.allclose(np.multiply(a["bbox"], 3), b["bbox"])
        if isinstance(b["segmentation"], dict):
            assert coder.area(coder.frPyObjects(b["segmentation"], *b["segmentation"]["size"])) == 9 * a["area"]
    part = CocoPart(train_split="train", val_split="val", broken="refuse")
    assert len(open_coco_split(part, large, "train", masks=True)) > 0


@pytest.mark.slow
def test_all_parts_at_toy_size(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout
    table = lines_of(tmp_path)
    assert {table[name][3] for name in PARTS} == {"done"}
    for title in (part.title for part in script.PARTS):
        assert f"## {title}" in done.stdout
