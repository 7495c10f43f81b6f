"""Every error that bsszoo raises on purpose: one base class, each child also a builtin."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BssZooError(Exception):
    """Base of all errors of this package; the text says what, what was given, what is allowed and what to do."""


class CodeError(BssZooError, ValueError):
    """A block stacking style code that is malformed or that no network can have."""


class UnknownNameError(BssZooError, KeyError):
    """A family, a zoo entry or a tag that does not exist."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, which would show a person escaped quotes.
        return str(self.args[0]) if self.args else ""


class SpaceError(BssZooError, ValueError):
    """Ranges that describe no search space, or a code that lies outside one."""


class BudgetError(BssZooError, ValueError):
    """A budget that no code meets; the text names the limit that binds and the nearest reachable figure."""


class EvaluationError(BssZooError, RuntimeError):
    """A candidate whose evaluation gave no finite score."""


class SettingsError(BssZooError, ValueError):
    """A run that cannot start as asked: its folder, its storage or a setting stands in the way."""


class RecipeError(BssZooError, ValueError):
    """A training recipe with an unknown key, a wrong type or a value out of range; the text names the key."""


class DataError(BssZooError, ValueError):
    """Images or labels that cannot be used: the text names the file or the folder."""


class RunError(BssZooError, RuntimeError):
    """A run that started and could not end well."""


class StoppedError(RunError, RuntimeError):
    """A run that was told to stop (Ctrl-C, SIGTERM) and kept everything; ``signal`` is the one that told it."""

    signal: int = 15


class WeightsError(BssZooError, RuntimeError):
    """Weights that do not exist, cannot be fetched or do not fit the network."""


def close_matches(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that helps with an unknown name: `` Did you mean 'resnet18'?``, or all known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    if near:
        return f" Did you mean {' or '.join(repr(n) for n in near)}?"
    return f" Known: {', '.join(names)}."
