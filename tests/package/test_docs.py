"""What README.md and docs/ say: their examples run, their figures come out again, their links lead somewhere."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from forward_count import detector_cost
from package_tree import ROOT, SOURCES

import bsszoo
from bsszoo.codes import Code
from bsszoo.models import entries
from bsszoo.spaces import Space

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
ZOO = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(text: str, first_cell: str) -> Iterator[list[str]]:
    """The cells of the Markdown table whose heading starts with this cell."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first_cell} |"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return
                yield [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for i, block in enumerate(blocks):
        assert ">>>" in block, "an example of Python shows a session, so that it can be run"
        test = doctest.DocTestParser().get_doctest(block, names, f"{page.name}[{i}]", str(page), 0)
        runner.run(test, clear_globs=False)
        names = test.globs
    assert runner.summarize(verbose=False).failed == 0


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the documentation make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
            assert not anchor or anchor in anchors(page.parent / target), (target, anchor)


def test_messages_of_the_troubleshooting_are_printed() -> None:
    """Each that is quoted stands in the package, as it is."""
    texts = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    printed = "\n".join(texts)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [text for line in page.splitlines() if line.startswith("`") for text in re.findall(r"`([^`]+)`", line)]
    assert len(quoted) > 20
    assert [text for text in quoted if text not in printed] == []


def home(module: str, name: str) -> str:
    """Where what a module calls so is defined."""
    value = getattr(importlib.import_module(module), name)
    return f"{value.__module__}.{value.__qualname__}"


def described(page: str) -> list[str]:
    """The classes and functions that a page of the reference describes, by where they are defined."""
    names = []
    directive = r"^\.\. auto(module|class|function):: (\S+)\n((?:   :.+\n)*)"
    for kind, target, options in re.findall(
        directive, (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE
    ):
        if kind != "module":
            names.append(home(*target.rsplit(".", 1)))
            continue
        excluded = "".join(re.findall(r":exclude-members: (.+)", options)).split(", ")
        for name, value in vars(importlib.import_module(target)).items():
            public = not name.startswith("_") and name not in excluded
            if public and getattr(value, "__module__", None) == target and hasattr(value, "__qualname__"):
                names.append(f"{target}.{name}")
    return names


def imported(source: str) -> Iterator[str]:
    """What Python source imports of bsszoo by name, by where it is defined."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bsszoo":
            for alias in node.names:
                yield home(node.module, alias.name)


def test_the_api_page_describes_what_users_import() -> None:
    seen = set(described("api.md"))
    assert {home("bsszoo", name) for name in bsszoo.__all__ if name != "__version__"} - seen == set()
    sources = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        sources += [example.source for block in blocks for example in doctest.DocTestParser().get_examples(block)]
    for notebook in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    used = {name for source in sources for name in imported(source)}
    assert len(used) > 20
    assert used - seen == set()


def test_no_name_is_described_twice_nor_as_internal_what_the_api_page_has() -> None:
    names = described("api.md") + described("internals.md")
    assert sorted(names) == sorted(set(names))


#: The networks of the paper's tables but for the backbones of its detectors.
PAPER = [name for name, entry in entries().items() if entry.paper is not None and entry.code.image_size != 800]


def test_recounted_table_of_the_findings() -> None:
    seen = []
    for name, printed_macs, macs, printed_params, params in rows(FINDINGS, "Network"):
        entry = entries()[name.strip("`")]
        cost = bsszoo.cost(entry.name)
        assert (f"{cost.macs:,}", f"{cost.params:,}") == (macs, params)
        assert (entry.paper.macs, entry.paper.params) == (printed_macs, printed_params)
        seen.append(entry.name)
    assert seen == PAPER


def test_sizes_of_the_spaces_in_the_findings() -> None:
    seen = set()
    for names, size in rows(FINDINGS, "Space"):
        for name in names.split(","):
            assert f"{Space.of(name.strip(' `')).size:,}" == size
            seen.add(name.strip(" `"))
    assert seen == {"resnet18", "resnet50", "mobilenetv2", "efficientnet_b0", "efficientnet_b1"}


DETECTORS = {
    "Mask R-CNN, ResNet-50": ("{256,512,1024,2048,3,4,6,3,64,128,256,512}", False),
    "Mask R-CNN, AutoBSS": ("{192,512,512,1024,9,3,6,10,24,192,256,384}", False),
    "RetinaNet, ResNet-50": ("{256,512,1024,2048,3,4,6,3,64,128,256,512}", True),
    "RetinaNet, AutoBSS with B3 = 96": ("{192,384,768,1536,3,7,9,8,72,96,192,384}", True),
    "RetinaNet, AutoBSS as printed, B3 = 192": ("{192,384,768,1536,3,7,9,8,72,192,192,384}", True),
}


def test_detectors_of_the_findings() -> None:
    seen = []
    for name, _, on_1x1, on_3x3 in rows(FINDINGS, "Detector"):
        text, retina = DETECTORS[name]
        code = Code.parse(text, family="resnet50")
        macs, params = detector_cost(code.widths, code.depths, code.bottlenecks, retina=retina, stride_in="1x1")
        assert f"{macs / 1e9:.2f}B, {params / 1e6:.2f}M" == on_1x1
        macs, _ = detector_cost(code.widths, code.depths, code.bottlenecks, retina=retina, stride_in="3x3")
        assert f"{macs / 1e9:.2f}B" == on_3x3
        seen.append(name)
    assert seen == list(DETECTORS)


def test_zoo_table() -> None:
    seen = []
    for name, macs, two_macs, params, weights in rows(ZOO, "Name"):
        entry = entries()[name.strip("`")]
        assert f"{entry.cost.macs / 1e6:,.1f}M" == macs
        assert f"{entry.cost.macs2 / 1e6:,.1f}M" == two_macs
        assert f"{entry.cost.params / 1e6:.2f}M" == params
        assert weights == ("timm's" if entry.published else "none")
        seen.append(entry.name)
    assert seen == PAPER


def test_the_other_networks_of_the_zoo_have_these_costs() -> None:
    for name, family, size, macs, params, weights in rows(ZOO, "Network"):
        entry = entries()[name.strip("`")]
        assert (f"`{entry.code.family}`", str(entry.code.image_size)) == (family, size)
        assert (f"{entry.cost.macs / 1e6:,.1f}M", f"{entry.cost.params / 1e6:.2f}M") == (macs, params)
        assert weights == ("timm's" if entry.published else "none")


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1200


def test_the_diagram_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "diagram.md").read_text(encoding="utf-8")
    files = set(re.findall(r"\b[a-z_]+(?:/[a-z_]+)+\.py\b", text))
    assert len(files) > 40
    assert {name for name in files if not (ROOT / "bsszoo" / name).exists()} == set()
