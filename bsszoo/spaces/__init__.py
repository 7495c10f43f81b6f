"""Which codes keep the limits: search spaces, exact costs of many codes at once, and candidates drawn from them."""

from bsszoo.spaces.candidate_set import CandidateSet
from bsszoo.spaces.cost_array import CostArray, cost_array, depth_array
from bsszoo.spaces.feasible import draw_candidates
from bsszoo.spaces.limits import LatencyFunction, LatencyTable, Limits
from bsszoo.spaces.space import Space

__all__ = [
    "CandidateSet",
    "CostArray",
    "LatencyFunction",
    "LatencyTable",
    "Limits",
    "Space",
    "cost_array",
    "depth_array",
    "draw_candidates",
]
