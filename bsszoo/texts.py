"""Texts from outside (files, repositories, studies): parsed within bounds, and made safe to print."""

from __future__ import annotations

import json
import unicodedata
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

# Digits of the longest integer that is read: enough for 64 bits, so that none is too large for a float.
_DIGITS: Final = 20
# Nested objects and lists: far below Python's recursion limit, so that a value can be walked recursively.
_DEPTH: Final = 100
# Values that a YAML text may hold with its aliases written out. A recipe has about 60, a model card some hundreds.
_VALUES: Final = 20_000
# Characters that move the cursor, start a terminal's commands, end a line, or turn the direction of reading.
_UNSAFE_KINDS: Final = {"Cc", "Cs", "Zl", "Zp"}
_TURNING: Final = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: It is no JSON, is nested deeper than 100 levels, or has an integer of more than 20 digits.
    """
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _is_deep(value):
        raise ValueError("it is nested too deeply")
    return value


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value that a YAML text holds.

    Args:
        text: One document.
        loader: A loader that makes plain values only.

    Raises:
        yaml.YAMLError: It is no YAML, is nested too deeply, or holds more than 20,000 values once its aliases are
            written out: some hundred bytes of aliases can stand for more than any memory holds.
    """
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        if _values_of(node, {}) > _VALUES:
            raise yaml.YAMLError(f"it holds more than {_VALUES:,} values when its aliases are written out")
        value = reader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply, or an alias stands inside what it names") from None
    except (ValueError, OverflowError, TypeError, AttributeError) as error:  # dates and numbers out of any range
        raise yaml.YAMLError(f"a value in it cannot be read: {str(error).splitlines()[0]}") from None
    finally:
        reader.dispose()
    if _is_deep(value):
        raise yaml.YAMLError("it is nested too deeply")
    _refuse_long_numbers(value)
    return value


def one_line(value: object, most: int = 200) -> str:
    """A value from outside as part of a sentence: one line of at most ``most`` characters, none a command."""
    text = printable(" ".join(str(value)[: 4 * most].split()))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    """A text without terminal commands: control characters (but line ends and tabs) are written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _unsafe(c) else ascii(c)[1:-1] for c in text)


def _unsafe(character: str) -> bool:
    return character in _TURNING or unicodedata.category(character) in _UNSAFE_KINDS


def _whole_number(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"it has a whole number of {len(digits):,} digits")
    return int(digits)


def _is_deep(value: Any) -> bool:
    containers = (dict, list, tuple)
    level = [value] if isinstance(value, containers) else []
    for _ in range(_DEPTH):
        # The next level has containers only: annotations of images are millions of numbers.
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, containers)
        ]
        if not level:
            return False
    return True


def _values_of(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node stands for; each node is counted once, so aliases cost nothing."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise yaml.YAMLError("an alias stands inside what it names")
        return counts[id(node)]
    counts[id(node)] = 0
    inside = (
        []
        if isinstance(node, yaml.ScalarNode)
        else ([n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value)
    )
    counts[id(node)] = 1 + sum(_values_of(n, counts) for n in inside)
    return counts[id(node)]


def _refuse_long_numbers(value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > 64:
        raise yaml.YAMLError(f"it has a whole number of {value.bit_length():,} bits")
    for inner in (
        value if isinstance(value, (list, tuple, set)) else (*value, *value.values()) if isinstance(value, dict) else ()
    ):
        _refuse_long_numbers(inner)


def inner_path(text: object, what: str) -> PurePosixPath:
    """A relative path that does not leave its folder; a ``ValueError`` that names ``what`` for anything else."""
    path = PurePosixPath(text) if isinstance(text, str) else None
    if path is None or path.is_absolute() or ".." in path.parts or "\\" in str(path):
        raise ValueError(f"{what} is {one_line(str(text), 80)!r}, which is outside the run")
    return path
