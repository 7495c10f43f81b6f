"""Texts from outside: what is parsed stays within bounds, and what is shown holds no terminal command."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bsszoo.texts import one_line, parse_json, parse_yaml, printable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@given(VALUES)
def test_yaml_is_read_as_pyyaml_reads_it(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, f'{{"a": {"9" * 5000}}}', "{"])
def test_json_out_of_bounds_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def alias_bomb(levels: int = 9) -> str:
    """Some hundred bytes that stand for 9 ** levels values."""
    lines = ["a: &b0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{i}: &b{i + 1} [{', '.join([f'*b{i}'] * 9)}]" for i in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        alias_bomb(),
        "[" * 5000,
        "a: &a [*a]",
        f"a: 0x{'f' * 9000}",
        f"a: {'9' * 5000}",
        "a: 2020-13-45",
        "? [a]\n: b",
        "a: !!python/object/apply:os.system ['true']",
        "a\x1b: 1",
    ],
)
def test_yaml_out_of_bounds_is_a_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_yaml_takes_aliases_that_stand_for_little() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


@given(st.text())
def test_what_is_shown_holds_no_control_character(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in shown)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    shown.encode()  # can be printed: no half of a surrogate pair is left


@given(st.text(), st.integers(10, 300))
def test_one_line_is_one_line(text: str, most: int) -> None:
    shown = one_line(text, most)
    assert len(shown.splitlines()) <= 1
    assert len(shown) <= most


def test_plain_words_of_any_language_stay_as_they_are() -> None:
    for text in ("Škoda, 犬, собака, 👩‍🔬", "a b\tc\nd"):
        assert printable(text) == text


def test_commands_to_a_terminal_are_written_out() -> None:
    assert printable("\x1b[2Jx\x07\r\x9b") == r"\x1b[2Jx\x07\r\x9b"
