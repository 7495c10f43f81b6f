"""What codes keep the limits: limits, latency tables, and the sets of codes that a search chooses from. No torch."""

from bsszoo.candidates.candidate_set import CandidateSet
from bsszoo.candidates.feasible import draw_candidates
from bsszoo.candidates.latency import LatencyFunction, LatencyTable
from bsszoo.candidates.limits import Limits

__all__ = ["CandidateSet", "LatencyFunction", "LatencyTable", "Limits", "draw_candidates"]
