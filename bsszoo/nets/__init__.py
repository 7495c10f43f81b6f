"""Networks: timm models of codes. Importing this package registers them with timm."""

from bsszoo.nets import timm_registry as _registration  # noqa: F401 - registers on import
from bsszoo.nets.build import build

__all__ = ["build"]
