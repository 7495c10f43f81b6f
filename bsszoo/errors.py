"""Every error that bsszoo raises on purpose: one base class, each child also a builtin."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Number
from os import PathLike


class BssZooError(Exception):
    """Base of all errors of this package; the text names the value, what is allowed and what to do."""


class CodeError(BssZooError, ValueError):
    """A block stacking style code that is malformed or that no network can have."""


class UnknownNameError(BssZooError, KeyError):
    """A family, a zoo entry or a tag that does not exist."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, which would have escaped quotes.
        return str(self.args[0]) if self.args else ""


class FamilyError(BssZooError, RuntimeError):
    """A family of another distribution that cannot be loaded, or whose name is taken."""


class SpaceError(BssZooError, ValueError):
    """Ranges that describe no search space, or a code that lies outside one."""


class BudgetError(BssZooError, ValueError):
    """A budget that no code meets; the text names the limit that binds and the nearest reachable figure."""


class EvaluationError(BssZooError, RuntimeError):
    """A candidate whose evaluation gave no finite score."""


class SettingsError(BssZooError, ValueError):
    """A run that cannot start: its folder, its storage or a setting cannot be used."""


class RecipeError(BssZooError, ValueError):
    """A training recipe with an unknown key, a wrong type or a value out of range; the text names the key."""


class DataError(BssZooError, ValueError):
    """Images or labels that cannot be used: the text names the file or the folder."""


class RunError(BssZooError, RuntimeError):
    """A run that failed after its start."""


class StoppedError(RunError, RuntimeError):
    """A run that was stopped by ``signal`` (Ctrl-C, SIGTERM) with its progress saved."""

    signal: int = 15


class WeightsError(BssZooError, RuntimeError):
    """Weights that do not exist, cannot be fetched or do not fit the network."""


class AssumptionWarning(UserWarning):
    """Something of a trained network that its file does not say, and that was assumed."""


def formatted(value: object, most: int = 80) -> str:
    """A value for an error message: short texts and plain values as they are, of anything else its type.

    A network, an array or a data frame printed whole would hide the message.
    """
    if value is None or isinstance(value, (Number, PathLike, str, bytes, list, tuple, dict, set)):
        try:
            text = repr(value)
        except Exception:  # a number of thousands of digits, or a value inside that cannot be printed
            text = ""
        if text and len(text) <= most and text.isprintable():
            return text
        if isinstance(value, (str, bytes)) and text:
            return f"{text[: most - 3]}... ({len(value):,} characters)"
    kind = type(value)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"an object ({home}{kind.__qualname__})"


# Of more names than _MOST_NAMED a message lists about _FEW_NAMED.
_MOST_NAMED, _FEW_NAMED = 24, 6


def close_matches(name: str, valid: Iterable[str]) -> str:
    """The end of a sentence that helps with an unknown name: `` Did you mean 'resnet18'?``, or the valid names."""
    names = sorted(valid)
    matches = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    if matches:
        return f" Did you mean {' or '.join(repr(n) for n in matches)}?"
    if len(names) > _MOST_NAMED:
        return f" There are {len(names)}, such as {', '.join(names[:: len(names) // _FEW_NAMED + 1])}."
    return f" Available: {', '.join(names)}."
