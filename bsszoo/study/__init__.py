"""The loop that asks, evaluates and tells, its storage, any number of workers, and the results. No torch."""

from bsszoo.study.leases import Lease
from bsszoo.study.loop import SearchPlan, run_search, trial_rows
from bsszoo.study.result import NetworkRow, ResolvedBudget, Result, TrialRow
from bsszoo.study.storages import StudyAddress, open_storage
from bsszoo.study.workers import run_workers

__all__ = [
    "Lease",
    "NetworkRow",
    "ResolvedBudget",
    "Result",
    "SearchPlan",
    "StudyAddress",
    "TrialRow",
    "open_storage",
    "run_search",
    "run_workers",
    "trial_rows",
]
