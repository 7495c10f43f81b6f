"""The search: candidate sets, the paper's sampler for Optuna, and the loop around it. No torch."""

from bsszoo.search.candidates import CandidateSet
from bsszoo.search.evaluator import Evaluator, FunctionEvaluator, Score, as_evaluator, load_evaluator
from bsszoo.search.feasible import Limits, draw_candidates
from bsszoo.search.result import Budget, CompressResult, EvaluatorInfo, NetworkRow, TrialRow
from bsszoo.search.sampler import AutoBSSSampler
from bsszoo.search.study import SearchPlan, run_search, trial_rows

__all__ = [
    "AutoBSSSampler",
    "Budget",
    "CandidateSet",
    "CompressResult",
    "Evaluator",
    "EvaluatorInfo",
    "FunctionEvaluator",
    "Limits",
    "NetworkRow",
    "Score",
    "SearchPlan",
    "TrialRow",
    "as_evaluator",
    "draw_candidates",
    "load_evaluator",
    "run_search",
    "trial_rows",
]
