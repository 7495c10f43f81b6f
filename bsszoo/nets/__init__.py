"""Importing this package registers every network, and ``bsszoo_code`` for any other code, with timm."""

from bsszoo.models import timm_registry as _registration  # noqa: F401 - registers on import
from bsszoo.models.build import build

__all__ = ["build"]
