"""The notebooks of docs/tutorials: what they show is theirs, and executing them gives it again.

``python docs/tutorials/execute.py`` writes their outputs.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from package_tree import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
OF_EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
#: Most bytes of a notebook with its outputs.
MOST = 100_000
# A place of one machine: home, temporary or environment folders, drives, and addresses inside the kernel.
PLACE = re.compile(r"/(?:root|home|Users|tmp|var|work|mnt|opt)/|[A-Z]:\\\\|site-packages|0x[0-9a-f]{6,}|ipykernel_\d+")


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def kinds(outputs: list[dict[str, Any]]) -> list[object]:
    """What sorts of output a cell has, whatever they say."""
    return [(one["output_type"], one.get("name"), sorted(one.get("data", {}))) for one in outputs]


def test_the_index_lists_every_notebook_under_begin() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    begin = index[index.index(":caption: Begin") : index.index(":caption: How to")]
    assert set(re.findall(r"^tutorials/(\w+)$", begin, re.MULTILINE)) == {path.stem for path in NOTEBOOKS}
    assert NOTEBOOKS


@OF_EACH
def test_it_is_committed_as_it_was_executed_from_top_to_bottom_without_an_error(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [one for cell in code for one in cell["outputs"]]
    assert outputs
    assert [one for one in outputs if one["output_type"] == "error" or one.get("name") == "stderr"] == []


@OF_EACH
def test_it_is_small_and_names_no_place_of_the_machine_it_ran_on(path: Path) -> None:
    assert path.stat().st_size < MOST
    for cell in cells(path, "code"):
        for one in cell["outputs"]:
            texts = {k: v for k, v in one.get("data", {}).items() if not k.startswith("image/")}
            assert PLACE.search(json.dumps([one.get("text"), texts])) is None
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata.keys() == {"kernelspec", "language_info"}
    assert metadata["kernelspec"]["name"] == "python3"


@OF_EACH
def test_its_links_lead_somewhere(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", "".join(cell["source"])):
            if not target.startswith("https://"):
                assert (path.parent / target).exists(), target


@pytest.mark.extended
@OF_EACH
def test_executing_it_raises_nothing_and_gives_outputs_of_the_same_kinds(path: Path) -> None:
    for needed in ("nbclient", "ipykernel", "sklearn"):
        pytest.importorskip(needed, reason="notebooks need the extra `test`")
    spec = importlib.util.spec_from_file_location("execute_tutorials", TUTORIALS / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    executed = module.execute(path)
    now = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell, before in zip(now, cells(path, "code"), strict=True):
        assert kinds(cell.outputs) == kinds(before["outputs"]), cell.source
