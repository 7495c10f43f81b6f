"""The form of the sources: docstrings, examples that run, public names that exist."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_tree import MODULES, SOURCES, module_of

import bsszoo


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not {p.stem for p in SOURCES} & {"utils", "util", "helpers", "common", "misc"}


def undocumented(body: list[ast.stmt], owner: str = "") -> Iterator[str]:
    """Public functions and classes without a docstring; an overload's stands at its implementation."""
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not any("overload" in ast.dump(d) for d in node.decorator_list):
            yield owner + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{node.name}.")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_every_public_name_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    assert list(undocumented(tree.body)) == []


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("bsszoo.cli")])
def test_examples_in_docstrings_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", bsszoo.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(bsszoo, name) is not None
    assert name in dir(bsszoo)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        bsszoo.compres  # noqa: B018


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("bsszoo.cli") and m != "bsszoo"])
def test_what_a_module_says_it_exports_exists(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", ()):
        assert hasattr(loaded, name)


def test_errors_are_builtins_too_and_print_as_written() -> None:
    from bsszoo import errors

    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.BssZooError)]
    assert len(kinds) > 5
    for kind in kinds:
        assert str(kind("it's a text")) == "it's a text"
        if kind is not errors.BssZooError:
            assert any(base.__module__ == "builtins" for base in kind.__bases__)
