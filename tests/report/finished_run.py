"""Finished runs made up from real codes, for the tests of the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bsszoo.codes import Code, code_cost, family_of
from bsszoo.evaluators.base import EvaluatorInfo
from bsszoo.spaces import Space
from bsszoo.study.result import NetworkRow, ResolvedBudget, Result, TrialRow

CAUTION = "This score is a heuristic, not an accuracy: nothing was trained."


def example_run(
    family: str = "mobilenetv2",
    *,
    trials: int = 12,
    batch: int = 4,
    failed: tuple[int, ...] = (5,),
    found: int = 3,
    latency: bool = True,
    controls_scored: bool = True,
) -> Result:
    """A run over random codes of a family's grid at 0.6, with made-up scores."""
    rng = np.random.default_rng(7)
    space = Space.of(family).scaled(0.6)
    rows = []
    for i, row in enumerate(space.sample(trials, rng)):
        code = space.code([int(v) for v in row])
        score = None if i in failed else float(rng.normal())
        error = None if score is not None else "ValueError: the function gave nan"
        state = "failed" if score is None else "complete"
        rows.append(TrialRow(i, code, code_cost(code), score, state, 0.25, i // batch, error))  # type: ignore[arg-type]
    best = sorted((t for t in rows if t.score is not None), key=lambda t: -(t.score or 0.0))[:found]
    networks = [
        NetworkRow(label, role, code, code_cost(code), s if controls_scored else None, 20.5 if latency else None)
        for label, role, code, s in (
            ("original", "original", original(family), 1.25),
            ("uniform", "uniform", space.template, -0.5),
        )
    ]
    networks += [
        NetworkRow(f"found {i}", "found", t.code, t.cost, t.score, 10.25 if latency else None)
        for i, t in enumerate(best, 1)
    ]
    return Result(
        family=family,
        reference=family,
        budget=ResolvedBudget(max(t.cost.macs for t in rows) + 1_000_000),
        evaluator=EvaluatorInfo("structural", "z(log depth) + z(log params) + z(log activations)", CAUTION),
        seed=3,
        scale=0.6,
        candidates=12_345,
        caps=("total depth at most 78",),
        notes=("1 of 12 trials failed",),
        networks=tuple(networks),
        trials=tuple(rows),
        seconds=101.3,
        versions={"bsszoo": "0.1.0", "python": "3.12.1"},
    )


def original(family: str) -> Code:
    """The published network of a family."""
    data = family_of(family)
    depth = {"stage2_depth": data.original_stage2_depth} if data.stage2 else {}
    return Code.from_entries(family, data.original, **depth)


def with_text(run: Result, text: str) -> Result:
    """A run that carries a text everywhere a user or an evaluator can put one."""
    return replace(
        run,
        reference=text,
        evaluator=EvaluatorInfo(text, text, text),
        caps=(text,),
        notes=(text,),
        versions={text: text},
        networks=tuple(replace(n, label=text) for n in run.networks),
        trials=tuple(t if t.error is None else replace(t, error=text) for t in run.trials),
    )
