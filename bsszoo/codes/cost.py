"""What a code costs: multiply-adds, parameters and activations, summed over the layer list of ``layers.py``.

Notation:
    k   kernel side          c_in, c_out  channels of a layer        h, w  its output's height and width [px]
    n   positions of its output: h * w, and the tokens beside them
    MACs        k*k * c_in * c_out * n   (depthwise: k*k * c_out * n); norms, activations, softmax, pooling: 0
                attention: 2 * n*n * c_in more, of its two products, c_in the channels that its projection reads
    params      k*k * c_in * c_out, a bias c_out, a batch norm 2 * c_out, every element of ``Layer.vectors``
    activations c_out * n, elements of the outputs of all convolutions (as pycls counts; no linear layer but those
                on each pixel, which are 1x1 convolutions, nor attention's products)

The paper's FLOPs are these MACs. Tools that call 2 x MACs "FLOPs" (NVIDIA Model Optimizer among them) show twice
the figure for the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from bsszoo.codes.code import MAX_IMAGE_SIZE, MAX_WIDTH, Code, plain_number, stages_of
from bsszoo.codes.families import Fixed, family_of
from bsszoo.codes.layers import Block, N
from bsszoo.errors import CodeError, formatted

ImageSize: TypeAlias = "int | tuple[int, int]"

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

    ``inner`` of a row is the first block's inner width, 0 where that is its output width.
    """
    check_arguments(num_classes, in_chans)
    size = checked_size(code.image_size if image_size is None else image_size)
    rows = []
    for stage in stages_of(code, num_classes=max(num_classes, 1), in_chans=in_chans):
        if stage.first.classifies and num_classes == 0:
            break
        if stage.first.pooled:
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


# -- one fold for both ----------------------------------------------------------------------------------------


def block_cost(block: Block[N], size: tuple[int, int]) -> tuple[tuple[N, N, N], tuple[int, int]]:
    """MACs, params and activations of one block whose input has this size, and the size of its output."""
    macs = params = activations = 0 * block.in_width
    main = beside = size
    for layer in block.layers():
        for vector in layer.vectors:
            params = params + vector.width * max(vector.tokens, 1) * layer.present
        if layer.role == "norm":
            continue
        start = (1, 1) if layer.role == "gate" else beside if layer.role == "shortcut" else main
        h, w = layer.output_size(start)
        outputs = layer.out_width
        weights = outputs * (layer.kernel * layer.kernel)
        if not (isinstance(layer.group_width, int) and layer.group_width == 1):
            weights = weights * layer.group_width
        if not (isinstance(layer.present, int) and layer.present == 1):  # a column has no single truth value
            outputs, weights = outputs * layer.present, weights * layer.present
        positions = h * w + layer.tokens
        macs = macs + weights * positions
        if layer.attends:
            macs = macs + 2 * positions * positions * layer.in_width
        params = params + weights + outputs * (layer.bias + (2 if layer.norm else 0))
        if layer.role != "classifier":
            activations = activations + outputs * positions
        if layer.role == "main":
            main = (h, w)
        elif layer.role == "shortcut":
            beside = (h, w)
    return (macs, params, activations), main


def blocks_by_stage(
    template: Code, columns: Any, size: tuple[int, int], num_classes: int, in_chans: int, form: str
) -> list[list[tuple[Block[Any], Any, tuple[int, int]]]]:
    """The blocks of each searched stage of n codes, columns [d, n]: (block, how many times, size of its input).

    ``form`` are the letters of the codes' third entries, which the template may have others of.

    The stem and the fixed second stage count towards the first searched stage, head and classifier towards the last.
    Sizes are the same for all codes.
    """
    family = family_of(template.family)
    out: list[list[Any]] = [[] for _ in range(family.stages)]
    one = columns[0] * 0 + 1
    for k, stage in enumerate(stages_of_columns(template, columns, max(num_classes, 1), in_chans, form)):
        blocks = out[min(max(k - (family.first_stage - 1), 0), family.stages - 1)]
        if stage.first.classifies and num_classes == 0:
            break
        if stage.first.pooled:
            size = (1, 1)
        (first, _), *behind = stage.counted()
        blocks.append((first, one, size))
        size = first.output_size(size)
        blocks += [(block, times, size) for block, times in behind]
        size = (-(-size[0] // stage.pool), -(-size[1] // stage.pool))
    return out


def stage_sums(blocks: list[tuple[Block[Any], Any, tuple[int, int]]]) -> list[Any]:
    """MACs, parameters and activations of the blocks of a stage, each [n]."""
    macs = params = activations = 0
    for block, times, size in blocks:
        one, _ = block_cost(block, size)
        macs, params, activations = macs + one[0] * times, params + one[1] * times, activations + one[2] * times
    return [macs, params, activations]


def stages_of_columns(template: Code, columns: Any, num_classes: int, in_chans: int, form: str) -> Any:
    """The stages of n codes, columns [d, n], with the fixed parts of a template; ``form`` as ``blocks_by_stage``."""
    family = family_of(template.family)
    n = family.stages
    zero = columns[0] * 0
    follows = family.stem_width is None and template.stem_width == template.widths[0]
    stem = columns[0] if follows else zero + template.stem_width
    stage2 = zero + template.stage2_width, zero + template.stage2_depth
    fixed = Fixed(stem, *stage2, template.stride_in, form, zero + template.head_width, template.image_size)
    widths, depths, thirds = tuple(columns[:n]), tuple(columns[n : 2 * n]), tuple(columns[2 * n :])
    return family.layout(widths, depths, thirds, fixed, num_classes, in_chans)


def checked_size(image_size: ImageSize) -> tuple[int, int]:
    """(height, width) [px] of an image size, a side or a pair; a ``CodeError`` for anything else."""
    sides: Sequence[object] = image_size if isinstance(image_size, Sequence) else (image_size, image_size)
    pair = tuple(plain_number(side) for side in sides)
    if len(pair) != 2 or not all(
        isinstance(s, int) and not isinstance(s, bool) and 1 <= s <= MAX_IMAGE_SIZE for s in pair
    ):
        raise CodeError(
            f"image_size is {formatted(image_size)}; allowed is a side from 1 to {MAX_IMAGE_SIZE} px, "
            "or a (height, width) pair of them."
        )
    return pair[0], pair[1]


def check_arguments(num_classes: object, in_chans: object) -> None:
    """Raise a ``CodeError`` unless ``num_classes`` is an integer from 0 and ``in_chans`` one from 1, within limits."""
    for name, value, least, most in (
        ("num_classes", num_classes, 0, _MOST_CLASSES),
        ("in_chans", in_chans, 1, MAX_WIDTH),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise CodeError(f"{name} is {formatted(value)}; allowed is an integer from {least} to {most}.")
