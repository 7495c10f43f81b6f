"""The networks by name and by code: resolved, created, loaded, kept.

This package loads neither torch nor timm; ``bsszoo.models.create`` and ``bsszoo.models.build`` do.
"""

from bsszoo.models.names import ModelEntry, cost, entries, find, list_models, resolve_code

__all__ = ["ModelEntry", "cost", "entries", "find", "list_models", "resolve_code"]
