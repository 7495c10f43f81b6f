"""The networks by name and by code: resolved, created, loaded, saved.

This package loads neither torch nor timm; ``bsszoo.models.create`` and ``bsszoo.models.build`` do.
"""

from bsszoo.models.names import ModelEntry, entries, find, list_models, resolve_code
from bsszoo.models.resolve import Network, cost, resolve

__all__ = ["ModelEntry", "Network", "cost", "entries", "find", "list_models", "resolve", "resolve_code"]
