"""How the next code is chosen: the paper's sampler and a default one for Optuna, and their candidates. No torch."""

from bsszoo.search.default_mode import Leader
from bsszoo.search.history import replicate_of
from bsszoo.search.pruning import HalvingPruner
from bsszoo.search.sampler import AutoBSSSampler
from bsszoo.spaces import CandidateSet, LatencyFunction, LatencyTable, Limits, draw_candidates

__all__ = [
    "AutoBSSSampler",
    "CandidateSet",
    "HalvingPruner",
    "LatencyFunction",
    "LatencyTable",
    "Leader",
    "Limits",
    "draw_candidates",
    "replicate_of",
]
