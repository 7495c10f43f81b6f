"""Sphinx settings. Build with ``sphinx-build -W -b html docs docs/_build/html``."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from bsszoo import __version__

project = "bsszoo"
author = "The bsszoo authors"
copyright = "The bsszoo authors"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
# The notebooks hold their outputs; `python docs/tutorials/execute.py` writes them, a test executes them.
nb_execution_mode = "off"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["code.css"]
html_title = f"bsszoo {__version__}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("FloatArray", "IntArray", "StrideIn")}
autodoc_default_options = {"exclude-members": "model_config"}
# Docstrings of this package are Google style; their examples and code words are plain reStructuredText.
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def plain_text_to_rest(_app: Any, _what: str, _name: str, _object: object, _options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read as text: bars mean absolute values, a notation block keeps its columns."""
    out: list[str] = []
    for line in lines:
        if line.strip() == "Notation:":
            out += [line + ":", ""]
        else:
            # Every second piece stands between double backticks, where reStructuredText takes bars as they are.
            pieces = line.split("``")
            out.append("``".join(p if i % 2 else re.sub(r"(?<!\\)\|", r"\\|", p) for i, p in enumerate(pieces)))
    lines[:] = out


def list_options(_app: Any, _what: str, _name: str, documented: object, _options: Any, lines: list[str]) -> None:
    """Dataclasses of options (``bsszoo.options``) describe each in its field, for the command line's help and here."""
    if not (isinstance(documented, type) and dataclasses.is_dataclass(documented)):
        return
    described = [field for field in dataclasses.fields(documented) if "help" in field.metadata]
    if not described:
        return
    params = []
    for field in described:
        display = field.metadata["display"]
        default = f" By default: {display.strip('()')}." if isinstance(display, str) else ""
        # Outside of code two hyphens would become a dash.
        pieces = re.sub(r"`([^`]+)`", r"``\1``", field.metadata["help"] + default).split("``")
        pieces[::2] = [re.sub(r"--[a-z][a-z-]*", r"``\g<0>``", piece) for piece in pieces[::2]]
        params.append(f":param {field.name}: {'``'.join(pieces)}")
    at = next((i for i, line in enumerate(lines) if line.startswith(":raises")), len(lines))
    lines[at:at] = params if at < len(lines) else ["", *params, ""]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", list_options)
    app.connect("autodoc-process-docstring", plain_text_to_rest)
