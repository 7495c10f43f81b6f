"""The main job: search a code under a budget, end to end."""

from bsszoo.compression.plan import Caps
from bsszoo.compression.run import Watcher, compress

__all__ = ["Caps", "Watcher", "compress"]
