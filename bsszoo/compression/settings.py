"""What makes a run the same run, the folder that is named after it, and the versions that it depends on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bsszoo.codes.code import Code
from bsszoo.compression.plan import Caps, Plan
from bsszoo.compression.storage import Sharing, shown
from bsszoo.evaluators.base import Evaluator, digest
from bsszoo.files import plain_name
from bsszoo.report.figures import human
from bsszoo.study.result import Budget

if TYPE_CHECKING:
    from bsszoo.search.sampler import Mode


def settings_of(
    title: str,
    reference: Code,
    budget: Budget,
    judge: Evaluator,
    batch: int,
    seed: int,
    plan: Plan,
    caps: Caps,
    sharing: Sharing,
    search: Mode,
) -> dict[str, Any]:
    """What makes a run the same run: everything that its codes and scores depend on, but the number of trials."""
    return {
        "network": title,
        "code": str(reference),
        "macs": budget.macs,
        "min_macs": budget.min_macs,
        "params": budget.params,
        "activations": budget.activations,
        "evaluator": judge.info.name,
        "evaluator_source": digest(judge),
        "batch": batch,
        "seed": seed,
        "scale": plan.scale,
        "caps": {
            "depth": caps.depth,
            "stage_depth": caps.stage_depth,
            "params": None if caps.params is None else list(caps.params),
        },
        "candidates": hashlib.sha256(plan.candidates.codes.tobytes()).hexdigest()[:16],
        "search": search,
        "storage": None if sharing.storage is None else shown(sharing.storage),
        "study": sharing.study,
        **({} if plan.space.head is None else {"head": asdict(plan.space.head)}),
    }


def folder_name(title: str, budget: Budget, judge: Evaluator, seed: int, settings: Mapping[str, Any]) -> str:
    """A readable name, different for settings that differ, so that trying another budget starts another run."""
    words = [title[:40], human(budget.macs), judge.info.name.replace(":", "."), f"seed{seed}"]
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return "_".join(plain_name(w) for w in (*words, mark))


def versions_of() -> dict[str, str]:
    """Versions of what a result depends on, read without importing any of it."""
    from importlib.metadata import version

    from bsszoo.version import __version__

    names = ("optuna", "numpy", "scipy", "torch", "timm")
    return {"bsszoo": __version__, "python": platform.python_version(), **{n: version(n) for n in names}}
