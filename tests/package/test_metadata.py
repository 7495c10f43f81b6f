"""The package's own papers: version, data files, the commands of the README and what CI runs."""

from __future__ import annotations

import json
import re
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml
from package_tree import ROOT

import bsszoo

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAIN_JOB = (
    'pip install ".[digits]" && bsszoo compress resnet18_c16-32-64-128_l2-2-2-2_px32 --flops 30% --data digits '
    "--trials 16 --epochs 10"
)
PAPER_JOB = "bsszoo compress mobilenetv2 --flops 130M"
TESTS = 'pip install ".[test]" && python -m pytest -n 2'


def test_version_is_said_once() -> None:
    assert PROJECT["project"]["version"] == bsszoo.__version__
    assert bsszoo.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert CITATION["version"] == bsszoo.__version__


def test_the_citation_names_what_the_readme_asks_to_cite() -> None:
    [paper] = CITATION["references"]
    assert f"*{paper['title']}.*" in README
    assert paper["url"] in README
    assert str(paper["year"]) in README


def test_data_files_are_in_the_package_and_declared() -> None:
    declared = PROJECT["tool"]["setuptools"]["package-data"]["bsszoo"]
    assert {"py.typed", "models/entries.json"} <= set(declared)
    for name in declared:
        assert resources.files("bsszoo").joinpath(name).is_file()
    # Any file that is no Python has to be declared, or the wheel goes without it.
    others = {
        p.relative_to(ROOT / "bsszoo").as_posix()
        for p in (ROOT / "bsszoo").rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc")
    }
    assert others == set(declared)


def test_the_zoo_s_data_is_json_that_no_key_repeats() -> None:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    text = resources.files("bsszoo").joinpath("models", "entries.json").read_text(encoding="utf-8")
    names = [e["name"] for e in json.loads(text, object_pairs_hook=unique)["entries"]]  # type: ignore[index]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("command", [MAIN_JOB, PAPER_JOB, TESTS])
def test_the_readme_s_commands_stand_alone_and_are_what_ci_runs(command: str) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert f"{command}\n" in blocks
    # CI takes the line out of the README and runs it; it fails when the README has no such line.
    assert f"readme_line '{command}'" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", sorted((ROOT / ".ci").iterdir()), ids=lambda p: p.name)
def test_ci_is_made_of_programs_that_contributing_names(script: Path) -> None:
    assert script.read_text(encoding="utf-8").startswith(("#!/usr/bin/env bash\n", "#!/usr/bin/env python3\n"))
    assert script.stat().st_mode & 0o111
    assert f"`.ci/{script.name}`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_command_is_declared() -> None:
    assert PROJECT["project"]["scripts"] == {"bsszoo": "bsszoo.cli.main:main"}


def test_every_import_is_declared() -> None:
    import ast

    declared = {re.split(r"[^A-Za-z0-9_]", d)[0].lower() for d in PROJECT["project"]["dependencies"]}
    imported = set()
    for path in (ROOT / "bsszoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    # Imported where a user asks for it only; the package that brings it is one of the extras.
    extras = " ".join(d for group in PROJECT["project"]["optional-dependencies"].values() for d in group)
    asked_for = {
        "grpc": "grpcio",
        "ray": "ray",
        "sklearn": "scikit-learn",
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "openvino": "openvino",
        "nncf": "nncf",
        "litert_torch": "litert-torch",
        "ai_edge_litert": "litert-torch",
        "ai_edge_quantizer": "ai-edge-quantizer",
    }
    assert all(re.search(rf"\b{package}\b", extras) for package in asked_for.values())
    outside = imported - set(sys.stdlib_module_names) - {"bsszoo", *asked_for}
    # Imported under another name than the package has.
    outside = {{"yaml": "pyyaml", "PIL": "pillow"}.get(name, name) for name in outside}
    assert {name.lower() for name in outside} <= declared, sorted(outside - declared)
