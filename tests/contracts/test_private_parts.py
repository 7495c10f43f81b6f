"""What Optuna keeps private is used in one module, so that a new Optuna is met in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_tree import SOURCES, module_of

PLACE = "bsszoo.optuna_parts"
PRIVATE = {
    *("_storage", "_study_id", "_trial_id", "_suggest", "_backend", "_create_new_trial", "_set_trial_param"),
    *("_set_trial_param_without_commit", "_get_trials", "_sync_with_backend", "_replay_result", "_log_number_offset"),
}


def private_parts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of each private part of Optuna in a file: as an attribute, a method, a text or an import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]  # of getattr and setattr
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if name in PRIVATE or (first == "optuna" and any(part.startswith("_") for part in rest)):
                yield getattr(node, "lineno", 0), name


@pytest.mark.parametrize("path", [p for p in SOURCES if module_of(p) != PLACE], ids=module_of)
def test_no_other_module_uses_what_optuna_keeps_private(path: Path) -> None:
    assert [f"line {line}: {name} belongs into {PLACE}" for line, name in private_parts(path)] == []


def test_the_one_module_is_seen_to_use_it() -> None:
    [place] = [p for p in SOURCES if module_of(p) == PLACE]
    found = {name for _, name in private_parts(place)}
    assert {"_storage", "_trial_id", "_suggest", "_sync_with_backend"} <= found
    assert any(name.startswith("optuna.storages._rdb") for name in found)
