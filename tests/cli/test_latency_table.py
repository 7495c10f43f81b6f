"""``bsszoo latency-table``: a table's blocks by kind and place, and the file that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bsszoo.cli.main import app
from bsszoo.codes import Code
from bsszoo.spaces.chain import block_shapes
from bsszoo.spaces.limits import LatencyTable


def test_a_table_s_file_is_shown_by_kind_and_place(tmp_path: Path) -> None:
    code = Code.parse("resnet18_c16-24-32-48_l2-1-1-3_px64")
    table = LatencyTable({shape: 0.5 + 0.1 * i for i, shape in enumerate(block_shapes(code))})
    table.save(tmp_path / "pi.csv")
    shown = CliRunner().invoke(app, ["latency-table", str(tmp_path / "pi.csv")])
    assert shown.exit_code == 0
    rows = [line.split() for line in shown.output.splitlines() if line.strip().startswith(("stem", "basic", "class"))]
    # Equal blocks are one; the blocks of a kind at a place stand in one row.
    assert sum(int(row[6]) for row in rows) == len(set(block_shapes(code)))
    assert [row[0] for row in rows].count("classifier") == 1


@pytest.mark.slow
def test_a_network_s_table_is_measured_kept_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsszoo.latency.table.SECONDS_EACH", 0.0)
    code = "resnet18_c8-8-16-16_l1-1-1-1_px32"
    made = CliRunner().invoke(app, ["latency-table", code, "--out", str(tmp_path / "t.json")])
    assert made.exit_code == 0, made.output
    table = LatencyTable.load(tmp_path / "t.json")
    assert f"By it {code} takes {table.of(Code.parse(code)):.4g} ms." in made.output
