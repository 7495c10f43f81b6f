"""Texts of a run's files inside a Markdown card: shown as they are written, and never as markup of the card."""

from __future__ import annotations

import re
from typing import Final

from bsszoo.texts import one_line

_MOST: Final = 2000
# What begins HTML, a link, an image, emphasis, code, a formula, a cell of a table, a mention, in CommonMark and on the
# Hub. Underscores inside of words are none of these, and names are full of them.
_MARKUP: Final = re.compile(r"[\\`*\[\]<>&|~$@]|(?<![^\W_])_|_(?![^\W_])")
# What readers make a link of without being told to.
_ADDRESS: Final = re.compile(r"(?<=\w):(?=//)|(?<=www)\.|(?<=mailto):|(?<=xmpp):", re.IGNORECASE)
# What makes a heading, a list, a quotation or a line of a text's first characters.
_BLOCK: Final = re.compile(r"[#+\-=>]|\d+[.)]")


def plain(value: object) -> str:
    """A text as a part of a sentence or a cell of a table: one line, without any markup of its own.

    Raises:
        ValueError: The value is no text; where a text belongs, a damaged record may have anything.

    Example:
        >>> plain("val_set <b>x</b>")
        'val_set &#60;b&#62;x&#60;/b&#62;'
    """
    text = _MARKUP.sub(_entity, _line(value))
    text = _ADDRESS.sub(_entity, text)
    if begin := _BLOCK.match(text):
        head = begin.group()
        text = f"{head[:-1]}{_entity(head[-1])}{text[len(head) :]}"
    return text


def code(value: object) -> str:
    """A text as code in a sentence or a cell of a table; what would end it is replaced."""
    text = _line(value).replace("`", "'").replace("|", "/")
    return f"`{text}`" if text else "-"


def _line(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{one_line(repr(value), 60)} stands where a text is needed")
    return one_line(value, _MOST)


def _entity(found: re.Match[str] | str) -> str:
    # Not a backslash: inside a table it would not protect a bar, and an address could still be recognised after it.
    return f"&#{ord(found if isinstance(found, str) else found.group())};"
