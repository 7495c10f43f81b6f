"""From a budget to what is searched: the scale of the grid, the uniformly rescaled control, caps, candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bsszoo.codes.code import Code
from bsszoo.codes.cost import code_cost, depth
from bsszoo.codes.families import family_of
from bsszoo.codes.scaling import MIN_SCALE, fit_scale, uniform_code
from bsszoo.codes.space import Space
from bsszoo.errors import BudgetError
from bsszoo.report.figures import human
from bsszoo.search.candidates import CandidateSet
from bsszoo.search.feasible import Limits, draw_candidates
from bsszoo.search.result import Budget

#: Candidates drawn for a search, unless fewer codes are feasible.
CANDIDATES = 20_000

# Drawn at most, which few budgets need: about ten seconds.
_MOST_DRAWS = 8_000_000


@dataclass(frozen=True, slots=True)
class Caps:
    """How far a candidate may go from the uniformly rescaled network; None leaves a direction open.

    ``depth`` and ``stage_depth`` are multiples of its depth (convolutions on the main path) and of each stage's number
    of blocks; ``params`` the least and largest multiple of its parameters.
    """

    depth: float | None = None
    stage_depth: float | None = None
    params: tuple[float, float] | None = None


#: For the structural score, whose maximum runs to extremes.
STRUCTURAL_CAPS = Caps(depth=1.5, stage_depth=2.0, params=(0.85, 1.25))


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run searches, and what it will say about it."""

    reference: Code
    uniform: Code
    scale: float
    budget: Budget
    space: Space
    limits: Limits
    candidates: CandidateSet
    caps: tuple[str, ...]
    notes: tuple[str, ...]


def make_plan(
    reference: Code,
    budget: Budget,
    *,
    caps: Caps,
    seed: int,
    scale: float | None = None,
    candidates: int = CANDIDATES,
    strict: bool = False,
) -> Plan:
    """Candidates under a budget, drawn uniformly among the feasible codes.

    Args:
        reference: The network to compress; its family gives the space.
        budget: Hard limits on MACs and parameters.
        caps: How far candidates may go from the uniformly rescaled network; given up, with a note, where nothing is
            left inside.
        seed: Seed of the draw.
        scale: Scale of the grid; by default the uniform width multiplier at which the family's original meets the
            budget, at most 1 (section B.2.2's own grid).
        candidates: How many to draw.
        strict: The caps were asked for: where nothing is left inside them, fail instead of giving one up.

    Raises:
        BudgetError: No code of the space meets the budget; the text names the limit that binds and the nearest
            reachable figure.
    """
    family = family_of(reference.family)
    base = replace(Space.of(family.name), image_size=reference.image_size, stride_in=reference.stride_in)
    if scale is None:
        original = replace(Code.from_entries(family.name, family.original), image_size=reference.image_size,
                           stride_in=reference.stride_in)
        fitted = fit_scale(original, budget.macs)
        scale = MIN_SCALE if fitted is None else min(1.0, fitted)
    # At scale 1 too: a stem or stage 2 never is the reference's own but the grid's, so that all codes share it.
    space = base.scaled(scale)
    _check_reachable(space, budget)

    fit = fit_scale(reference, budget.macs, budget.params)
    uniform = uniform_code(reference, MIN_SCALE if fit is None else fit)
    notes = [] if fit is not None else [
        f"Even at {MIN_SCALE} of its width the reference is beyond the limits; it is the control all the same."
    ]
    dropped: list[str] = []
    for attempt, min_macs, without in _attempts(caps, budget, strict=strict):
        inside, limits = _capped(space, uniform, attempt, replace(budget, min_macs=min_macs))
        if inside is None:
            continue
        drawn = draw_candidates(inside, limits, candidates, seed, max_draws=_MOST_DRAWS)
        if drawn is not None:
            dropped = without
            break
    else:
        asked = " and inside the caps asked for" if strict and caps != Caps() else ""
        raise BudgetError(f"No code within the limits{asked} was found on the grid at scale {space.scale:g}: loosen "
                          "the limits or caps, or give another --scale.")
    if dropped:
        unused = " A smaller --scale may use more of the budget." if min_macs != budget.min_macs else ""
        lost = " and ".join(dropped)
        notes.append(f"No code keeps all limits and caps, so the search goes on without {lost}.{unused}")
    return Plan(reference, uniform, scale, replace(budget, min_macs=min_macs), inside, limits, drawn,
                _describe(attempt, uniform, limits), tuple(notes))


def _attempts(caps: Caps, budget: Budget, *, strict: bool) -> Iterator[tuple[Caps, int, list[str]]]:
    """The caps, then fewer and fewer of them unless ``strict``: (caps, least MACs, what was dropped).

    The budget itself never is dropped.
    """
    names = {"params": "the cap on parameters", "stage_depth": "the cap on a stage's depth",
             "depth": "the cap on depth"}
    given = [n for n in names if getattr(caps, n) is not None]
    for min_macs in dict.fromkeys((budget.min_macs, 0)):
        for count in range(1 if strict else len(given) + 1):
            for without in itertools.combinations(given, count):
                left = replace(caps, **dict.fromkeys(without))
                lost = [names[n] for n in without]
                if min_macs != budget.min_macs:
                    lost.append(f"the lower limit of {human(budget.min_macs)} MACs")
                yield left, min_macs, lost


def _capped(space: Space, uniform: Code, caps: Caps, budget: Budget) -> tuple[Space | None, Limits]:
    """The space whose stages keep their depth cap, and the limits that codes have to be checked against."""
    cost = code_cost(uniform)
    low, high = (None, budget.params) if caps.params is None else (
        round(caps.params[0] * cost.params), round(caps.params[1] * cost.params)
    )
    if high is None or (budget.params is not None and budget.params < high):
        high = budget.params
    limits = Limits(
        min_macs=budget.min_macs or None, max_macs=budget.macs, min_params=low, max_params=high,
        max_depth=None if caps.depth is None else int(caps.depth * depth(uniform)),
    )
    if caps.stage_depth is None:
        return space, limits
    names = [n for n in space.entry_names if n.startswith("L")]
    ranges = {
        name: [v for v in axis if v <= int(caps.stage_depth * blocks)]
        for name, axis, blocks in zip(names, space.depths, uniform.depths, strict=True)
    }
    return (space.replace(ranges) if all(ranges.values()) else None), limits


def _describe(caps: Caps, uniform: Code, limits: Limits) -> tuple[str, ...]:
    out = []
    if caps.depth is not None:
        out.append(f"depth at most {limits.max_depth} convolutions ({caps.depth:g}x the uniformly rescaled network's "
                   f"{depth(uniform)})")
    if caps.stage_depth is not None:
        tops = ", ".join(str(int(caps.stage_depth * blocks)) for blocks in uniform.depths)
        out.append(f"blocks in each stage at most {tops} ({caps.stage_depth:g}x), and within the space's ranges")
    if caps.params is not None and limits.min_params is not None and limits.max_params is not None:
        params = code_cost(uniform).params
        low, high = (human(round(c * params)) for c in caps.params)
        out.append(f"parameters from {low} to {high} ({caps.params[0]:g}x to {caps.params[1]:g}x of {human(params)})")
    return tuple(out)


def _check_reachable(space: Space, budget: Budget) -> None:
    """MACs and parameters grow with every entry, so the smallest and the largest code bound what is reachable."""
    least, most = code_cost(space.smallest), code_cost(space.largest)
    family = family_of(space.family).title
    for figure, limit, name in ((least.macs, budget.macs, "MACs"), (least.params, budget.params, "parameters")):
        if limit is not None and limit < figure:
            raise BudgetError(
                f"No {family} code of the grid at scale {space.scale:g} has at most {human(limit)} {name}: the "
                f"smallest one, {space.smallest}, has {human(figure)} ({figure}). Raise the limit to that at least, or "
                f"search a narrower grid with a --scale below {space.scale:g}.")
    if budget.min_macs > most.macs:
        raise BudgetError(
            f"A budget of {human(budget.macs)} MACs is above the largest {family} code of the grid at scale "
            f"{space.scale:g}, which has {human(most.macs)} ({most.macs}): lower the budget to that, or widen the "
            "grid with a larger --scale.")

