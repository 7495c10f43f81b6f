"""Imports point one way, and what is light stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest
from package_tree import MODULES, SOURCES, imports_of, module_of

BASE = {"errors", "version", "texts", "images", "files", "options"}
# room -> rooms (or single modules) that it may import; every room may import itself.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "texts": set(),
    "files": set(),
    "options": {"errors"},
    "images": {"errors", "texts"},
    "optuna_parts": set(),
    "codes": {"errors"},
    "spaces": {"errors", "texts", "codes"},
    "search": {"errors", "options", "codes", "spaces", "optuna_parts"},
    "models": BASE | {"codes"},
    "nets": {"models"},
    "latency": BASE | {"codes", "spaces", "models", "formats"},
    "train": BASE | {"codes", "models"},
    "evaluators": BASE | {"codes", "spaces", "models", "train"},
    "study": BASE | {"codes", "spaces", "search", "evaluators.base", "optuna_parts"},
    "report": BASE | {"codes", "spaces", "search", "study.result"},
    "digits": {"errors", "files", "codes", "train"},
    "formats": BASE,
    "export": BASE | {"codes", "models", "formats", "quantise"},
    "quantise": BASE | {"formats"},
    "predict": BASE | {"codes", "models", "train"},
    "hub": BASE | {"codes", "models", "train", "report"},
    "compression": BASE
    | {"codes", "spaces", "search", "study", "models", "latency", "train", "evaluators", "report", "digits", "export"}
    | {"formats", "quantise"},
    "tracking": {"errors", "files", "compression", "train"},
    "cli": BASE
    | {
        "codes",
        "spaces",
        "study",
        "models",
        "latency",
        "train",
        "evaluators",
        "formats",
        "export",
        "quantise",
        "hub",
        "report",
        "predict",
        "compression",
        "tracking",
    },
}


# The package itself, and the command line as `python -m bsszoo`.
ROOT_MODULES = ("bsszoo", "bsszoo.__main__")


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("path", [p for p in SOURCES if module_of(p) not in ROOT_MODULES], ids=module_of)
def test_imports_point_one_way(path: object) -> None:
    room = room_of(module_of(path))  # type: ignore[arg-type]
    assert room in MAY_IMPORT, f"bsszoo/{room} is new: say here what it may import"
    wrong = []
    for line, name in imports_of(path):  # type: ignore[arg-type]
        parts = name.split(".")
        allowed = {"bsszoo"} if parts == ["bsszoo"] else {parts[1], ".".join(parts[1:3])}
        # The version is the only thing the package's root has of its own.
        if parts != ["bsszoo"] and parts[1] != room and not allowed & MAY_IMPORT[room]:
            wrong.append(f"line {line}: bsszoo.{room} must not import {name}")
    assert wrong == []


def test_the_rules_have_no_cycle() -> None:
    order: list[str] = []
    left = {room: {m.split(".")[0] for m in may} for room, may in MAY_IMPORT.items()}
    while left:
        ready = [room for room, may in left.items() if may <= set(order)]
        assert ready, f"a cycle among {sorted(left)}"
        order += ready
        for room in ready:
            del left[room]
    assert all("cli" not in may for may in MAY_IMPORT.values())


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Circles among modules, with what is imported inside functions and for types only."""
    left = {module_of(path): {_module(name) for _, name in imports_of(path)} - {module_of(path)} for path in SOURCES}
    while ready := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in ready:
            del left[module]
    assert not left, "of these some import each other"


def _module(name: str) -> str:
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


LIGHT_ROOMS = ("", "errors", "optuna_parts", "codes", "spaces", "search", "study", "report", "compression", "cli")
LIGHT_MODULES = ("models", "models.names", "evaluators", "evaluators.base", "evaluators.structural")
LIGHT = [m for m in MODULES if room_of(m) in LIGHT_ROOMS or m.removeprefix("bsszoo.") in LIGHT_MODULES]


@pytest.mark.parametrize("group", [*LIGHT_ROOMS, "models", "evaluators"])
def test_light_modules_load_neither_torch_nor_timm(group: str) -> None:
    # What a family builds its networks of is loaded when one is built, templates when a page is written.
    modules = [m for m in LIGHT if room_of(m) == group and not m.endswith("_modules")]
    assert modules
    assert not {"torch", "timm", "torchvision", "jinja2"} & loaded_after("\n".join(f"import {m}" for m in modules))


def test_import_bsszoo_and_its_codes_do_not_even_load_numpy() -> None:
    heavy = {"numpy", "scipy", "optuna", "rich", "typer", "matplotlib", "torch", "timm", "huggingface_hub", "jinja2"}
    assert not heavy & loaded_after("import bsszoo")
    # One code's text and cost are plain integers.
    assert not heavy & loaded_after("import bsszoo; bsszoo.Code; bsszoo.cost('resnet50_autobss')")
