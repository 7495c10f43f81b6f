"""The one description of a network: stages of blocks, blocks of layers, in the order of the forward.

``nets`` builds every module from the ``Block`` values of this file and ``cost`` sums their layers, so that a
cost cannot drift from its network. The numbers of a block are integers for one code or integer columns [n] for n
codes at once: the same lines serve both (``N``). Layer names are the module paths of the built timm model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from bsszoo.codes.code import Code
from bsszoo.codes.families import family_of

# int for one code; a numpy array of shape [n] for n codes. Any keeps this module free of numpy.
N = TypeVar("N", int, Any)

Role = Literal["main", "shortcut", "gate", "classifier"]
BlockName = Literal["stem", "basic", "bottleneck", "mbconv", "head_conv", "classifier"]


@dataclass(frozen=True, slots=True)
class Layer(Generic[N]):
    """One convolution or linear layer with the batch normalisation that follows it.

    ``present`` is 1 or 0 (a column of both for many codes): a projection shortcut exists only where shapes differ,
    an expansion only where T > 1. ``role`` is ``main`` for the path whose length is the depth of the network,
    ``shortcut`` for a projection, ``gate`` for squeeze-and-excitation at 1x1, ``classifier`` for the last layer.
    """

    name: str
    in_width: N
    out_width: N
    kernel: int
    stride: int
    depthwise: bool
    bias: bool
    norm: bool
    role: Role
    present: N | int


@dataclass(frozen=True, slots=True)
class Block(Generic[N]):
    """One block: what ``nets`` needs to build it and ``block_layers`` to list its layers.

    ``mid_width`` is the bottleneck width B (bottleneck), the expanded width input x T (mbconv), else the output
    width. ``squeeze_width`` is the hidden width of squeeze-and-excitation, None without.
    """

    kind: BlockName
    name: str
    in_width: N
    out_width: N
    mid_width: N
    kernel: int
    stride: int
    squeeze_width: N | None = None
    stride_in: Literal["3x3", "1x1"] = "3x3"


@dataclass(frozen=True, slots=True)
class Stage(Generic[N]):
    """One stage: ``depth`` blocks, the first of which takes the stride and the change of width.

    ``number`` is the paper's stage number (1 is the stem). ``pool`` is the stride of a max pooling after it.
    """

    number: int
    name: str
    first: Block[N]
    rest: Block[N]
    depth: N
    pool: int = 1

    def blocks(self: Stage[int]) -> Iterator[Block[int]]:
        """The blocks one by one, named as the modules of the network."""
        if self.first.kind not in ("basic", "bottleneck", "mbconv"):
            yield self.first
            return
        yield replace(self.first, name=f"{self.name}.0")
        for i in range(1, self.depth):
            yield replace(self.rest, name=f"{self.name}.{i}")


def stages_of(code: Code, *, num_classes: int = 1000, in_chans: int = 3) -> tuple[Stage[int], ...]:
    """The stages of one code in the order of the forward: stem, searched stages, head, classifier."""
    third = code.bottlenecks or code.expansions or (0,) * len(code.widths)
    return stages(
        code.family, code.widths, code.depths, third, code.stem_width, code.stage2_width, code.stage2_depth,
        code.stride_in, num_classes, in_chans,
    )


def stages(
    family_name: str,
    widths: tuple[N, ...],
    depths: tuple[N, ...],
    third: tuple[N, ...],
    stem_width: N,
    stage2_width: N,
    stage2_depth: N,
    stride_in: Literal["3x3", "1x1"],
    num_classes: int,
    in_chans: int,
) -> tuple[Stage[N], ...]:
    """The stages of one code, or of n codes whose entries are columns [n]; ``third`` holds B or T."""
    family = family_of(family_name)
    zero = 0 * stem_width
    resnet = family.block != "mbconv"

    def single(kind: BlockName, number: int, name: str, width_in: N, width_out: N, kernel: int, stride: int,
               pool: int = 1) -> Stage[N]:
        block = Block(kind, name, width_in, width_out, width_out, kernel, stride)
        return Stage(number, name, block, block, zero + 1, pool)

    def stacked(number: int, name: str, width_in: N, width: N, depth: N, mid: N, rest_mid: N, kernel: int,
                stride: int) -> Stage[N]:
        def block(inside: N, middle: N, step: int) -> Block[N]:
            squeeze = _squeeze(inside) if family.squeeze_excite else None
            return Block(family.block, name, inside, width, middle, kernel, step, squeeze, stride_in)

        return Stage(number, name, block(width_in, mid, stride), block(width, rest_mid, 1), depth)

    out: list[Stage[N]] = [
        single("stem", 1, "conv1" if resnet else "conv_stem", zero + in_chans, stem_width,
               family.stem_kernel, 2, pool=2 if resnet else 1)
    ]
    width = stem_width
    if not resnet:
        # Stage 2 is fixed: kernel 3, stride 1, no expansion (T = 1), so its expanded width is its input width.
        out.append(stacked(2, "blocks.0", width, stage2_width, stage2_depth, width, stage2_width, 3, 1))
        width = stage2_width
    for i, (c, depth, t) in enumerate(zip(widths, depths, third, strict=True)):
        mid, rest_mid = {"basic": (c, c), "bottleneck": (t, t), "mbconv": (width * t, c * t)}[family.block]
        name = f"layer{i + 1}" if resnet else f"blocks.{i + 1}"
        number = family.first_stage + i
        out.append(stacked(number, name, width, c, depth, mid, rest_mid, family.kernels[i], family.strides[i]))
        width = c
    last = out[-1].number + 1
    if family.head_width is not None:
        out.append(single("head_conv", last, "conv_head", width, zero + family.head_width, 1, 1))
        width = zero + family.head_width
    out.append(single("classifier", last, "fc" if resnet else "classifier", width, zero + num_classes, 1, 1))
    return tuple(out)


def _squeeze(width: N) -> N:
    # A quarter of the block's input width (not of the expanded width), at least 1: EfficientNet's reference code.
    quarter = width // 4
    return quarter + (quarter == 0)


def layers_of(code: Code, *, num_classes: int = 1000, in_chans: int = 3) -> tuple[Layer[int], ...]:
    """Every convolution and linear layer of a code's network, in the order of its modules."""
    return tuple(
        layer
        for stage in stages_of(code, num_classes=num_classes, in_chans=in_chans)
        for block in stage.blocks()
        for layer in block_layers(block)
        if layer.present
    )


def block_layers(block: Block[N]) -> list[Layer[N]]:
    """The layers of one block in the order of its modules; absent ones have ``present`` 0."""
    a, b, m = block.in_width, block.out_width, block.mid_width

    def conv(name: str, width_in: N, width_out: N, kernel: int = 1, stride: int = 1, *, depthwise: bool = False,
             role: Role = "main", present: N | int = 1) -> Layer[N]:
        gate = role == "gate"
        name = f"{block.name}.{name}" if name else block.name
        return Layer(name, width_in, width_out, kernel, stride, depthwise, gate, not gate, role, present)

    if block.kind in ("stem", "head_conv"):
        return [conv("", a, b, block.kernel, block.stride)]
    if block.kind == "classifier":
        return [Layer(block.name, a, b, 1, 1, False, True, False, "classifier", 1)]

    if block.kind == "mbconv":
        # Without expansion (T = 1) timm's block is the depthwise-separable one and its projection is called conv_pw.
        expanded = 1 * (m != a)
        out: list[Layer[N]] = [
            conv("conv_pw", a, m, present=expanded),
            conv("conv_dw", m, m, block.kernel, block.stride, depthwise=True),
        ]
        if (s := block.squeeze_width) is not None:
            out += [conv("se.conv_reduce", m, s, role="gate"), conv("se.conv_expand", s, m, role="gate")]
        projection = "conv_pw" if _never(expanded) else "conv_pwl"
        return [*out, conv(projection, m, b)]

    if block.kind == "basic":
        out = [conv("conv1", a, b, 3, block.stride), conv("conv2", b, b, 3)]
    else:
        first, second = (block.stride, 1) if block.stride_in == "1x1" else (1, block.stride)
        out = [conv("conv1", a, m, 1, first), conv("conv2", m, m, 3, second), conv("conv3", m, b)]
    projected = 1 if block.stride != 1 else 1 * (a != b)
    return [*out, conv("downsample.0", a, b, 1, block.stride, role="shortcut", present=projected)]


def _never(present: object) -> bool:
    # For one code: is it 0? For many codes the column decides row by row, so the layer has to be listed.
    return isinstance(present, int) and present == 0
