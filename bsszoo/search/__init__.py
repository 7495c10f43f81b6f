"""How the next code is chosen: the paper's sampler and ours for Optuna, and what they choose from. No torch."""

from bsszoo.candidates import CandidateSet, LatencyFunction, LatencyTable, Limits, draw_candidates
from bsszoo.search.sampler import AutoBSSSampler

__all__ = ["AutoBSSSampler", "CandidateSet", "LatencyFunction", "LatencyTable", "Limits", "draw_candidates"]
