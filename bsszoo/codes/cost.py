"""What a code costs: multiply-adds, parameters and activations, summed over the layer list of ``layers.py``.

Notation:
    k   kernel side          c_in, c_out  channels of a layer        h, w  its output's height and width [px]
    MACs        k*k * c_in * c_out * h * w   (depthwise: k*k * c_out * h * w); norms, activations, pooling: 0
    params      k*k * c_in * c_out, a bias c_out, a batch norm 2 * c_out
    activations c_out * h * w, elements of the outputs of all convolutions (as pycls counts; no linear layer)

The paper's FLOPs are these MACs. Tools that call 2 x MACs "FLOPs" (NVIDIA Model Optimizer among them) show twice
the figure for the same network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bsszoo.codes.code import MAX_IMAGE_SIZE, MAX_WIDTH, Code, plain_number, stages_of
from bsszoo.codes.families import Family, Fixed, family_of
from bsszoo.codes.layers import Block, N
from bsszoo.errors import CodeError, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bsszoo.codes.space import Space

    IntArray: TypeAlias = NDArray[np.int64]

ImageSize: TypeAlias = "int | tuple[int, int]"

# Rows at once: enough to spread numpy's cost per call, few enough that columns stay in the second cache level
# (benchmarks/cost_array.py; a quarter of it is slower for every family).
_CHUNK = 8192
# Entries up to which a table of all integers is no burden.
_MOST_LOOKED_UP = 1_000_000
_LOOKED_UP_CHUNK = 8192
# Beyond it a classifier alone has more parameters than any machine's memory holds.
_MOST_CLASSES = 10**9


@dataclass(frozen=True, slots=True)
class Cost:
    """``macs`` [multiply-adds of convolutions and linear layers], ``params``, ``activations`` [elements]."""

    macs: int
    params: int
    activations: int

    @property
    def macs2(self) -> int:
        """2 x MACs: what tools that count a multiply-add as two operations call FLOPs."""
        return 2 * self.macs

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.params + other.params, self.activations + other.activations)


@dataclass(frozen=True, slots=True)
class StageCost:
    """One row of a network's stage table; ``size`` is the height and width of the stage's output [px]."""

    number: int
    name: str
    width: int
    depth: int
    inner: int
    size: tuple[int, int]
    cost: Cost


class CostArray(NamedTuple):
    """The costs of n codes, three int64 arrays of shape [n]; row i belongs to code i."""

    macs: IntArray
    params: IntArray
    activations: IntArray


def code_cost(code: Code, image_size: ImageSize | None = None, *, num_classes: int = 1000, in_chans: int = 3) -> Cost:
    """The exact cost of a code's network.

    Args:
        code: The code.
        image_size: Side of the square input, or (height, width) [px]; by default the code's own.
        num_classes: Outputs of the classifier; 0 counts the network without one.
        in_chans: Channels of the input.

    Raises:
        CodeError: An image size, ``num_classes`` or ``in_chans`` that no network can have.
    """
    total = Cost(0, 0, 0)
    for row in stage_costs(code, image_size, num_classes=num_classes, in_chans=in_chans):
        total = total + row.cost
    return total


def stage_costs(
    code: Code, image_size: ImageSize | None = None, *, num_classes: int = 1000, in_chans: int = 3
) -> tuple[StageCost, ...]:
    """The cost stage by stage in the order of the forward; the rows sum to ``code_cost`` of the same arguments.

    ``inner`` of a row is the first block's inner width, 0 where the block has none of its own.
    """
    check_arguments(num_classes, in_chans)
    size = checked_size(code.image_size if image_size is None else image_size)
    rows = []
    for stage in stages_of(code, num_classes=max(num_classes, 1), in_chans=in_chans):
        if stage.first.pooled:
            if num_classes == 0:
                break
            size = (1, 1)
        macs = params = activations = 0
        for block in stage.blocks():
            cost, size = block_cost(block, size)
            macs, params, activations = macs + cost[0], params + cost[1], activations + cost[2]
        size = tuple(-(-s // stage.pool) for s in size)  # type: ignore[assignment]
        inner = stage.first.mid_width if stage.first.waisted else 0
        cost_row = Cost(macs, params, activations)
        rows.append(StageCost(stage.number, stage.name, stage.first.out_width, stage.depth, inner, size, cost_row))
    return tuple(rows)


def depth(code: Code) -> int:
    """Number of convolutions on the main path (no shortcuts, no squeeze-and-excitation, no classifier)."""
    return sum(
        1
        for stage in stages_of(code)
        for block in stage.blocks()
        for layer in block.layers()
        if layer.role == "main" and layer.present
    )


def cost_array(
    space: Space | str,
    codes: IntArray,
    *,
    image_size: ImageSize | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
) -> CostArray:
    """The exact costs of n codes at once, equal to ``code_cost`` of each.

    Args:
        space: A ``Space``, whose fixed parts (stem, stage 2, input size, stride) the codes share, or a family's
            name, for the family's own fixed parts.
        codes: Integers of shape [n, d], columns in the order of the family's entries.
        image_size: As in ``code_cost``; by default the space's.
        num_classes: Outputs of the classifier; 0 counts the networks without one.
        in_chans: Channels of the input.

    Raises:
        CodeError: ``codes`` has another shape, no integers, or an entry below 1; or a code's cost is beyond 2^53,
            where this function is not exact (``code_cost`` is).

    Example:
        >>> import numpy as np
        >>> from bsszoo.codes import Code, cost_array
        >>> cost_array("resnet18", np.array([[64, 128, 256, 512, 2, 2, 2, 2]])).macs
        array([1814073344])
    """
    import numpy as np

    check_arguments(num_classes, in_chans)
    if not isinstance(space, str) and space.head is not None:
        raise CodeError(
            "cost_array counts classifiers, and this space is of a detector's backbones: Space.cost counts "
            "one code, codes.chain.Chain many."
        )
    template = _template(space)
    rows = _checked_rows(template, codes)
    size = checked_size(template.image_size if image_size is None else image_size)
    counted = _looked_up(template, rows, size, num_classes, in_chans)
    if counted is not None:
        return CostArray(*counted)
    _check_groups(family_of(template.family), rows)
    out = np.empty((3, len(rows)), dtype=np.int64)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        # float64 multiplies several at a time where int64 does not, and is exact below 2^53 (9e15 MACs).
        columns = np.ascontiguousarray(rows[part].T, dtype=np.float64)
        stages = blocks_by_stage(template, columns, size, num_classes, in_chans)
        for kind, parts in enumerate(zip(*map(_stage_costs, stages), strict=True)):
            column = sum(parts)
            if (top := column.max()) >= 2**53:
                raise CodeError(
                    f"codes[{start + int(column.argmax())}] has a cost of {top:.3g}; "
                    "above 2^53 only code_cost counts exactly."
                )
            out[kind, part] = column
    return CostArray(*out)


def _checked_rows(template: Code, codes: Any) -> IntArray:
    import numpy as np

    family = family_of(template.family)
    try:
        rows = np.asarray(codes)
    except ValueError:
        raise CodeError(
            f"codes are an array of shape [n, {len(family.entry_names)}]; given were rows of different lengths."
        ) from None
    if rows.ndim != 2 or rows.shape[1] != len(family.entry_names):
        raise CodeError(
            f"codes of {family.name} have the shape [n, {len(family.entry_names)}] "
            f"({', '.join(family.entry_names)}); given was {list(rows.shape)}."
        )
    if not np.issubdtype(rows.dtype, np.integer):
        raise CodeError(f"codes are integers; given was an array of {rows.dtype}.")
    if rows.size and rows.min() < 1:
        i, j = np.argwhere(rows < 1)[0]
        raise CodeError(f"codes[{i}, {j}] is {rows[i, j]}, but {family.entry_names[j]} is at least 1.")
    return rows


def _check_groups(family: Family, rows: IntArray) -> None:
    import numpy as np

    if family.whole_groups and (broken := rows[:, : family.stages] % rows[:, 2 * family.stages :] != 0).any():
        i, j = np.argwhere(broken)[0]
        raise CodeError(
            f"codes[{i}, {j}] is {rows[i, j]}, which {family.entry_names[2 * family.stages + j]}, "
            f"{rows[i, 2 * family.stages + j]}, does not divide."
        )


def depth_array(space: Space | str, codes: IntArray) -> IntArray:
    """The depths (``depth``) of n codes [n, d] at once, shape [n]."""
    import numpy as np

    template = _template(space)
    rows = _checked_rows(template, codes)
    _check_groups(family_of(template.family), rows)
    columns = rows.T.astype(np.int64)
    total = np.zeros(columns.shape[1], dtype=np.int64)
    for stage in _stages_of_columns(template, columns, 1000, 3):
        for block, times in ((stage.first, 1), (stage.rest, stage.depth - 1)):
            for layer in block.layers():
                if layer.role == "main":
                    total += layer.present * times
    return total


# -- one fold for both ----------------------------------------------------------------------------------------


def block_cost(block: Block[N], size: tuple[int, int]) -> tuple[tuple[N, N, N], tuple[int, int]]:
    """MACs, params and activations of one block whose input has this size, and the size of its output."""
    macs = params = activations = 0 * block.in_width
    main = size
    for layer in block.layers():
        start = (1, 1) if layer.role == "gate" else size if layer.role == "shortcut" else main
        h, w = (-(-side // layer.stride) for side in start)
        outputs = layer.out_width
        weights = outputs * (layer.kernel * layer.kernel)
        if not (isinstance(layer.group_width, int) and layer.group_width == 1):
            weights = weights * layer.group_width
        if not (isinstance(layer.present, int) and layer.present == 1):  # a column has no one truth
            outputs, weights = outputs * layer.present, weights * layer.present
        macs = macs + weights * (h * w)
        params = params + weights + outputs * (layer.bias + (2 if layer.norm else 0))
        if layer.role != "classifier":
            activations = activations + outputs * (h * w)
        if layer.role == "main":
            main = (h, w)
    return (macs, params, activations), main


def blocks_by_stage(
    template: Code, columns: Any, size: tuple[int, int], num_classes: int, in_chans: int
) -> list[list[tuple[Block[Any], Any, tuple[int, int]]]]:
    """The blocks of each searched stage of n codes, columns [d, n]: (block, how many times, size of its input).

    What stands before the first searched stage belongs to it, what stands behind the last one to that. Sizes are the
    same for all codes.
    """
    family = family_of(template.family)
    out: list[list[Any]] = [[] for _ in range(family.stages)]
    one = columns[0] * 0 + 1
    for k, stage in enumerate(_stages_of_columns(template, columns, max(num_classes, 1), in_chans)):
        blocks = out[min(max(k - (family.first_stage - 1), 0), family.stages - 1)]
        if stage.first.pooled:
            if num_classes == 0:
                break
            size = (1, 1)
        blocks.append((stage.first, one, size))
        size = (-(-size[0] // stage.first.stride), -(-size[1] // stage.first.stride))
        if stage.first is not stage.rest:
            blocks.append((stage.rest, stage.depth - 1, size))
        size = (-(-size[0] // stage.pool), -(-size[1] // stage.pool))
    return out


def _stage_costs(blocks: list[tuple[Block[Any], Any, tuple[int, int]]]) -> list[Any]:
    """MACs, parameters and activations of the blocks of a stage, each [n]."""
    macs = params = activations = 0
    for block, times, size in blocks:
        one, _ = block_cost(block, size)
        macs, params, activations = macs + one[0] * times, params + one[1] * times, activations + one[2] * times
    return [macs, params, activations]


def _looked_up(
    template: Code, rows: IntArray, size: tuple[int, int], num_classes: int, in_chans: int
) -> IntArray | None:
    """The costs [3, n] of n codes by tables of what each stage adds; None where it would not pay, or not be exact.

    A stage adds what its first block costs, which depends on its own entries but the depth and on the width before it,
    and for each further block what depends on its own entries alone. Codes of a search space have few values of each,
    so that far fewer combinations are counted than there are codes.
    """
    import numpy as np

    family = family_of(template.family)
    stages = family.stages
    if not len(rows) or (most := int(rows.max())) > _MOST_LOOKED_UP:
        return None
    # Some rows at a time, which stay in the cache while their columns are read: transposing all of them costs as much
    # as all else here.
    parts = [slice(start, start + _LOOKED_UP_CHUNK) for start in range(0, len(rows), _LOOKED_UP_CHUNK)]
    seen = np.zeros((rows.shape[1], most + 1), dtype=bool)
    for part in parts:
        for marks, column in zip(seen, rows[part].T, strict=True):
            marks[column] = True
    values = [np.flatnonzero(marks) for marks in seen]
    places = [np.cumsum(marks, dtype=np.int32) - 1 for marks in seen]
    sizes = [len(v) for v in values]
    if family.whole_groups and any((values[i][:, None] % values[2 * stages + i] != 0).any() for i in range(stages)):
        return None  # where not all of them go together each code has to be looked at
    terms: list[tuple[int, list[int], int | None]] = []
    for i in range(stages):
        before, own = ([i - 1] if i else []), [i, *range(2 * stages + i, rows.shape[1], stages)]
        # With the depth on an axis of the table one look-up does for both, where the table stays small.
        whole = [*before, *own, stages + i]
        if math.prod(sizes[j] for j in whole) <= len(rows) // 12:
            terms.append((i, whole, None))
        elif math.prod(sizes[j] for j in (*before, *own)) <= len(rows) // 8:
            terms += [(i, [*before, *own], 0), (i, own, 1)]
        else:
            return None
    tables = [
        _table(template, rows[0], [(j, values[j]) for j in axes], stage, which, size, num_classes, in_chans)
        for stage, axes, which in terms
    ]
    deepest = [1 if which != 1 else int(values[stages + stage][-1]) for stage, _, which in terms]
    if sum(float(t.max()) * most for t, most in zip(tables, deepest, strict=True)) >= 2**53:
        return None
    counts = [table.astype(np.int64) for table in tables]
    out = np.zeros((3, len(rows)), dtype=np.int64)
    for part in parts:
        columns = [column.copy() for column in rows[part].T]
        at = [place.take(column) for place, column in zip(places, columns, strict=True)]
        sums = out[:, part]
        for (stage, axes, which), table in zip(terms, counts, strict=True):
            cell = at[axes[0]]
            for j in axes[1:]:
                cell = cell * np.int32(sizes[j]) + at[j]
            for total, kind in zip(sums, table, strict=True):
                found = kind.take(cell)
                total += found if which != 1 else found * (columns[stages + stage] - 1)
    return out


def _table(
    template: Code,
    row: IntArray,
    axes: list[tuple[int, IntArray]],
    stage: int,
    which: int | None,
    size: tuple[int, int],
    num_classes: int,
    in_chans: int,
) -> NDArray[np.float64]:
    """What a stage adds [3, cells] for each combination of the values of some entries, the others as in ``row``.

    ``which`` is None for the whole stage, 0 for all of it at a depth of one block, 1 for one further block.
    """
    import numpy as np

    shape = [len(values) for _, values in axes]
    columns = np.empty((len(row), math.prod(shape)))
    columns[:] = row[:, None]
    for (j, values), grid in zip(axes, np.indices(shape), strict=True):
        columns[j] = values[grid.ravel()]
    stages = family_of(template.family).stages
    if which is not None:
        columns[stages + stage] = 1 + which
    costs = np.array(
        np.broadcast_arrays(*_stage_costs(blocks_by_stage(template, columns, size, num_classes, in_chans)[stage]))
    )
    if which == 1:
        columns[stages + stage] = 1
        costs = costs - np.array(
            np.broadcast_arrays(*_stage_costs(blocks_by_stage(template, columns, size, num_classes, in_chans)[stage]))
        )
    return costs


def _stages_of_columns(template: Code, columns: Any, num_classes: int, in_chans: int) -> Any:
    family = family_of(template.family)
    n = family.stages
    zero = columns[0] * 0
    third = tuple(columns[2 * n :]) or (zero,) * n
    stem = columns[0] if family.stem_width is None else zero + template.stem_width
    fixed = Fixed(stem, zero + template.stage2_width, zero + template.stage2_depth, template.stride_in)
    return family.layout(tuple(columns[:n]), tuple(columns[n : 2 * n]), third, fixed, num_classes, in_chans)


def _template(space: Space | str) -> Code:
    """Any code with the fixed parts that all codes of the space share."""
    if isinstance(space, str):
        return Code.from_entries(space, family_of(space).original)
    return space.template


def checked_size(image_size: ImageSize) -> tuple[int, int]:
    """(height, width) [px] of an image size given as a side or a pair; a ``CodeError`` for anything else."""
    sides: Sequence[object] = image_size if isinstance(image_size, Sequence) else (image_size, image_size)
    pair = tuple(plain_number(side) for side in sides)
    if len(pair) != 2 or not all(
        isinstance(s, int) and not isinstance(s, bool) and 1 <= s <= MAX_IMAGE_SIZE for s in pair
    ):
        raise CodeError(
            f"image_size is {shown(image_size)}; allowed is a side from 1 to {MAX_IMAGE_SIZE} px, "
            "or a (height, width) pair of them."
        )
    return pair[0], pair[1]


def check_arguments(num_classes: object, in_chans: object) -> None:
    """A ``CodeError`` unless a network can have so many classes (from 0) and input channels (from 1)."""
    for name, value, least, most in (
        ("num_classes", num_classes, 0, _MOST_CLASSES),
        ("in_chans", in_chans, 1, MAX_WIDTH),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise CodeError(f"{name} is {shown(value)}; allowed is an integer from {least} to {most}.")
