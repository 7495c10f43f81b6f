"""Importing this package registers every network, and ``bsszoo_code`` for any other code, with timm."""

from bsszoo.models.build import build

__all__ = ["build"]
