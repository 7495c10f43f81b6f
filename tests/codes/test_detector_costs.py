"""What a detector costs, for many codes at once as for one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import VITS

from bsszoo.codes import depth
from bsszoo.codes.detector import (
    Detector,
    DetectorHead,
    backbone_cost,
    detector_cost,
    feature_stages,
    head_cost,
    network_cost,
)
from bsszoo.codes.families import FAMILIES
from bsszoo.errors import CodeError
from bsszoo.models.names import find_detector
from bsszoo.spaces import Space, cost_array
from bsszoo.spaces.chain import Chain
from bsszoo.spaces.space import fit_scale, uniform_code

PYRAMIDS = [name for name in sorted(FAMILIES) if FAMILIES[name].has_pyramid]
HEADS = (
    DetectorHead("maskrcnn"),
    DetectorHead("retinanet"),
    DetectorHead("retinanet", 5, "p5", 64),
    DetectorHead("maskrcnn", 3, channels=32),
)


@given(
    family=st.sampled_from(PYRAMIDS),
    head=st.sampled_from(HEADS),
    size=st.sampled_from((320, 800, 417)),
    seed=st.integers(0, 1000),
)
def test_the_terms_of_a_space_add_up_to_the_detectors_cost(
    family: str, head: DetectorHead, size: int, seed: int
) -> None:
    space = replace(Space.of(family), image_size=size, head=head)
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.integers(0, len(axis), 5) for axis in space.axes], axis=1)
    counted = Chain.of(space).costs(indices)
    for i, row in enumerate(space.rows(indices)):
        code = space.code(row.tolist())
        cost = detector_cost(head.on(code), size)
        assert counted[:, i].tolist() == [cost.macs, cost.params, cost.activations, depth(code)]
        assert space.cost(code) == cost


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(PYRAMIDS)))
def test_a_family_without_a_pyramid_is_no_backbone(family: str) -> None:
    assert family in VITS
    with pytest.raises(CodeError, match="no backbone of a detector: its features are at stride"):
        Detector("retinanet", Space.of(family).smallest)


@pytest.mark.parametrize("family", PYRAMIDS)
def test_the_features_of_a_family_are_the_stages_that_the_built_backbone_gives(family: str) -> None:
    from bsszoo.models.build import build

    code = Space.of(family).smallest
    indices = tuple(FAMILIES[family].feature_strides.index(stride) for stride in (4, 8, 16, 32))
    widths = build(code, features_only=True, out_indices=indices).feature_info.channels()
    mine = [code.widths[i] if i >= 0 else code.stage2_width for i in feature_stages(family)]
    assert mine == list(widths)


def test_the_fixed_part_and_the_parts_by_stage_are_the_whole() -> None:
    detector = find_detector("maskrcnn_resnet50")
    assert detector is not None
    head = head_cost(DetectorHead.of(detector), detector.backbone)
    beside = head.fixed.macs + sum(one.macs * detector.backbone.widths[i] for i, one in head.by_stage)
    assert detector_cost(detector).macs == beside + backbone_cost(detector.backbone).macs
    assert DetectorHead.of(detector).on(detector.backbone) == detector


def test_a_uniformly_rescaled_backbone_meets_the_detectors_budget() -> None:
    detector = find_detector("retinanet_resnet50")
    assert detector is not None
    head = DetectorHead.of(detector)
    scale = fit_scale(detector.backbone, 120_000_000_000, head=head)
    assert scale is not None
    assert network_cost(uniform_code(detector.backbone, scale), head).macs <= 120_000_000_000
    assert network_cost(uniform_code(detector.backbone, scale + 0.01), head).macs > 120_000_000_000


def test_a_narrower_pyramid_is_named_and_costs_less() -> None:
    narrow = find_detector("maskrcnn_fpn64_resnet18")
    wide = find_detector("maskrcnn_resnet18")
    assert narrow is not None
    assert wide is not None
    assert narrow == replace(wide, channels=64)
    assert find_detector(str(narrow)) == narrow
    assert str(narrow).startswith("maskrcnn_fpn64_resnet18_c64")
    assert detector_cost(narrow).macs < detector_cost(wide).macs / 2
    for name in ("maskrcnn_fpn4_resnet18", "retinanet_fpn99999_resnet18"):
        with pytest.raises(CodeError, match="allowed is an integer from 8 to 1024"):
            find_detector(name)


def test_costs_of_classifiers_are_not_counted_in_a_detectors_space() -> None:
    space = replace(Space.of("resnet18"), head=HEADS[0])
    with pytest.raises(CodeError, match="this space is of a detector's backbones"):
        cost_array(space, np.array([space.smallest.entries]))
    assert Detector("maskrcnn", space.smallest).num_classes == 91
