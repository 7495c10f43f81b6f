"""The parts that every page is made of: text that stays text, tables, figures, the document around them."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bsszoo.errors import RunError
from bsszoo.files import write_whole
from bsszoo.report.style import CSS


def text(value: str) -> str:
    """Text as it may stand in HTML. What no file can hold (half a surrogate pair) becomes a question mark."""
    return html.escape(value.encode("utf-8", "replace").decode("utf-8"), quote=True)


def document(title: str, sections: Iterable[str]) -> str:
    """A whole HTML file that needs no other; empty sections are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)} - bsszoo</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def figures(*parts: tuple[str, str, str, bool]) -> str:
    """Plots with their captions, two beside each other where there is room.

    Args:
        parts: Heading, plot, caption, and whether the plot is a long one, which stands alone on the right.
    """
    out = "\n".join(
        f"<figure{' class=' + chr(34) + 'long' + chr(34) if long else ''}><h3>{name}</h3>{plot}"
        f"<figcaption>{caption}</figcaption></figure>"
        for name, plot, caption, long in parts
    )
    return f'<div class="plots">{out}</div>'


def table(head: Sequence[str], rows: Iterable[str], *, left: int, right: int | None = None, tall: bool = False) -> str:
    """A table that scrolls sideways when the screen is narrow; columns from ``left`` up to ``right`` hold numbers."""
    stop = len(head) if right is None else right
    cells = "".join(
        f'<th{" class=n" if left <= i < stop else ""} scope="col">{text(name)}</th>' for i, name in enumerate(head)
    )
    shape = "wide tall" if tall else "wide"
    return (
        f'<div class="{shape}" tabindex="0"><table><thead><tr>{cells}</tr></thead>\n<tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def numbers(*cells: str) -> str:
    """Cells of a table's row that hold numbers."""
    return "".join(f'<td class="n">{text(cell)}</td>' for cell in cells)


def bullets(items: Sequence[str]) -> str:
    """A list of texts, or the word none."""
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>" if items else "none"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names with what they stand for, which is HTML already."""
    return '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def write_page(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page whole or not at all; its path.

    Raises:
        RunError: The file cannot be written.
    """
    target = Path(path)
    try:
        write_whole(target, page)
    except OSError as error:
        raise RunError(
            f"Cannot write the report to {str(target)!r}: {error.strerror or error}. "
            "Give a folder that exists and can be written."
        ) from error
    return target
