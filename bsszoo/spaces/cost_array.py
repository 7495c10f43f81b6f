"""``cost_array``: the costs of many codes at once, by the same layer list as ``cost.code_cost``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.cost import ImageSize, blocks_by_stage, check_arguments, checked_size, stage_sums, stages_of_columns
from bsszoo.codes.families import Family, family_of
from bsszoo.errors import CodeError
from bsszoo.spaces.space import Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    IntArray: TypeAlias = NDArray[np.int64]

# Rows at once: enough to spread numpy's cost per call, few enough that columns stay in the second cache level
# (benchmarks/cost_array.py; a quarter of it is slower for every family).
_CHUNK = 8192
# Entries up to which a table of all integers is no burden.
_MOST_LOOKED_UP = 1_000_000
_LOOKED_UP_CHUNK = 8192


class CostArray(NamedTuple):
    """The costs of n codes, three int64 arrays of shape [n]; row i belongs to code i."""

    macs: IntArray
    params: IntArray
    activations: IntArray


def cost_array(
    space: Space | str,
    codes: IntArray,
    *,
    image_size: ImageSize | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> CostArray:
    """The exact costs of n codes at once, equal to ``code_cost`` of each.

    Args:
        space: A ``Space``, whose fixed parts (stem, stage 2, input size, stride) the codes share, or a family's
            name, for the family's default fixed parts.
        codes: Integers of shape [n, d], columns in the order of the family's entries.
        image_size: As in ``code_cost``; by default the space's.
        num_classes: Outputs of the classifier; 0 counts the networks without one. By default the space's; 1000 for a
            family.
        in_chans: Channels of the input; by default the space's, 3 for a family.

    Raises:
        CodeError: ``codes`` has another shape, no integers, or an entry below 1; or a code's cost is beyond 2^53,
            where this function is not exact (``code_cost`` is).

    Example:
        >>> import numpy as np
        >>> from bsszoo.codes import Code
        >>> from bsszoo.spaces import cost_array
        >>> cost_array("resnet18", np.array([[64, 128, 256, 512, 2, 2, 2, 2]])).macs
        array([1814073344])
    """
    import numpy as np

    if not isinstance(space, str):
        num_classes = space.num_classes if num_classes is None else num_classes
        in_chans = space.in_chans if in_chans is None else in_chans
    num_classes, in_chans = 1000 if num_classes is None else num_classes, 3 if in_chans is None else in_chans
    check_arguments(num_classes, in_chans)
    if not isinstance(space, str) and space.head is not None:
        raise CodeError(
            "cost_array counts classifiers, and this space is of a detector's backbones: Space.cost counts "
            "one code, bsszoo.spaces.chain.Chain many."
        )
    template = _template(space)
    rows = _checked_rows(space, codes)
    size = checked_size(template.image_size if image_size is None else image_size)
    form = _form(space)
    counted = _looked_up(template, rows, size, num_classes, in_chans, form)
    if counted is not None:
        return CostArray(*counted)
    _check_groups(family_of(template.family), rows)
    out = np.empty((3, len(rows)), dtype=np.int64)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        # float64 multiplies several at a time where int64 does not, and is exact below 2^53 (9e15 MACs).
        columns = np.ascontiguousarray(rows[part].T, dtype=np.float64)
        stages = blocks_by_stage(template, columns, size, num_classes, in_chans, form)
        for kind, parts in enumerate(zip(*map(stage_sums, stages), strict=True)):
            column = sum(parts)
            if (top := column.max()) >= 2**53:
                raise CodeError(
                    f"codes[{start + int(column.argmax())}] has a cost of {top:.3g}; "
                    "above 2^53 only code_cost counts exactly."
                )
            out[kind, part] = column
    return CostArray(*out)


def _checked_rows(space: Space | str, codes: Any) -> IntArray:
    """The codes as the layer list takes them, [n, d]."""
    import numpy as np

    names = family_of(space).entry_names if isinstance(space, str) else space.entry_names
    family = space if isinstance(space, str) else space.family
    try:
        rows = np.asarray(codes)
    except ValueError:
        raise CodeError(f"codes are an array of shape [n, {len(names)}]; got rows of different lengths.") from None
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise CodeError(
            f"codes of {family} have the shape [n, {len(names)}] ({', '.join(names)}); got {list(rows.shape)}."
        )
    if not np.issubdtype(rows.dtype, np.integer):
        raise CodeError(f"codes are integers; got an array of {rows.dtype}.")
    if rows.size and rows.min() < 1:
        i, j = np.argwhere(rows < 1)[0]
        raise CodeError(f"codes[{i}, {j}] is {rows[i, j]}, but {names[j]} is at least 1.")
    return rows if isinstance(space, str) else space.columns(rows)


def _check_groups(family: Family, rows: IntArray) -> None:
    import numpy as np

    if "G" not in family.letter:
        return
    whole, group = (column[0] for column in _grouped_columns(family))
    if (broken := rows[:, whole : whole + family.stages] % rows[:, group : group + family.stages] != 0).any():
        i, j = np.argwhere(broken)[0]
        raise CodeError(
            f"codes[{i}, {whole + j}] is {rows[i, whole + j]}, which {family.entry_names[group + j]}, "
            f"{rows[i, group + j]}, does not divide."
        )


def _grouped_columns(family: Family) -> tuple[range, range]:
    """The columns of the widths that are made of whole groups (the inner ones, where there are), and of the groups'."""
    n = family.stages
    group = (2 + family.letter.index("G")) * n
    whole = 0 if family.whole_groups else 2 * n
    return range(whole, whole + n), range(group, group + n)


def depth_array(space: Space | str, codes: IntArray) -> IntArray:
    """The depths (``depth``) of n codes [n, d] at once, shape [n]."""
    import numpy as np

    template = _template(space)
    rows = _checked_rows(space, codes)
    _check_groups(family_of(template.family), rows)
    columns = rows.T.astype(np.int64)
    total = np.zeros(columns.shape[1], dtype=np.int64)
    for stage in stages_of_columns(template, columns, 1000, 3, _form(space)):
        for block, times in stage.counted():
            for layer in block.layers():
                if layer.role == "main":
                    total += layer.present * times
    return total


def _looked_up(
    template: Code, rows: IntArray, size: tuple[int, int], num_classes: int, in_chans: int, form: str
) -> IntArray | None:
    """The costs [3, n] of n codes by tables of what each stage adds; None where it would not pay, or not be exact.

    A stage adds what its first block costs, which depends on its own entries but the depth and on the width before it,
    and for each further block, where these are alike, what depends on its own entries alone. Codes of a search space
    have few values of each, so that far fewer combinations are counted than there are codes.
    """
    import numpy as np

    family = family_of(template.family)
    stages = family.stages
    if not len(rows) or (most := int(rows.max())) > _MOST_LOOKED_UP:
        return None
    # Some rows at a time, which stay in the cache while their columns are read: transposing all of them costs as much
    # as all else here.
    parts = [slice(start, start + _LOOKED_UP_CHUNK) for start in range(0, len(rows), _LOOKED_UP_CHUNK)]
    occurs = np.zeros((rows.shape[1], most + 1), dtype=bool)
    for part in parts:
        for present, column in zip(occurs, rows[part].T, strict=True):
            present[column] = True
    values = [np.flatnonzero(present) for present in occurs]
    indices = [np.cumsum(present, dtype=np.int32) - 1 for present in occurs]
    sizes = [len(v) for v in values]
    if "G" in family.letter:
        pairs = zip(*_grouped_columns(family), strict=True)
        if any((values[i][:, None] % values[j] != 0).any() for i, j in pairs):
            return None  # where not all of them go together each code has to be looked at
    # A stage whose further blocks differ has no cost of one further block.
    uneven = {stage.number - family.first_stage for stage in stages_of(template) if stage.further}
    terms: list[tuple[int, list[int], int | None]] = []
    for i in range(stages):
        before, entries = ([i - 1] if i else []), [i, *range(2 * stages + i, rows.shape[1], stages)]
        # With the depth on an axis of the table one look-up does for both, where the table stays small.
        whole = [*before, *entries, stages + i]
        if math.prod(sizes[j] for j in whole) <= len(rows) // 12:
            terms.append((i, whole, None))
        elif i not in uneven and math.prod(sizes[j] for j in (*before, *entries)) <= len(rows) // 8:
            terms += [(i, [*before, *entries], 0), (i, entries, 1)]
        else:
            return None
    tables = [
        _table(template, rows[0], [(j, values[j]) for j in axes], stage, which, size, num_classes, in_chans, form)
        for stage, axes, which in terms
    ]
    deepest = [1 if which != 1 else int(values[stages + stage][-1]) for stage, _, which in terms]
    if sum(float(t.max()) * most for t, most in zip(tables, deepest, strict=True)) >= 2**53:
        return None
    counts = [table.astype(np.int64) for table in tables]
    out = np.zeros((3, len(rows)), dtype=np.int64)
    for part in parts:
        columns = [column.copy() for column in rows[part].T]
        at = [index.take(column) for index, column in zip(indices, columns, strict=True)]
        sums = out[:, part]
        for (stage, axes, which), table in zip(terms, counts, strict=True):
            cell = at[axes[0]]
            for j in axes[1:]:
                cell = cell * np.int32(sizes[j]) + at[j]
            for total, kind in zip(sums, table, strict=True):
                cost = kind.take(cell)
                total += cost if which != 1 else cost * (columns[stages + stage] - 1)
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
    form: str,
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
        np.broadcast_arrays(*stage_sums(blocks_by_stage(template, columns, size, num_classes, in_chans, form)[stage]))
    )
    if which == 1:
        columns[stages + stage] = 1
        costs = costs - np.array(
            np.broadcast_arrays(
                *stage_sums(blocks_by_stage(template, columns, size, num_classes, in_chans, form)[stage])
            )
        )
    return costs


def _template(space: Space | str) -> Code:
    """Any code with the fixed parts that all codes of the space share."""
    if isinstance(space, str):
        return Code.from_entries(space, family_of(space).original)
    return space.template


def _form(space: Space | str) -> str:
    """The letters of the third entries of its codes."""
    return family_of(space).letter if isinstance(space, str) else space.form
