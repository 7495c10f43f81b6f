"""Spaces of subnetworks: everything that is left of a network when channels and blocks are removed, costs exact."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CONVNEXTS, MOBILENETV4S, codes, some_by_default

from bsszoo.codes import Code, code_cost, depth, stages_of
from bsszoo.errors import SpaceError
from bsszoo.spaces import Limits, Space, cost_array, depth_array, draw_candidates
from bsszoo.spaces.chain import Chain, block_shapes, indices_of
from bsszoo.spaces.space import fit_scale, fit_subnetwork, uniform_code

BASES = {
    "resnet18": "resnet18_c24-48-96-192_l2-2-2-2_px32",
    "resnet18 with inner widths": "resnet18_c24-48-96-192_l2-2-1-2_b16-48-64-120_stem16_px32",
    "resnet50": "resnet50_c256-512-1024-2048_l3-4-6-3_b64-128-256-512_px64_stride1x1",
    "resnext": "resnext_c256-512-1024-2048_l3-4-6-3_b128-256-512-1024_g4-8-16-32_px64_stride1x1",
    "resnext with single groups": "resnext_c96-192-384-768_l2-2-2-2_b48-96-192-384_g24-8-1-64_stem16_px64",
    "seresnet18": "seresnet18_c24-48-96-192_l2-2-1-2_b16-48-64-120_stem16_px32",
    "seresnext": "seresnext_c256-512-1024-2048_l3-4-6-3_b128-256-512-1024_g4-8-16-32_px64",
    "mobilenetv2": "mobilenetv2_c12-16-24-32-56-112_l2-3-4-3-3-1_t6-3-6-6-6-6_stem16_stage2-8x1_px64",
    "efficientnet_b0": "efficientnet_b0_c24-40-80-112-192-320_l2-2-3-3-4-1_t6-6-6-6-6-6",
    "efficientnet": "efficientnet_c16-28-56-80-136-224_l2-2-3-3-4-1_t6-3-6-6-3-6_stem24_stage2-12x2_head256_px64",
    "semnasnet": "semnasnet_c12-16-24-32-56-112_l2-3-4-3-3-1_t6-3-6-6-6-6_stem16_stage2-8x1_px64",
    "efficientnetv2": "efficientnetv2_c24-32-64-80-128_l2-3-3-4-3_t4-4-4-6-6_stage2-16x2_head256_px64",
    "mobilenetv3_large": "mobilenetv3_large_c12-16-24-24-56-72_l2-3-1-3-3-2_b40-60-80-84-200-300_e36-60-80-80-200-300",
    "mobilenetv3_small": "mobilenetv3_small_c12-16-56-112_l2-3-2-2_t3-6-4-6_stage2-8x1_px64",
    "mobilenetv4_conv_small": "mobilenetv4_conv_small_c16-32-48-64_l1-1-6-6_t1-3-2-4_stem16_head96_px64",
    "mobilenetv4_conv_medium": "mobilenetv4_conv_medium_c24-40-56-72_l2-2-9-12_b64-96-128-256_e48-96-200-304_px64",
    "mobilenetv4_conv_large": "mobilenetv4_conv_large_c24-32-48-64_l1-1-4-13_t4-3-4-1_stem16_head96_px64",
    "ghostnet": "ghostnet_c24-40-80-112-160_l2-2-4-2-5_b72-120-200-672-960_e48-72-240-480-672_px96",
    "ghostnet as wide on": "ghostnet_c24-40-96-96-120_l2-2-3-2-4_t3-3-2-4-6_stem8_stage2-8x1_px64",
    "regnetx": "regnetx_c24-56-152-368_l1-1-4-7_g8-8-8-8",
    "convnext_atto": "convnext_atto_c40-80-160-320_l2-2-6-2_t4-4-4-4_px96",
    "convnextv2_tiny": "convnextv2_tiny_c48-96-192-384_l3-3-9-3_b100-384-700-1000_stem32_px96",
    "vit": "vit_patch8_c192-256-300-400_l3-2-3-1_b96-128-160-64_g32-64-16-64_stem96_px96",
}
OF_EACH = pytest.mark.parametrize("base", [Code.parse(text) for text in BASES.values()], ids=BASES)
#: By default one of each kind of block.
OF_SOME = pytest.mark.parametrize(
    "base",
    some_by_default(
        [Code.parse(text) for text in BASES.values()],
        [
            Code.parse(BASES[name])
            for name in (
                *("resnet18 with inner widths", "seresnext", "efficientnet", "regnetx", "mobilenetv3_large"),
                *("mobilenetv4_conv_medium", "ghostnet", "convnextv2_tiny", "vit"),
            )
        ],
    ),
    ids=BASES,
)


def widths_within(code: Code) -> list[list[tuple[int, int, int]]]:
    """Input, inner and output width of the blocks of each stage."""
    return [[(b.in_width, b.mid_width, b.out_width) for b in s.blocks()] for s in stages_of(code)]


@OF_EACH
def test_the_network_is_the_largest_and_no_other_has_anything_that_it_has_not(base):
    space = Space.subnetworks(base)
    assert space.largest == base
    assert base in space
    for row in space.sample(100, 0):
        code = space.code(row)
        assert code in space, space.reasons(code)
        for mine, whole in zip(widths_within(code), widths_within(base), strict=True):
            assert len(mine) <= len(whole)
            for block, of_whole in zip(mine, whole, strict=False):  # as many as the shallower one has
                assert all(a <= b for a, b in zip(block, of_whole, strict=True))
        assert all(a <= b for a, b in zip(code.depths, base.depths, strict=True))
        follows = base.family in ("resnet18", "seresnet18", *CONVNEXTS) and base.stem_width == base.widths[0]
        assert code.stem_width == (code.widths[0] if follows else base.stem_width)
        for name in ("stage2_width", "stage2_depth", "image_size", "stride_in"):
            assert getattr(code, name) == getattr(base, name)


@OF_EACH
def test_costs_of_many_at_once_are_those_of_each_with_its_classes_and_channels(base):
    space = Space.subnetworks(base, num_classes=7, in_chans=1)
    rows = space.sample(60, 1)
    costs, depths = cost_array(space, rows), depth_array(space, rows)
    chain = Chain.of(space, lambda shape: shape.mid_width + 7 * shape.size)
    at = indices_of(space, rows)
    assert (space.rows(at) == rows).all()
    for i, row in enumerate(rows):
        code = space.code(row)
        cost = code_cost(code, num_classes=7, in_chans=1)
        value = sum(shape.mid_width + 7 * shape.size for shape in block_shapes(code, num_classes=7, in_chans=1))
        assert space.cost(code) == cost
        assert (costs.macs[i], costs.params[i], costs.activations[i]) == (cost.macs, cost.params, cost.activations)
        assert depths[i] == depth(code)
        assert chain.costs(at[i : i + 1])[:, 0].tolist() == [
            cost.macs,
            cost.params,
            cost.activations,
            depth(code),
            value,
        ]


@OF_EACH
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_budgets_are_met_closely(base, share):
    space = Space.subnetworks(base, num_classes=10)
    most = int(share * space.cost(base).macs)
    drawn = draw_candidates(space, Limits(min_macs=int(0.9 * most), max_macs=most), 300, 0)
    assert len(drawn) == 300
    assert drawn.macs.max() > 0.99 * most
    assert len({space.code(row) for row in drawn.codes}) > 290


def test_a_small_space_gives_exactly_the_feasible_subnetworks():
    base = Code.parse("mobilenetv2_c6-8-8-8-8-8_l2-1-1-1-1-1_t4-3-3-3-3-3_px32")
    space = Space.subnetworks(base).replace(C4=[8], C5=[8], C6=[8], C7=[6, 8], B5=[24], B6=[24], B7=[12, 24])
    every = space.rows(np.array(list(itertools.product(*(range(len(axis)) for axis in space.axes)))))
    costs = cost_array(space, every)
    low, high = (int(np.quantile(costs.macs, q)) for q in (0.4, 0.6))
    drawn = draw_candidates(space, Limits(min_macs=low, max_macs=high), len(every), 0)
    inside = every[(costs.macs >= low) & (costs.macs <= high)]
    assert sorted(map(tuple, drawn.codes)) == sorted(map(tuple, inside))


def test_steps_follow_the_divisor_and_the_width():
    base = Code.parse("resnet18_c20-48-100-512_l2-2-2-2")
    space = Space.subnetworks(base)
    assert space.widths[0] == (4, 6, 8, 10, 12, 14, 16, 18, 20)
    assert space.widths[1] == (8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48)
    assert space.widths[2] == (16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100)
    assert space.widths[3] == tuple(range(64, 513, 32))
    assert space.widths == tuple(tuple(map(int, axis)) for axis in space.thirds)
    finest = Space.subnetworks(base, divisor=1)
    assert finest.widths[0] == (*range(4, 20, 2), 20)
    assert finest.widths[1] == tuple(range(6, 49, 3))
    with pytest.raises(SpaceError, match="divisor is 0"):
        Space.subnetworks(base, divisor=0)


@settings(max_examples=60, deadline=None)
@given(codes(max_width=200, max_depth=5), st.integers(0, 10**6))
def test_any_network_has_subnetworks(base, seed):
    # Where the expansion is 1, blocks of ConvNeXts, MobileNetV4s and GhostNets have an inner width all the same.
    if 1 in base.expansions and base.family not in (*CONVNEXTS, *MOBILENETV4S, "ghostnet"):
        with pytest.raises(SpaceError, match="no expansion"):
            Space.subnetworks(base)
        return
    space = Space.subnetworks(base)
    assert base in space, space.reasons(base)
    for row in space.sample(3, seed):
        code = space.code(row)
        assert code in space, space.reasons(code)
        assert Code.parse(str(code)) == code
        assert space.cost(code).macs <= space.cost(base).macs


def test_an_inner_width_of_the_first_block_that_goes_with_no_other_is_outside():
    base = Code.parse("mobilenetv2_c24-32-64-96-160-320_l2-3-4-3-3-1_t6-6-6-6-6-6")
    space = Space.subnetworks(base)
    wrong = replace(base, expansions=(), bottlenecks=(144, 192, 384, 576, 960, 960))
    assert (
        space.reasons(wrong)[0] == "B3 and E3 are 144 and 144; allowed are (32, 24), (48, 32), (64, 40), .., (144, 96)"
    )
    # In a stage of one block B means nothing.
    assert [reason[:2] for reason in space.reasons(wrong)] == ["B3", "B4", "B5", "B6", "B7"]
    outside = "its blocks have inner widths of their own, which no code of this space has"
    assert Space.of("mobilenetv2").reasons(wrong) == (outside,)


@pytest.mark.parametrize(
    "text",
    [
        "resnet18_c64-128-256-512_l2-2-2-2_b48-96-160-320",
        "mobilenetv2_c32-64-64-96-160-320_l2-3-4-3-3-1_b144-160-384-576-960-960_e96-144-192-384-576-960",
    ],
)
def test_the_uniformly_rescaled_subnetwork_rescales_inner_widths_too(text):
    base = Code.parse(text)
    half = uniform_code(base, 0.5)
    assert all(2 * a == b for a, b in zip(half.thirds + half.widths, base.thirds + base.widths, strict=True))
    fitted = fit_scale(base, int(0.5 * code_cost(base).macs))
    assert fitted is not None
    assert 0.4 < code_cost(uniform_code(base, fitted)).macs / code_cost(base).macs <= 0.5


@OF_SOME
def test_a_grown_space_holds_the_subnetworks_and_codes_that_are_larger_in_parts(base):
    space = Space.subnetworks(base, grow=1.5, num_classes=10)
    plain = Space.subnetworks(base, num_classes=10)
    for mine, its in zip(space.axes, plain.axes, strict=True):
        own = its[-1]
        assert [v for v in mine if v <= own] == list(its)
        assert own <= max(mine) <= np.ceil(1.5 * own)
    rows = space.sample(60, 0)
    costs = cost_array(space, rows)
    for i, row in enumerate(rows):
        code = space.code(row)
        assert code in space, space.reasons(code)
        assert space.cost(code).macs == costs.macs[i]
    whole = space.cost(base).macs
    drawn = draw_candidates(space, Limits(min_macs=int(0.45 * whole), max_macs=int(0.5 * whole)), 200, 0)
    own = np.array([axis[-1] for axis in plain.axes], dtype=float)
    assert ((drawn.codes > own).any(1) & (drawn.codes < own).any(1)).mean() > 0.5
    # The control of a budget above the network's own is wider, at its depths.
    wider = fit_subnetwork(space, int(1.4 * whole))
    assert wider is not None
    assert wider.depths == base.depths
    assert 1.1 < space.cost(wider).macs / whole <= 1.4
    assert fit_subnetwork(space, whole) == base
    with pytest.raises(SpaceError, match=r"grow is 0\.5"):
        Space.subnetworks(base, grow=0.5)
