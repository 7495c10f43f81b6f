"""Costs as sums over a chain of stages: equal to the counted costs, block by block too."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import some_by_default

from bsszoo.codes import FAMILIES, Code, code_cost, depth, stages_of
from bsszoo.errors import CodeError, SpaceError
from bsszoo.spaces import Space
from bsszoo.spaces.chain import BlockShape, Chain, block_shapes, indices_of, space_shapes


def _drawn(space, n, seed):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(len(axis), size=n) for axis in space.axes], axis=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", some_by_default([1, 0.55], [0.55]))
def test_sums_of_terms_are_the_costs_of_the_codes(family, scale):
    space = Space.of(family).scaled(scale)
    chain = Chain.of(space, lambda shape: shape.in_width + 7 * shape.size)
    indices = _drawn(space, 40, 0)
    for at, row in zip(indices, space.rows(indices), strict=True):
        code = space.code(row)
        cost = code_cost(code)
        value = sum(shape.in_width + 7 * shape.size for shape in block_shapes(code))
        assert chain.costs(at[None])[:, 0].tolist() == [cost.macs, cost.params, cost.activations, depth(code), value]


@pytest.mark.parametrize("family", FAMILIES)
def test_extremes_are_those_of_the_smallest_and_the_largest_code(family):
    space = Space.of(family)
    least, most = Chain.of(space).extremes()
    for code, ends in ((space.smallest, least), (space.largest, most)):
        assert (code_cost(code).macs, code_cost(code).params, depth(code)) == (ends[0], ends[1], ends[3])


def test_extremes_where_a_wider_stage_costs_less_than_a_narrower_one():
    # A ResNet-50 block as wide as the stem has no projection.
    space = Space.of("resnet50").replace(
        C2=[56, 64],
        C3=[128],
        C4=[256],
        C5=[512],
        B2=[1 / 8],
        B3=[1 / 4],
        B4=[1 / 8],
        B5=[1 / 8],
        L2=[1],
        L3=[1],
        L4=[1],
        L5=[1],
    )
    macs = [code_cost(space.code(row)).macs for row in space.rows(np.array([[0] * 12, [1] + [0] * 11]))]
    assert macs[0] > macs[1]
    assert Chain.of(space).extremes()[0][0] == min(macs)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shapes_of_a_code_are_those_of_its_layers(family):
    space = Space.of(family)
    code = space.code(space.sample(1, 3)[0])
    blocks = [block for stage in stages_of(code) for block in stage.blocks()]
    shapes = block_shapes(code)
    assert [(s.kind, s.in_width, s.out_width, s.mid_width, s.stride) for s in shapes] == [
        (b.kind, b.in_width, b.out_width, b.mid_width, b.stride) for b in blocks
    ]
    assert set(shapes) <= set(space_shapes(space))
    # Their costs, layer by layer at the sizes that the shapes state, are the network's.
    assert sum(_macs(block, shape.size) for block, shape in zip(blocks, shapes, strict=True)) == code_cost(code).macs


def _macs(block, size):
    total, main, beside = 0, size, size
    for layer in block.layers():
        if layer.role == "norm":
            continue
        start = {"gate": 1, "shortcut": beside}.get(layer.role, main)
        side = -(-start // layer.stride)
        weights = layer.kernel**2 * layer.out_width * layer.group_width
        positions = side**2 + layer.tokens
        total += layer.present * weights * positions + 2 * layer.attends * positions**2 * layer.in_width
        main = side if layer.role == "main" else main
        beside = side if layer.role == "shortcut" else beside
    return total


def test_every_shape_of_a_small_space_occurs_in_a_code():
    space = Space.of("efficientnet_b0").replace(
        C3=[16, 20],
        C4=[24],
        C5=[48],
        C6=[56, 84],
        C7=[144],
        C8=[160],
        L3=[1, 2],
        L4=[1],
        L5=[1],
        L6=[1, 2],
        L7=[1],
        L8=[1],
        T3=[3, 6],
        T4=[3],
        T5=[3],
        T6=[6],
        T7=[6],
        T8=[3],
    )
    every = np.array([list(np.ndindex(*(len(axis) for axis in space.axes)))])[0]
    seen = Counter(shape for row in space.rows(every) for shape in block_shapes(space.code(row)))
    assert space_shapes(space) == sorted(seen)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 10**6))
def test_places_and_shapes_are_read_back(family, seed):
    space = Space.of(family)
    indices = _drawn(space, 5, seed)
    codes = space.rows(indices)
    assert (indices_of(space, codes) == indices).all()
    for shape in block_shapes(space.code(codes[0])):
        assert BlockShape.parse(str(shape)) == shape


def test_what_is_no_place_and_no_shape_is_told():
    space = Space.of("resnet50")
    with pytest.raises(SpaceError, match="its C3 is 100"):
        indices_of(space, np.array([[64, 100, 256, 512, 1, 1, 1, 1, 8, 16, 32, 64]]))
    with pytest.raises(SpaceError, match="its B2 is 9"):
        indices_of(space, np.array([[64, 128, 256, 512, 1, 1, 1, 1, 9, 16, 32, 64]]))
    with pytest.raises(CodeError, match="is no block"):
        BlockShape.parse("mbconv_16_24")


def test_a_block_of_depth_one_needs_no_second_kind_of_block():
    space = Space.of("resnet18").replace(L2=[1], L3=[1], L4=[1], L5=[1])
    assert all(
        shape.in_width != shape.out_width or shape.stride == 2 or shape.kind in ("stem", "basic")
        for shape in space_shapes(space)
    )
    code = Code.parse("resnet18_c64-128-256-512_l1-1-1-1")
    assert len(block_shapes(code)) == 6
