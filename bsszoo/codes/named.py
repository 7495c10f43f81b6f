"""The named codes: every network of the paper's tables, read from ``bsszoo/models/entries.json``, and the
networks that the families list as published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, code_cost
from bsszoo.codes.families import FAMILIES, Published
from bsszoo.errors import FamilyError


@dataclass(frozen=True, slots=True)
class Printed:
    """What the paper prints for one network: the table, the code as printed, and its two figures as text."""

    place: str
    code: str
    macs: str
    params: str


@dataclass(frozen=True, slots=True)
class WeightTag:
    """One set of weights of an entry: its tag, the Hub repository and whether anything was published there.

    ``sha256`` is the checksum of the weights' file (hexadecimal), None where none is recorded.
    """

    tag: str
    repository: str
    published: bool
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One network of the zoo.

    ``cost`` is exact, at the code's image size, with 1000 classes and 3 input channels; ``stored`` is that of the
    paper's networks, others are counted on access. ``timm`` is timm's name of the same architecture, None for the
    searched codes. ``paper`` is None for a network outside its tables. The first of ``tags`` is the default.
    """

    name: str
    title: str
    code: Code
    stored: Cost | None
    paper: Printed | None
    notes: tuple[str, ...]
    timm: str | None
    tags: tuple[WeightTag, ...]

    @property
    def cost(self) -> Cost:
        """What the network costs."""
        return self.stored or code_cost(self.code)

    @property
    def architecture(self) -> str:
        """The network's name in timm once ``bsszoo.nets`` is imported."""
        return self.timm or self.name

    @property
    def published(self) -> bool:
        """True when weights of at least one tag can be fetched."""
        return any(tag.published for tag in self.tags)


@cache
def named_entries() -> Mapping[str, ModelEntry]:
    """All entries by name: those of the paper in the order of its tables, then the families' others."""
    text = files("bsszoo").joinpath("models").joinpath("entries.json").read_text(encoding="utf-8")
    made = [_entry(data) for data in json.loads(text)["entries"]]
    made += [
        _published(family.name, name, network)
        for family in FAMILIES.values()
        for name, network in family.published.items()
    ]
    out: dict[str, ModelEntry] = {}
    for entry in made:
        if entry.name in out:
            raise FamilyError(
                f"The family {entry.code.family!r} lists a network {entry.name!r}, a name that is taken: the family "
                f"{out[entry.name].code.family!r} has one of that name."
            )
        out[entry.name] = entry
    return MappingProxyType(out)


@cache
def aliases() -> Mapping[str, str]:
    """The names of entries by their short names."""
    pairs = ((network.alias, name) for family in FAMILIES.values() for name, network in family.published.items())
    return MappingProxyType({alias: name for alias, name in pairs if alias})


@cache
def entry_of(code: Code) -> ModelEntry | None:
    """The entry with exactly this code, or None."""
    return next((entry for entry in named_entries().values() if entry.code == code), None)


def _entry(data: Mapping[str, Any]) -> ModelEntry:
    return ModelEntry(
        name=data["name"],
        title=data["title"],
        code=Code.parse(data["code"]),
        stored=Cost(**data["cost"]),
        paper=Printed(**data["paper"]),
        notes=tuple(data["notes"]),
        timm=data["timm"],
        tags=tuple(WeightTag(**tag) for tag in data["tags"]),
    )


def _published(family: str, name: str, network: Published) -> ModelEntry:
    code = Code.from_entries(family, network.entries, form=network.form, **dict[str, Any](network.fixed))
    tags = tuple(WeightTag(tag, f"timm/{name}.{tag}", published=True) for tag in network.tags)
    return ModelEntry(name, network.title, code, None, None, (), name if network.timm else None, tags)
