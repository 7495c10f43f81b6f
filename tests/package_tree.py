"""The package's source files and what each imports, read with ``ast`` and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "bsszoo").rglob("*.py"))


def module_of(path: Path) -> str:
    """``bsszoo.codes.code`` for ``bsszoo/codes/code.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [module_of(path) for path in SOURCES]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ``bsszoo`` in a file, inside functions and ``TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name the whole path"
            # ``from bsszoo.study import result`` imports the module bsszoo.study.result.
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in full]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name == "bsszoo" or name.startswith("bsszoo."))
