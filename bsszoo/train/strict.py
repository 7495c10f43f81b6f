"""Strict reading of nested mappings as frozen dataclasses: every key, type and range is checked, and named if wrong.

A dataclass says what a key takes: its type hint, and by ``bounded`` or ``choice`` its range. The same description
checks a YAML file, an override on the command line (``optim.lr=0.35``) and a value given in Python.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from bsszoo.errors import RecipeError, close_matches
from bsszoo.texts import one_line, parse_yaml

Tree = TypeVar("Tree")


def bounded(
    default: Any = MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> Any:
    """A dataclass field that holds numbers from ``low`` to ``high`` (or, when open, strictly between)."""
    bounds = (low, high, open_low, open_high)
    return (
        field(metadata={"bounds": bounds})
        if default is MISSING
        else field(default=default, metadata={"bounds": bounds})
    )


def choice(default: Any, *allowed: str) -> Any:
    """A dataclass field that holds one of some words."""
    return field(default=default, metadata={"choices": allowed})


def read_tree(kind: type[Tree], data: object, *, where: str = "", source: str = "") -> Tree:
    """The dataclass tree that nested mappings describe.

    Args:
        kind: The dataclass of the root.
        data: Mappings of mappings, as YAML gives them.
        where: The path of ``data`` in the whole, for messages.
        source: The name of the file, for messages.

    Raises:
        RecipeError: An unknown or missing key, a wrong type or a value out of range; the text names the key, what was
            given and what is allowed.
    """
    prefix = f"{source}: " if source else ""
    if not isinstance(data, Mapping):
        raise RecipeError(
            f"{prefix}{where or 'The file'} holds {_shown(data)}; it takes the keys "
            f"{', '.join(f.name for f in fields(kind))}."  # type: ignore[arg-type]
        )
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise RecipeError(f"{prefix}there is no key {_joined(where, str(key))!r}.{close_matches(str(key), known)}")
    values: dict[str, Any] = {}
    for name, entry in known.items():
        path = _joined(where, name)
        if name in data:
            values[name] = _value(hints[name], data[name], path, entry.metadata, prefix, source)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise RecipeError(f"{prefix}the key {path!r} is missing.")
    return kind(**values)


def check_tree(tree: object) -> None:
    """Check a tree that was built in Python as one that was read; ``RecipeError`` as ``read_tree``."""
    read_tree(type(tree), as_mapping(tree))


def as_mapping(tree: Any) -> dict[str, Any]:
    """The nested mapping of a tree, plain enough for YAML and JSON: tuples become lists."""
    out: dict[str, Any] = {}
    for entry in fields(tree):
        value = getattr(tree, entry.name)
        if is_dataclass(value) and not isinstance(value, type):
            value = as_mapping(value)
        out[entry.name] = list(value) if isinstance(value, tuple) else value
    return out


def override(data: Mapping[str, Any], kind: type, assignments: Sequence[str]) -> dict[str, Any]:
    """Nested mappings with ``key.key=value`` assignments applied; the values are read as YAML.

    Raises:
        RecipeError: No ``=``, an unknown key, a value that is no YAML, or one that names a whole section.
    """
    result: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in data.items()}
    for text in assignments:
        path, equals, written = text.partition("=")
        if not equals:
            raise RecipeError(f"--set takes KEY=VALUE, such as optim.lr=0.35; given was {text!r}.")
        path = path.strip()
        if path not in (known := list(paths(kind))):
            raise RecipeError(f"There is no key {path!r} to set.{close_matches(path, known)}")
        text_key = _hint_at(kind, path) in (str, str | None)
        try:
            value = parse_yaml(written)
        except yaml.YAMLError as error:
            if not text_key:
                raise RecipeError(f"--set {path}: {written!r} is no YAML value: {_one_line(error)}") from None
            value = written
        # A text that YAML takes for something else, such as {split}/file.json, is meant as it stands.
        value = written if text_key and value is not None and not isinstance(value, str) else value
        section: Any = result
        *above, last = path.split(".")
        for part in above:
            inner = section.get(part)
            section[part] = dict(inner) if isinstance(inner, Mapping) else {}
            section = section[part]
        section[last] = value
    return result


def _hint_at(kind: Any, path: str) -> Any:
    for part in path.split("."):
        kind = get_type_hints(kind)[part]
    return kind


def paths(kind: type, where: str = "") -> Iterator[str]:
    """The dotted paths of all values of a dataclass tree."""
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        if is_dataclass(hint):
            yield from paths(hint, _joined(where, entry.name))  # type: ignore[arg-type]
        else:
            yield _joined(where, entry.name)


def load_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML text holds.

    Raises:
        RecipeError: No YAML, a key given twice, or something else than a mapping.
    """
    try:
        data = parse_yaml(text, _NoDuplicates)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is no YAML file: {_one_line(error)}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{source} holds {_shown(data)}; a recipe holds sections of keys.")
    return data


class _NoDuplicates(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a recipe must not."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        result: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return result


def _value(hint: Any, given: Any, path: str, metadata: Mapping[str, Any], prefix: str, source: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return read_tree(hint, given, where=path, source=source)
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if given is None and type(None) in kinds:
        return None
    kind = next(k for k in kinds if k is not type(None))
    value = _typed(kind, given)
    if value is None:
        none = " or null" if type(None) in kinds else ""
        raise RecipeError(f"{prefix}{path} is {_shown(given)}; it takes {_name(kind)}{none}.")
    for number in value if isinstance(value, tuple) else (value,):
        _check_range(number, path, metadata, prefix)
    return value


def _typed(kind: Any, given: Any) -> Any:
    """The value as the kind, or None where it is none of that kind."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(given, (list, tuple)) or (inner[-1] is not Ellipsis and len(given) != len(inner)):
            return None
        parts = [_typed(inner[0], v) for v in given]
        return None if any(p is None for p in parts) else tuple(parts)
    if kind is float:
        # YAML 1.1 reads 4e-5 (no dot) as text; nobody who writes it means a text.
        if isinstance(given, str) and "e" in given.lower():
            try:
                given = float(given)
            except ValueError:
                return None
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            return None
        try:
            number = float(given)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    if kind is int:
        return given if isinstance(given, int) and not isinstance(given, bool) else None
    return given if isinstance(given, kind) else None


def _check_range(value: Any, path: str, metadata: Mapping[str, Any], prefix: str) -> None:
    allowed = metadata.get("choices")
    if allowed and value not in allowed:
        raise RecipeError(f"{prefix}{path} is {value!r}; allowed are {', '.join(map(repr, allowed))}.")
    low, high, open_low, open_high = metadata.get("bounds", (-math.inf, math.inf, False, False))
    if value in (None, "") or isinstance(value, (str, bool)):
        return
    if not (low < value if open_low else low <= value) or not (value < high if open_high else value <= high):
        least = "" if low == -math.inf else f"{'more than' if open_low else 'at least'} {low:g}"
        most = "" if high == math.inf else f"{'less than' if open_high else 'at most'} {high:g}"
        raise RecipeError(f"{prefix}{path} is {value}; allowed is {' and '.join(p for p in (least, most) if p)}.")


def _name(kind: Any) -> str:
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        count = "a list of" if inner[-1] is Ellipsis else f"a list of {len(inner)}"
        return f"{count} {_name(inner[0]).split(' ', 1)[-1]}s"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}.get(kind, str(kind))


def _shown(value: object) -> str:
    kinds = {str: "the text ", bool: "", Mapping: "", list: "the list "}
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return "nothing (null)" if value is None else kinds.get(type(value), "") + one_line(text, 100)


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _one_line(error: yaml.YAMLError) -> str:
    return one_line(error, 400)
