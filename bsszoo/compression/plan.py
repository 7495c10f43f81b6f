"""From a budget to what is searched: the scale of the grid, the uniformly rescaled control, caps, candidates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bsszoo.codes.code import Code
from bsszoo.codes.cost import depth, stage_costs
from bsszoo.codes.detector import DetectorHead, head_cost
from bsszoo.codes.families import family_of
from bsszoo.errors import BudgetError, SettingsError
from bsszoo.options import GridOptions
from bsszoo.report.figures import human
from bsszoo.spaces.candidate_set import CandidateSet
from bsszoo.spaces.feasible import draw_candidates
from bsszoo.spaces.limits import Caps, LatencyModel, LatencyTable, Limits, predicted
from bsszoo.spaces.reachable import Nearest, contradiction, least_latency
from bsszoo.spaces.space import (
    DIVISOR,
    MIN_SCALE,
    Space,
    fit_scale,
    fit_subnetwork,
    uniform_code,
    uniform_codes,
    uniform_subnetwork,
)
from bsszoo.study.result import ResolvedBudget

#: Candidates drawn for a search, unless fewer codes are feasible.
CANDIDATES = 20_000

# Of so many times as many codes as asked for, the nearest to the uniform one, those in other directions are taken.
_NEAR = 20
# A control of less than this share of the least multiply-adds of codes is worth a note.
_HANDICAPPED = 0.95
# Of the budget in layers that no code changes.
_KEPT = 0.5
# Drawn at most, which few budgets need: about ten seconds.
_MOST_DRAWS = 8_000_000


def caps_of(grid: GridOptions, default: Caps) -> Caps:
    """The caps of the options, and the evaluator's defaults where an option is not set.

    Raises:
        SettingsError: One is no multiple.
    """
    return Caps(
        depth=default.depth if grid.depth_cap is None else _multiple("--depth-cap", grid.depth_cap),
        stage_depth=default.stage_depth
        if grid.stage_depth_cap is None
        else _multiple("--stage-depth-cap", grid.stage_depth_cap),
        params=default.params if grid.params_cap is None else _range("--params-cap", grid.params_cap),
    )


def _multiple(option: str, value: str | float) -> float | None:
    if str(value).lower() == "none":
        return None
    try:
        multiple = float(value)
    except ValueError:
        multiple = 0.0
    if not 0 < multiple < 1000:
        raise SettingsError(f"{option} is {value!r}; it takes a multiple such as 1.5, or none.")
    return multiple


def _range(option: str, value: str | tuple[float, float]) -> tuple[float, float] | None:
    if str(value).lower() == "none":
        return None
    ends = value.split(":") if isinstance(value, str) else tuple(value)
    a, b = (_multiple(option, end) for end in ends) if len(ends) == 2 else (None, None)
    if a is None or b is None or a > b:
        raise SettingsError(f"{option} is {value!r}; it takes the least and the most, such as 0.85:1.25, or none.")
    return a, b


@dataclass(frozen=True, eq=False)
class Plan:
    """The space, limits and candidates of a run's search, with notes on them."""

    reference: Code
    uniform: Code
    scale: float
    budget: ResolvedBudget
    space: Space
    limits: Limits
    candidates: CandidateSet
    caps: tuple[str, ...]
    notes: tuple[str, ...]


def budget_space(
    reference: Code,
    macs: int,
    scale: float | None = None,
    head: DetectorHead | None = None,
    divisor: int | None = DIVISOR,
) -> Space:
    """The grid that codes under a budget are searched on.

    Args:
        reference: The network to compress; its family gives the space, its image size, stride and head go with it.
        macs: Most multiply-adds.
        scale: Scale of the grid; by default the uniform width multiplier at which the family's original meets the
            budget, at most 1 (section B.2.2's grid).
        head: Of the detector whose backbone is searched; the budget is then the detector's.
        divisor: What steps of widths are rounded to multiples of, as in ``Space.scaled``; None for the paper's steps.

    Example:
        >>> budget_space(Code.parse("mobilenetv2_c24-32-64-96-160-320_l2-3-4-3-3-1_t6-6-6-6-6-6"), 130_000_000).scale
        0.604
    """
    family = family_of(reference.family)
    if scale is None:
        original = replace(
            Code.from_entries(family.name, family.original),
            image_size=reference.image_size,
            stride_in=reference.stride_in,
            head_width=reference.head_width,
        )
        fitted = fit_scale(original, macs, head=head)
        scale = MIN_SCALE if fitted is None else min(1.0, fitted)
    # At scale 1 too: the stem and stage 2 are the grid's and not the reference's, so that all codes share them.
    base = replace(
        Space.of(family.name),
        image_size=reference.image_size,
        stride_in=reference.stride_in,
        head_width=reference.head_width,
        head=head,
    )
    return base.scaled(scale, divisor)


def make_plan(
    reference: Code,
    budget: ResolvedBudget,
    *,
    caps: Caps,
    seed: int,
    scale: float | None = None,
    candidates: int = CANDIDATES,
    strict: bool = False,
    latency: LatencyModel | None = None,
    head: DetectorHead | None = None,
    space: Space | None = None,
    divisor: int | None = DIVISOR,
) -> Plan:
    """Candidates under a budget, drawn uniformly among the feasible codes.

    Args:
        reference: The network to compress; its family gives the space.
        budget: Hard limits on MACs, and where set on parameters, activations and latency.
        caps: Multiples of the uniformly rescaled network's depth and parameters; dropped, with a note, where no code is
            left inside.
        seed: Seed of the draw.
        scale: Scale of the grid, by default as in ``budget_space``.
        candidates: How many to draw.
        strict: The caps were set by the user: where no code is left inside them, fail instead of dropping one.
        latency: Model of a code's latency.
        head: Of the detector whose backbone the reference is; the budget and the caps are then the detector's.
        space: Where candidates are drawn, by default ``budget_space``.
        divisor: Of ``budget_space``.

    Raises:
        BudgetError: No code of the space meets the budget; the text names the limit that binds and the nearest
            reachable figure. Or the latency table lacks a block.
    """
    space = budget_space(reference, budget.macs, scale, head, divisor) if space is None else space
    _check_table(space, latency)
    _check_head(space, budget)
    _check_reachable(space, budget)

    uniform, notes = _uniform(reference, budget, space, latency)
    attempts = [
        (attempt, lower, without, *_capped(space, uniform, attempt, lower, latency))
        for attempt, lower, without in _attempts(caps, budget, strict=strict)
    ]
    # The last one limits least: where it leaves nothing, the others are not tried.
    asked = strict and caps != Caps()
    _check_together(attempts[-1][3], attempts[-1][4], budget, asked=asked)
    dropped: list[str] = []
    for attempt, lowered, dropped, inside, limits in attempts:  # noqa: B007  used after the loop
        drawn = None if inside is None else draw_candidates(inside, limits, candidates, seed, max_draws=_MOST_DRAWS)
        if inside is not None and drawn is not None:
            break
    else:
        raise BudgetError(_none_feasible(inside, limits, seed, asked=asked))
    notes += _beyond(uniform, limits, space)
    notes += _kept(reference, budget, space)
    if (macs := space.cost(uniform).macs) < _HANDICAPPED * budget.min_macs:
        notes.append(
            f"The uniformly rescaled network has {human(macs)} MACs, {100 * macs / budget.macs:.0f}% of the budget, "
            f"where codes have at least {human(budget.min_macs)}: the next wider one is beyond it."
        )
    if dropped:
        grid = space.base is None and lowered != budget
        unused = " A smaller --scale may use more of the budget." if grid else ""
        lost = " and ".join(dropped)
        notes.append(f"No code keeps all limits and caps, so the search drops {lost}.{unused}")
    return Plan(
        reference,
        uniform,
        space.scale,
        lowered,
        inside,
        limits,
        drawn,
        _describe(attempt, uniform, limits, space),
        tuple(notes),
    )


def around_uniform(plan: Plan, number: int) -> tuple[tuple[int, ...], ...]:
    """Entries of candidates around the uniformly rescaled network, each off it in another direction.

    Of the nearest ones, entries divided by their spread among the candidates: first the nearest, then always the one
    whose direction is farthest from those taken. A block moved from one stage to another is such a direction.
    """
    if not number:
        return ()
    centre, codes = np.array(plan.space.row(plan.uniform)), plan.candidates.codes
    if len(centre) != codes.shape[1]:
        return ()
    spread = codes.std(axis=0)
    offsets = (codes - centre) / np.where(spread > 0, spread, 1.0)
    distance = np.linalg.norm(offsets, axis=1)
    near = np.argsort(distance, kind="stable")[: _NEAR * number]
    directions = offsets[near] / np.maximum(distance[near], 1e-9)[:, None]
    taken, closest = [0], directions @ directions[0]
    while len(taken) < min(number, len(near)):
        closest[taken] = np.inf
        taken.append(int(np.argmin(closest)))
        closest = np.maximum(closest, directions @ directions[taken[-1]])
    return tuple(tuple(int(v) for v in codes[near[i]]) for i in taken)


def _uniform(
    reference: Code, budget: ResolvedBudget, space: Space, latency: LatencyModel | None
) -> tuple[Code, list[str]]:
    """The uniformly rescaled network that keeps the budget, the first control, with a note where there is none."""
    least = MIN_SCALE
    limited = isinstance(latency, LatencyTable) and budget.latency_ms is not None

    def fast(code: Code) -> bool:
        ms = predicted(latency, code, space)
        return budget.latency_ms is None or (ms is not None and ms <= budget.latency_ms)

    if space.base is not None:
        narrower = fit_subnetwork(space, budget.macs, budget.params, fast if limited else None)
        if narrower is not None:
            return narrower, []
        uniform, least = uniform_subnetwork(space, MIN_SCALE / 4), MIN_SCALE / 4
    else:
        fit = fit_scale(reference, budget.macs, budget.params, space.head)
        if fit is not None:
            uniform = uniform_code(reference, fit)
            # A table holds its blocks where it was measured for this run; others hold the grid's alone.
            if not limited or fast(uniform) or predicted(latency, uniform, space) is None:
                return uniform, []
            narrower = next((code for code in uniform_codes(reference, fit) if fast(code)), None)
            if narrower is not None:
                return narrower, []
        uniform = uniform_code(reference, MIN_SCALE)
    return uniform, [
        f"Even at {least:g} of its width the reference is beyond the limits; it is the control all the same."
    ]


def _attempts(caps: Caps, budget: ResolvedBudget, *, strict: bool) -> Iterator[tuple[Caps, ResolvedBudget, list[str]]]:
    """The caps, then fewer and fewer of them unless ``strict``: (caps, the budget, what was dropped).

    Of the budget only the lower limit is ever dropped.
    """
    names = {
        "params": "the cap on parameters",
        "stage_depth": "the cap on a stage's depth",
        "depth": "the cap on depth",
    }
    present = [n for n in names if getattr(caps, n) is not None]
    lower = {
        f"{human(budget.min_macs)} MACs": budget.min_macs,
        f"{human(budget.min_params or 0)} parameters": budget.min_params,
        f"{budget.min_latency_ms or 0:.4g} ms": budget.min_latency_ms,
    }
    for kept in dict.fromkeys((budget, replace(budget, min_macs=0, min_params=None, min_latency_ms=None))):
        for count in range(1 if strict else len(present) + 1):
            for without in itertools.combinations(present, count):
                left = replace(caps, **dict.fromkeys(without))
                lost = [names[n] for n in without]
                if kept != budget:
                    lost += [f"the lower limit of {words}" for words, value in lower.items() if value]
                yield left, kept, lost


def _capped(
    space: Space, uniform: Code, caps: Caps, budget: ResolvedBudget, latency: LatencyModel | None
) -> tuple[Space | None, Limits]:
    """The space whose stages meet their depth cap, and the limits that codes are checked against."""
    cost = space.cost(uniform)
    low, high = (
        (None, budget.params)
        if caps.params is None
        else (round(caps.params[0] * cost.params), round(caps.params[1] * cost.params))
    )
    if high is None or (budget.params is not None and budget.params < high):
        high = budget.params
    if budget.min_params is not None:
        low = max(low or 0, budget.min_params)
    contrary = low is not None and high is not None and low > high
    limits = Limits(
        min_macs=budget.min_macs or None,
        max_macs=budget.macs,
        min_params=None if contrary else low,
        max_params=high,
        max_depth=None if caps.depth is None else int(caps.depth * depth(uniform)),
        max_activations=budget.activations,
        max_latency=budget.latency_ms,
        min_latency=budget.min_latency_ms,
        latency=latency,
    )
    if contrary:
        return None, limits
    if caps.stage_depth is None:
        return space, limits
    names = [n for n in space.entry_names if n.startswith("L")]
    ranges = {
        name: [v for v in axis if v <= int(caps.stage_depth * blocks)]
        for name, axis, blocks in zip(names, space.depths, uniform.depths, strict=True)
    }
    return (space.replace(ranges) if all(ranges.values()) else None), limits


def _describe(caps: Caps, uniform: Code, limits: Limits, space: Space) -> tuple[str, ...]:
    out = []
    if caps.depth is not None:
        out.append(
            f"depth at most {limits.max_depth} convolutions ({caps.depth:g}x the uniformly rescaled network's "
            f"{depth(uniform)})"
        )
    if caps.stage_depth is not None:
        tops = ", ".join(str(int(caps.stage_depth * blocks)) for blocks in uniform.depths)
        out.append(f"blocks in each stage at most {tops} ({caps.stage_depth:g}x), and within the space's ranges")
    if caps.params is not None and limits.min_params is not None and limits.max_params is not None:
        params = space.cost(uniform).params
        low, high = (human(round(c * params)) for c in caps.params)
        out.append(f"parameters from {low} to {high} ({caps.params[0]:g}x to {caps.params[1]:g}x of {human(params)})")
    return tuple(out)


# A limit's name and its option.
_WORDS = {
    "macs": ("MACs", "--flops"),
    "params": ("parameters", "--params"),
    "activations": ("activations", "--activations"),
    "depth": ("convolutions on the main path", "--depth-cap"),
    "latency": ("ms", "--latency"),
}


def _amount(figure: str, value: float) -> str:
    """A figure with its unit: ``1.44M parameters``, ``12.3 ms``."""
    return f"{value:.4g} ms" if figure == "latency" else f"{human(round(value))} {_WORDS[figure][0]}"


def _exactly(figure: str, value: float) -> str:
    """A figure as text for an upper limit, rounded so that it stays reachable."""
    return str(round(value)) if figure != "latency" else f"{math.ceil(value * 1000) / 1000:.10g}"


def _check_table(space: Space, latency: LatencyModel | None) -> None:
    """A ``BudgetError`` for a latency table that lacks blocks of the space."""
    if isinstance(latency, LatencyTable) and (missing := latency.missing(space)):
        raise BudgetError(
            f"The latency table {latency.name} lacks {len(missing)} of the blocks of {family_of(space.family).title} "
            f"codes {space.described}, the first one {missing[0]}. Make one for these codes with "
            "`bsszoo latency-table`, or leave --latency-table out: it is measured then."
        )


def _check_head(space: Space, budget: ResolvedBudget) -> None:
    """A ``BudgetError`` where a detector's layers beside its backbone alone cost more than the budget."""
    if space.head is None:
        return
    beside = head_cost(space.head, space.template).fixed
    if beside.macs > budget.macs:
        raise BudgetError(
            f"A budget of {human(budget.macs)} MACs is below what a {space.head.title} has beside its backbone, "
            f"{human(beside.macs)} ({beside.macs}) at {space.image_size} px: raise --flops, or make the pyramid and "
            f"the heads narrower, as {space.head.kind}_fpn{max(8, space.head.channels // 2)}_.. does; they are "
            f"{space.head.channels} channels wide here."
        )


def _check_reachable(space: Space, budget: ResolvedBudget) -> None:
    """A ``BudgetError`` for a budget above all codes, where dropping the lower limit would not help."""
    most = Limits().chain(space).extremes()[1][0]
    if budget.min_macs > most:
        raise BudgetError(
            f"A budget of {human(budget.macs)} MACs is above the largest {family_of(space.family).title} code "
            f"{space.described}, which has {human(int(most))} ({most}): lower the budget to that"
            + (", or widen the grid with a larger --scale." if space.base is None else ".")
        )


def _check_together(space: Space | None, limits: Limits, budget: ResolvedBudget, *, asked: bool) -> None:
    """A ``BudgetError`` that says which limit binds and what is the nearest, where no code can keep all of them."""
    ways = () if space is None else contradiction(space, limits)
    if space is None or not ways:
        return
    named = [
        f"{'at most' if side == 'max' else 'at least'} {_amount(figure, value)}"
        for figure in _WORDS
        for side in ("min", "max")
        if (value := getattr(limits, f"{side}_{figure}", None)) is not None
        and (not ways[0].alone or any((w.figure, w.upper) == (figure, side == "max") for w in ways))
    ]
    text = (
        f"No {family_of(space.family).title} code {space.described}"
        f"{' inside the caps asked for' if asked else ''} has {' and '.join(named)}. "
    )
    for way in ways:
        side, extreme, fewer = ("at most", "least", "less") if way.upper else ("at least", "most", "more")
        if way is ways[0]:
            text += f"The limit of {side} {_amount(way.figure, way.limit)} binds. "
        beside = "" if way.alone or len(named) == 1 else " within the other limits"
        exact = "" if way.figure == "latency" else f" ({round(way.value)})"
        if way.exact:
            text += f"The {extreme}{beside} is {_amount(way.figure, way.value)}{exact}"
        else:
            proven = f", and none has {fewer} than {_amount(way.figure, way.bound)}" if way.proven else ""
            text += f"A code nearby{beside} has {_amount(way.figure, way.value)}{exact}{proven}"
        text += f": {way.code}. "
    changes = list(dict.fromkeys(_change(way, budget) for way in ways))
    change = (" and " if ways[0].alone else ", or ").join(changes)
    text += f"{change[0].upper()}{change[1:]}"
    text += "." if space.base is not None else f", or search another grid with --scale, here {space.scale:g}."
    raise BudgetError(text)


def _change(way: Nearest, budget: ResolvedBudget) -> str:
    """What to do about a limit."""
    option = _WORDS[way.figure][1]
    if not way.upper:
        return "raise --slack" if way.figure == "macs" else "loosen --params-cap"
    if way.figure == "depth" or (way.figure == "params" and way.limit != budget.params):
        return f"loosen {'--depth-cap' if way.figure == 'depth' else '--params-cap'}"
    return f"raise {option} to {_exactly(way.figure, way.value)}"


def _none_feasible(space: Space | None, limits: Limits, seed: int, *, asked: bool) -> str:
    words = " and inside the caps asked for" if asked else ""
    if space is not None and limits.function is not None and limits.max_latency is not None:
        fastest = least_latency(space, limits, seed)
        if fastest is not None:
            return (
                f"No code within the limits{words} was found that {limits.function.name} gives at most "
                f"{limits.max_latency:g} ms: that limit binds. The fastest of 500 codes that keep the others has "
                f"{fastest.value:.4g} ms, {fastest.code}. Raise --latency to "
                f"{_exactly('latency', fastest.value)}, or lower --flops."
            )
    grid = "" if space is None else f" {space.described}"
    return f"No code within the limits{words} was found{grid}: loosen the limits or caps, or give another --scale."


def _kept(reference: Code, budget: ResolvedBudget, space: Space) -> list[str]:
    """A note where the layers in front of the searched stages, which subnetworks keep, take much of the budget."""
    if space.base is None or space.head is not None:
        return []
    family = family_of(reference.family)
    rows = stage_costs(reference, num_classes=space.num_classes, in_chans=space.in_chans)
    macs = sum(row.cost.macs for row in rows if row.number < family.first_stage)
    if macs < _KEPT * budget.macs:
        return []
    return [
        f"The layers in front of the searched stages (a stem of {reference.stem_width} channels) stay as they are: "
        f"their {human(macs)} MACs are {100 * macs / budget.macs:.0f}% of the budget, and the stages get the rest. A "
        "network with a narrower stem, trained anew, has more for them."
    ]


def _beyond(uniform: Code, limits: Limits, space: Space) -> list[str]:
    """A note where the control exceeds a limit that its width was not fitted to."""
    figures = (
        ("activations", space.cost(uniform).activations, limits.max_activations),
        ("latency", predicted(limits.latency, uniform, space), limits.max_latency),
    )
    return [
        f"The uniformly rescaled network has {_amount(name, value)}, beyond the limit of "
        f"{human(int(most)) if name == 'activations' else _amount(name, most)}; it is the control all the same."
        for name, value, most in figures
        if value is not None and most is not None and value > most
    ]
