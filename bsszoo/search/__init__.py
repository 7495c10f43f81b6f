"""The search: candidate sets, the paper's sampler for Optuna, and the loop around it. No torch."""

from bsszoo.search.candidates import CandidateSet
from bsszoo.search.evaluator import Evaluator, FunctionEvaluator, Score, as_evaluator, load_evaluator
from bsszoo.search.feasible import draw_candidates
from bsszoo.search.latency import LatencyFunction, LatencyTable
from bsszoo.search.leases import Lease
from bsszoo.search.limits import Limits
from bsszoo.search.result import Budget, CompressResult, EvaluatorInfo, NetworkRow, TrialRow
from bsszoo.search.sampler import AutoBSSSampler
from bsszoo.search.storages import open_storage
from bsszoo.search.study import SearchPlan, run_search, trial_rows
from bsszoo.search.workers import StudyAddress, run_workers

__all__ = [
    "AutoBSSSampler",
    "Budget",
    "CandidateSet",
    "CompressResult",
    "Evaluator",
    "EvaluatorInfo",
    "FunctionEvaluator",
    "LatencyFunction",
    "LatencyTable",
    "Lease",
    "Limits",
    "NetworkRow",
    "Score",
    "SearchPlan",
    "StudyAddress",
    "TrialRow",
    "as_evaluator",
    "draw_candidates",
    "load_evaluator",
    "open_storage",
    "run_search",
    "run_workers",
    "trial_rows",
]
