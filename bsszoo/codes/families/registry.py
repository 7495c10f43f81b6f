"""``Families``: the families of this package by name, and those that other installed distributions bring."""

from __future__ import annotations

import re
import warnings
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from bsszoo.codes.families.base import Family
from bsszoo.errors import FamilyError, formatted

#: The group of entry points in which a distribution names its families: ``name = "module:OBJECT"``.
GROUP: Final = "bsszoo.families"
# What follows the name in a code's text: nothing, the widths, or the flat form.
_ENTRIES: Final = re.compile(r"$|_c\d|[^_]|_ *[{\[(\d]")
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


class Families(Mapping[str, Family]):
    """Families by name: the package's own, then those of entry points, sorted.

    Entry points are read when a name is asked for that is not the package's, or all names are; each is imported when
    its family is. One that cannot be imported is left out of ``values`` and ``items`` with a warning, and asking for it
    by name is an error.

    Args:
        own: The package's families.

    Raises:
        FamilyError: Of ``[name]``, a distribution's family that cannot be loaded; of any access that reads entry
            points, a name that two of them have, or one of them and the package.
    """

    def __init__(self, own: Iterable[Family]) -> None:
        self._own = {family.name: family for family in own}
        self._found: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, Family] = {}
        self._errors: dict[str, FamilyError] = {}

    def __getitem__(self, name: str) -> Family:
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            if name in self._errors:
                raise self._errors[name]
            point = self._points()[name]
            try:
                self._loaded[name] = _load(point)
            except FamilyError as error:
                self._errors[name] = error
                raise
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._points()

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._points()

    def __len__(self) -> int:
        return len(self._own) + len(self._points())

    def begins(self, text: str) -> str | None:
        """The longest name that a code's text begins with; None where it begins with none.

        Entry points are not read where one of the package's names is followed by what can only be a code.
        """

        def longest(names: Iterable[str]) -> str | None:
            return max((name for name in names if re.match(f"{name}(?![a-z0-9])", text)), key=len, default=None)

        own = longest(self._own)
        if own is not None and _ENTRIES.match(text[len(own) :]):
            return own
        return longest(self)

    def values(self) -> ValuesView[Family]:
        """The families that can be loaded."""
        return self._all().values()

    def items(self) -> ItemsView[str, Family]:
        """The families that can be loaded, with their names."""
        return self._all().items()

    def _all(self) -> dict[str, Family]:
        out = dict(self._own)
        for name in self._points():
            known = name in self._errors
            try:
                out[name] = self[name]
            except FamilyError as error:
                if not known:
                    warnings.warn(str(error), stacklevel=3)
        return out

    def _points(self) -> dict[str, EntryPoint]:
        """The entry points by name."""
        if self._found is None:
            found: dict[str, EntryPoint] = {}
            for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
                if point.name in self._own or point.name in found:
                    other = "bsszoo itself" if point.name in self._own else _distribution(found[point.name])
                    raise FamilyError(
                        f"The family {point.name!r} of {_distribution(point)} has a name that is taken: {other} has "
                        "one of that name. Rename its entry point, or uninstall it."
                    )
                found[point.name] = point
            self._found = found
        return self._found


def _load(point: EntryPoint) -> Family:
    where = f"The family {formatted(point.name)} of {_distribution(point)}"
    if not _NAME.fullmatch(point.name):
        raise FamilyError(f"{where} has a name that no code's text can begin with: use small letters, digits and _.")
    try:
        family = point.load()
    except Exception as error:  # whatever the module of another distribution does
        text = " ".join(str(error).split())[:300]
        raise FamilyError(
            f"{where} cannot be imported from {point.value!r} ({type(error).__name__}: {text}). Mend or uninstall it."
        ) from error
    if not isinstance(family, Family):
        raise FamilyError(f"{where} is {formatted(family)}; an entry point of {GROUP} names an instance of Family.")
    if family.name != point.name:
        raise FamilyError(f"{where} is named {formatted(family.name)}; its entry point has to have the same name.")
    return family


def _distribution(point: EntryPoint) -> str:
    """The distribution of an entry point, with its version."""
    dist = point.dist
    return f"the distribution {dist.name} {dist.version}" if dist is not None else f"the distribution of {point.value}"
