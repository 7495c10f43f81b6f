"""Recipes are read strictly: pydantic checks every key, type and range, and what is wrong is named in one line.

The same checks hold for a YAML file, an override on the command line (``optim.lr=0.35``) and a value in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator

from bsszoo.errors import BssZooError, RecipeError, close_matches
from bsszoo.texts import one_line, parse_yaml

_TEXT = (str, str | None)


class Section(BaseModel, frozen=True, strict=True, extra="forbid", allow_inf_nan=False):
    """A recipe, or a part of it: frozen, and checked however it is made.

    Raises:
        RecipeError: An unknown or missing key, a wrong type or a value out of range; the text names the key, its
            value and what is allowed.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _named(type(self), values, error, "") from None

    # Sections inside a recipe are read with it, so that an error names the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("*", mode="before")
    @classmethod
    def _meant(cls, value: object, info: ValidationInfo) -> object:
        """The value that YAML's text means: it has no tuples, and YAML 1.1 reads 4e-5 (no dot) as a text."""
        if isinstance(value, list):
            return tuple(cls._meant(v, info) for v in value)
        if (
            isinstance(value, str)
            and "e" in value.lower()
            and cls.model_fields[str(info.field_name)].annotation not in _TEXT
        ):
            with suppress(ValueError):
                return float(value)
        return value

    def replaced(self: Tree, **values: Any) -> Tree:
        """A copy with other values, checked; ``RecipeError`` as the class."""
        return type(self)(**{**dict(self), **values})


Tree = TypeVar("Tree", bound=Section)


def read_tree(kind: type[Tree], data: object, *, source: str = "") -> Tree:
    """The tree of sections that nested mappings describe.

    Args:
        kind: The class of the root.
        data: Mappings of mappings, as YAML gives them.
        source: The name of the file, for messages.

    Raises:
        RecipeError: As ``Section``.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _named(kind, data, error, f"{source}: " if source else "") from None


def as_mapping(tree: Section) -> dict[str, Any]:
    """The nested mapping of a tree, plain enough for YAML and JSON: tuples become lists."""
    return tree.model_dump(mode="json")


def override(data: Mapping[str, Any], kind: type[Section], assignments: Sequence[str]) -> dict[str, Any]:
    """Nested mappings with ``key.key=value`` assignments applied; the values are read as YAML.

    Raises:
        RecipeError: No ``=``, an unknown key, a value that is no YAML, or one that names a whole section.
    """
    result: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in data.items()}
    for text in assignments:
        path, equals, written = text.partition("=")
        if not equals:
            raise RecipeError(f"--set takes KEY=VALUE, such as optim.lr=0.35; got {text!r}.")
        path = path.strip()
        if path not in (types := dict(_values(kind))):
            raise RecipeError(f"There is no key {path!r} to set.{close_matches(path, types)}")
        text_key = types[path] in _TEXT
        # data.mean=0.5,0.5,0.5 is meant as a list.
        listed = get_origin(types[path]) is tuple and not written.lstrip().startswith(("[", "-"))
        try:
            value = parse_yaml(f"[{written}]" if listed else written)
        except yaml.YAMLError as error:
            if not text_key:
                raise RecipeError(f"--set {path}: {written!r} is no YAML value: {one_line(error, 400)}") from None
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


def paths(kind: type[Section]) -> list[str]:
    """The dotted paths of all values of a tree."""
    return [path for path, _ in _values(kind)]


def _values(kind: type[Section], where: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and the type of each value."""
    for name, field in kind.model_fields.items():
        if (inner := _section(kind, name)) is not None:
            yield from _values(inner, f"{where}{name}.")
        else:
            yield f"{where}{name}", field.annotation


def _section(kind: type[Section], name: str) -> type[Section] | None:
    """The class of a key that holds a section."""
    hint = kind.model_fields[name].annotation
    return hint if isinstance(hint, type) and issubclass(hint, Section) else None


def load_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML text holds.

    Raises:
        RecipeError: No YAML, a duplicate key, or something else than a mapping.
    """
    try:
        data = parse_yaml(text, _NoDuplicates)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is no YAML file: {one_line(error, 400)}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{source} holds {_display(data)}; a recipe holds sections of keys.")
    return data


class _NoDuplicates(yaml.SafeLoader):
    """Refuses a duplicate key, of which PyYAML silently takes the last value."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice", key.start_mark
                )
            seen.add(key.value)
        result: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return result


def _named(kind: type[Section], values: Any, error: ValidationError, prefix: str) -> BssZooError:
    """The first error that pydantic reports, in one line; a misspelt key comes before the one that it is missing as."""
    unknown = ("extra_forbidden", "invalid_key")
    fault = min(error.errors(include_url=False), key=lambda e: e["type"] not in unknown)
    raised = fault.get("ctx", {}).get("error")
    if isinstance(raised, BssZooError):  # of values that contradict each other
        return raised
    path = ""
    for name in map(str, fault["loc"]):
        path += f".{name}" if path else name
        if fault["type"] in unknown and name not in kind.model_fields:
            return RecipeError(f"{prefix}there is no key {path!r}.{close_matches(name, kind.model_fields)}")
        if isinstance(values, Mapping) and name not in values:
            return RecipeError(f"{prefix}the key {path!r} is missing.")
        values = values[name] if isinstance(values, Mapping) else getattr(values, name)
        inner = _section(kind, name)
        if inner is None:  # inside a value it has no key
            return RecipeError(f"{prefix}{path} is {_display(values)}; {_allowed(kind, name, fault['type'])}.")
        kind = inner
    return RecipeError(
        f"{prefix}{path or 'The file'} holds {_display(values)}; it takes the keys {', '.join(kind.model_fields)}."
    )


def _allowed(kind: type[Section], name: str, fault: str) -> str:
    """What a value may be, from the JSON schema of its section."""
    schema = kind.model_json_schema()["properties"][name]
    null = " or null" if "anyOf" in schema else ""
    schema = schema["anyOf"][0] if null else schema
    if fault == "literal_error":
        return f"allowed are {', '.join(map(repr, schema['enum']))}"
    part = schema.get("items") or schema.get("prefixItems", [schema])[0]
    if fault.startswith(("greater", "less")):
        limits = {
            "exclusiveMinimum": "more than",
            "minimum": "at least",
            "exclusiveMaximum": "less than",
            "maximum": "at most",
        }
        return f"allowed is {' and '.join(f'{word} {part[key]:,}' for key, word in limits.items() if key in part)}"
    kinds = {"number": "a number", "integer": "a whole number", "string": "a text", "boolean": "true or false"}
    if schema["type"] == "array":
        count = f" {schema['maxItems']}" if "maxItems" in schema else ""
        return f"it takes a list of{count} {kinds[part['type']].removeprefix('a ')}s{null}"
    return f"it takes {kinds[schema['type']]}{null}"


def _display(value: object) -> str:
    if value is None:
        return "nothing (null)"
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    kinds: dict[type, str] = {str: "the text ", list: "the list "}
    return kinds.get(type(value), "") + one_line(text, 100)
