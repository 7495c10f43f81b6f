"""Compression: search a code under a budget, end to end."""

from bsszoo.compression.events import Event, LogLines
from bsszoo.compression.result import CompressResult
from bsszoo.compression.session import Compression, compress
from bsszoo.options import Budget

__all__ = ["Budget", "CompressResult", "Compression", "Event", "LogLines", "compress"]
