"""The model zoo: named codes, their figures and their weights.

This package loads neither torch nor timm; ``bsszoo.zoo.registry`` (``create``) and ``bsszoo.zoo.weights`` do.
"""

from bsszoo.zoo.entry import ModelEntry, cost, entries, find, list_models, resolve_code

__all__ = ["ModelEntry", "cost", "entries", "find", "list_models", "resolve_code"]
