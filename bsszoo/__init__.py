"""bsszoo: a model zoo and compression tool for convolutional networks, by the stacking of their blocks.

``import bsszoo`` loads neither torch nor timm; each public name loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bsszoo.version import __version__

if TYPE_CHECKING:
    from bsszoo.codes.code import Code as Code
    from bsszoo.codes.cost import Cost as Cost
    from bsszoo.compression.session import compress as compress
    from bsszoo.errors import BssZooError as BssZooError
    from bsszoo.models.create import create as create
    from bsszoo.models.names import list_models as list_models
    from bsszoo.models.resolve import cost as cost
    from bsszoo.spaces.space import Space as Space


_HOME = {
    "BssZooError": "bsszoo.errors",
    "Code": "bsszoo.codes.code",
    "Cost": "bsszoo.codes.cost",
    "Space": "bsszoo.spaces.space",
    "compress": "bsszoo.compression.session",
    "cost": "bsszoo.models.resolve",
    "create": "bsszoo.models.create",
    "list_models": "bsszoo.models.names",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'bsszoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
