"""Who evaluates: the loop that asks, evaluates and tells, its storage, any number of workers, the results. No torch."""

from bsszoo.evaluators.base import Evaluator, EvaluatorInfo, FunctionEvaluator, Score, as_evaluator, load_evaluator
from bsszoo.study.crew import StudyAddress
from bsszoo.study.leases import Lease
from bsszoo.study.loop import SearchPlan, run_search, trial_rows
from bsszoo.study.result import Budget, CompressResult, NetworkRow, TrialRow
from bsszoo.study.storages import open_storage
from bsszoo.study.workers import run_workers

__all__ = [
    "Budget",
    "CompressResult",
    "Evaluator",
    "EvaluatorInfo",
    "FunctionEvaluator",
    "Lease",
    "NetworkRow",
    "Score",
    "SearchPlan",
    "StudyAddress",
    "TrialRow",
    "as_evaluator",
    "load_evaluator",
    "open_storage",
    "run_search",
    "run_workers",
    "trial_rows",
]
