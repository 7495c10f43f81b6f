"""Costs: against a count written apart from the package, and one code against an array of codes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from forward_count import MBCONV, MOBILENETV4, Walk, convnext, ghostnet, mbconv_net, mobilenetv4, regnet, resnet, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BOTTLENECKS, CONVNEXTS, FAMILY_NAMES, LEAST_SIDES, REGNETS, RESNETS, VITS, codes, some_by_default

from bsszoo.codes import FAMILIES, Code, Cost, code_cost, depth, layers_of, stage_costs
from bsszoo.codes.families.mobilenetv2 import MBConv
from bsszoo.codes.layers import Stage
from bsszoo.errors import CodeError, UnknownNameError
from bsszoo.spaces import Space, cost_array, depth_array

SIZES = st.one_of(st.none(), st.integers(1, 600), st.tuples(st.integers(1, 600), st.integers(1, 600)))


def fitting(family: str, size: object) -> object:
    """The size, or the nearest one that the family's networks take."""
    if size is None:
        return size
    least = LEAST_SIDES.get(family, 1)
    return tuple(max(least, side) for side in size) if isinstance(size, tuple) else max(least, size)  # type: ignore[call-overload]


def original(family: str) -> Code:
    return Code.from_entries(family, FAMILIES[family].original, stage2_depth=FAMILIES[family].original_stage2_depth)


def walked(code: Code, size: object = None, *, in_chans: int = 3, num_classes: int = 1000) -> Walk:
    """The independent count of a code's network."""
    pair = size if isinstance(size, tuple) else (size or code.image_size,) * 2
    common = {"size": pair, "in_chans": in_chans, "classes": num_classes}
    if code.family in RESNETS:
        basic = code.family not in BOTTLENECKS
        how = {
            "stride_in": code.stride_in,
            "basic": code.bottlenecks if basic else None,
            "g": code.group_widths or None,
            "squeeze": code.family.startswith("se"),
            **common,
        }
        return resnet(code.widths, code.depths, None if basic else code.bottlenecks, code.stem_width, **how)
    if code.family in REGNETS:
        return regnet(
            code.widths, code.depths, code.group_widths, code.stem_width, squeeze=code.family == "regnety", **common
        )
    if code.family in CONVNEXTS:
        inner = code.bottlenecks or [t * c for t, c in zip(code.expansions, code.widths, strict=True)]
        v2 = code.family.startswith("convnextv2")
        return convnext(code.widths, code.depths, inner, code.stem_width, responds=v2, **common)
    if code.family in VITS:
        sizes = {"patch": VITS[code.family], "trained_at": code.image_size}
        return vit(code.widths, code.depths, code.bottlenecks, code.stem_width, **sizes, **common)
    parts = {
        "stem": code.stem_width,
        "head": code.head_width,
        "inner": list(zip(code.first_bottlenecks, code.bottlenecks, strict=True)) or None,
        **common,
    }
    if code.family in MOBILENETV4:
        return mobilenetv4(code.family, code.widths, code.depths, code.expansions, **parts)
    parts["stage2"] = (code.stage2_width, code.stage2_depth)
    if code.family == "ghostnet":
        return ghostnet(code.widths, code.depths, code.expansions, **parts)
    efficient = code.family.startswith("mobilenetv3")
    return mbconv_net(code.widths, code.depths, code.expansions, efficient=efficient, **MBCONV[code.family], **parts)


def figures(walk: Walk) -> Cost:
    return Cost(walk.macs, walk.params, walk.activations)


class TestAgainstTheIndependentCount:
    @given(codes(), SIZES, st.integers(1, 5), st.integers(0, 2000))
    @settings(max_examples=300)
    def test_any_code_at_any_size(self, code: Code, size: object, in_chans: int, num_classes: int) -> None:
        size = fitting(code.family, size)
        walk = walked(code, size, in_chans=in_chans, num_classes=num_classes)
        assert code_cost(code, size, num_classes=num_classes, in_chans=in_chans) == figures(walk)  # type: ignore[arg-type]
        assert depth(code) == walk.main_convs

    @pytest.mark.parametrize("family", FAMILY_NAMES)
    def test_random_codes_of_the_papers_space(self, family: str) -> None:
        space = Space.of(family)
        for row in space.sample(60, 0):
            code = space.code(row)
            assert code_cost(code) == figures(walked(code))

    def test_published_parameter_counts_of_the_originals(self) -> None:
        # As torchvision prints them for resnet18, resnet50, mobilenet_v2, efficientnet_b0 and _b1, ..
        assert {f: code_cost(original(f)).params for f in FAMILIES} == {
            "resnet18": 11_689_512,
            "resnet50": 25_557_032,
            "mobilenetv2": 3_504_872,
            "efficientnet_b0": 5_288_548,
            "efficientnet_b1": 7_794_184,
            "efficientnet": 19_341_616,  # efficientnet_b4
            "efficientnet_lite": 4_652_008,
            "tf_efficientnet_lite": 4_652_008,
            "efficientnetv2": 21_458_488,
            "tf_efficientnetv2": 21_458_488,
            "mnasnet": 4_383_312,
            "semnasnet": 3_887_038,
            "mnasnet_small": 2_030_264,
            # Of whole expansions; the published networks' are in test_the_zoo_has_timms_parameters.
            "mobilenetv3_large": 5_508_480,
            "mobilenetv3_small": 2_554_360,
            "ghostnet": 5_182_896,
            "mobilenetv4_conv_small": 3_774_024,
            "mobilenetv4_conv_medium": 9_715_512,
            "mobilenetv4_conv_large": 32_590_864,
            "regnetx": 15_296_552,
            "regnety": 19_436_338,  # regnet_x_3_2gf and regnet_y_3_2gf
            # As timm's networks have them.
            "resnext": 25_028_904,
            "seresnet18": 11_779_624,
            "seresnet50": 28_088_024,
            "seresnext": 27_559_896,
            "convnext_atto": 3_695_520,  # timm's, as its repository prints them in millions
            "convnext_tiny": 28_589_128,
            "convnextv2_atto": 3_708_400,
            "convnextv2_tiny": 28_635_496,
            "deit": 5_717_416,  # timm's of deit_tiny_patch16_224
            "vit_patch16": 5_717_416,
            "vit_patch32": 22_878_952,  # vit_small_patch32_224
            "vit_patch8": 86_576_872,  # vit_base_patch8_224
            "vit_patch4": 5_553_832,  # of its VisionTransformer, 192 wide with 12 blocks
        }

    def test_depths_of_the_originals(self) -> None:
        # The published depth counts the classifier as well, which is no convolution.
        assert depth(original("resnet18")) + 1 == 18
        assert depth(original("resnet50")) + 1 == 50
        assert depth(original("mobilenetv2")) == 52


class TestStages:
    @given(st.integers(0, 4), st.data())
    def test_blocks_that_differ_are_counted_as_they_follow_one_another(self, further: int, data: st.DataObject) -> None:
        repeats, depths = data.draw(st.integers(1, further + 1)), np.arange(1, 14)
        forms = [MBConv("", 8, 8, 8 * i, 3, 1) for i in range(further + 2)]

        def made(depth: Any) -> Stage[Any]:
            return Stage(2, "blocks.0", forms[0], forms[1], depth, further=tuple(forms[2:]), repeats=repeats)

        counted = np.array([np.broadcast_to(times, depths.shape) for _, times in made(depths).counted()])
        order = list(range(further + 2))
        while len(order) < depths[-1]:
            order.append(order[-repeats])
        for j, length in enumerate(depths.tolist()):
            assert [block.mid_width // 8 for block in made(length).blocks()] == order[:length]
            assert [times for _, times in made(length).counted()] == counted[:, j].tolist()
            assert counted[:, j].tolist() == [order[:length].count(i) for i in range(further + 2)]

    @given(codes(max_width=400), SIZES, st.integers(0, 100))
    def test_rows_sum_to_the_total(self, code: Code, size: object, num_classes: int) -> None:
        size = fitting(code.family, size)
        rows = stage_costs(code, size, num_classes=num_classes, in_chans=2)  # type: ignore[arg-type]
        total = code_cost(code, size, num_classes=num_classes, in_chans=2)  # type: ignore[arg-type]
        assert sum((row.cost for row in rows), Cost(0, 0, 0)) == total

    def test_table_2_of_the_paper(self) -> None:
        rows = stage_costs(original("mobilenetv2"))
        assert [(r.number, r.width, r.depth) for r in rows] == [
            (1, 32, 1),
            (2, 16, 1),
            (3, 24, 2),
            (4, 32, 3),
            (5, 64, 4),
            (6, 96, 3),
            (7, 160, 3),
            (8, 320, 1),
            (9, 1280, 1),
            (9, 1000, 1),
        ]
        # The paper prints the size that enters a stage; the table here has the size that leaves it.
        assert [r.size[0] for r in rows] == [112, 112, 56, 28, 14, 14, 7, 7, 7, 1]

    def test_sizes_of_a_resnet_include_the_pooling(self) -> None:
        rows = stage_costs(original("resnet18"), (200, 333))
        assert [r.size for r in rows] == [(50, 84), (50, 84), (25, 42), (13, 21), (7, 11), (1, 1)]

    def test_without_classes_there_is_no_classifier_row(self) -> None:
        code = original("resnet50")
        assert [r.name for r in stage_costs(code, num_classes=0)] == ["conv1", "layer1", "layer2", "layer3", "layer4"]
        assert code_cost(code).params - code_cost(code, num_classes=0).params == 2048 * 1000 + 1000

    @given(codes(max_width=50))
    def test_layers_have_unique_names_and_chain(self, code: Code) -> None:
        layers = layers_of(code)
        assert len({layer.name for layer in layers}) == len(layers)
        main = [layer for layer in layers if layer.role in ("main", "classifier")]
        for a, b in itertools.pairwise(main):
            # What is appended has the width of its input, less one channel where both are an odd number.
            wide = a.out_width // a.fused + (a.in_width if a.appended else 0)
            assert b.in_width in ((wide - 1, wide) if a.appended else (wide,))


class TestArrays:
    @given(
        st.lists(codes(max_width=3000, fixed_parts=False), min_size=1, max_size=6),
        SIZES,
        st.integers(1, 4),
        st.integers(0, 300),
    )
    @settings(max_examples=150)
    def test_odd_codes_equal_the_scalar_count(
        self, several: list[Code], size: object, in_chans: int, num_classes: int
    ) -> None:
        for family in {code.family for code in several}:
            mine = [code for code in several if code.family == family and code.form == FAMILIES[family].letter]
            if not mine:
                continue  # subnetworks: tests/spaces/test_subnetworks.py
            rows, size = np.array([code.entries for code in mine]), fitting(family, size)
            got = cost_array(family, rows, image_size=size, in_chans=in_chans, num_classes=num_classes)  # type: ignore[arg-type]
            wanted = [code_cost(c, size, in_chans=in_chans, num_classes=num_classes) for c in mine]  # type: ignore[arg-type]
            assert list(map(Cost, *(column.tolist() for column in got))) == wanted
            assert depth_array(family, rows).tolist() == [depth(c) for c in mine]

    @pytest.mark.parametrize("family", FAMILY_NAMES)
    @pytest.mark.parametrize("scale", some_by_default([1, 0.6], [0.6]))
    def test_sampled_codes_of_a_space_equal_the_scalar_count(self, family: str, scale: float) -> None:
        space = Space.of(family).scaled(scale)
        rows = space.sample(200, 2)
        got = cost_array(space, rows)
        assert all(column.dtype == np.int64 and column.shape == (200,) for column in got)
        for i, row in enumerate(rows):
            code = space.code(row)
            assert Cost(*(int(column[i]) for column in got)) == code_cost(code)
            assert int(depth_array(space, rows[i : i + 1])[0]) == depth(code)

    def test_the_fixed_parts_of_the_space_count(self) -> None:
        whole = Space.of("resnet50")
        caffe = replace(whole, stride_in="1x1", image_size=800, stem_width=32)
        row = np.array([FAMILIES["resnet50"].original])
        code = Code.from_entries("resnet50", row[0], stride_in="1x1", image_size=800, stem_width=32)
        assert cost_array(caffe, row).macs[0] == code_cost(code).macs != cost_array(whole, row).macs[0]

    def test_more_codes_than_one_chunk_keep_their_order(self) -> None:
        space = Space.of("mobilenetv2")
        rows = space.sample(40_000, 4)
        macs = cost_array(space, rows).macs
        for i in (0, *(2**k - 1 for k in range(10, 16)), *(2**k for k in range(10, 16)), 39_999):
            assert macs[i] == code_cost(space.code(rows[i])).macs

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64])
    def test_small_integer_types_do_not_overflow(self, kind: type) -> None:
        rows = np.array([[200, 201, 202, 203, 2, 2, 2, 2]], dtype=kind)
        assert cost_array("resnet18", rows).macs[0] == code_cost(Code.from_entries("resnet18", rows[0])).macs
        assert depth_array("resnet18", rows)[0] == 17

    def test_no_codes_cost_nothing(self) -> None:
        assert [len(column) for column in cost_array("resnet18", np.empty((0, 8), int))] == [0, 0, 0]

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            (np.ones((2, 7), int), r"\[n, 8\] .*C2, C3.* \[2, 7\]"),
            (np.ones(8, int), r"\[n, 8\] .* \[8\]"),
            (np.ones((1, 8)), "integers.*float64"),
            ([[1] * 8, [1] * 7], "different lengths"),
            (np.array([[64] * 4 + [2, 2, 2, 2], [64] * 4 + [2, 0, 2, 2]]), r"codes\[1, 5\] is 0, but L3 is at least 1"),
        ],
    )
    def test_a_malformed_array_says_where(self, rows: object, words: str) -> None:
        for count in (cost_array, depth_array):
            with pytest.raises(CodeError, match=words):
                count("resnet18", rows)  # type: ignore[arg-type]

    def test_costs_beyond_exact_arithmetic_are_refused_not_rounded(self) -> None:
        huge = np.array([[65521] * 4 + [999] * 4])
        with pytest.raises(CodeError, match=r"codes\[0\] .*code_cost"):
            cost_array("resnet18", huge)
        assert code_cost(Code.from_entries("resnet18", huge[0])).macs > 2**53

    def test_an_unknown_family(self) -> None:
        with pytest.raises(UnknownNameError, match="resnet18"):
            cost_array("resnet81", np.ones((1, 8), int))


class TestProperties:
    @given(codes(max_width=300), st.integers(0, 20))
    def test_one_more_block_costs_more_and_is_deeper(self, code: Code, stage: int) -> None:
        i = stage % len(code.depths)
        more = replace(code, depths=tuple(n + (i == j) for j, n in enumerate(code.depths)))
        a, b = code_cost(code), code_cost(more)
        assert a.macs < b.macs
        assert a.params < b.params
        assert a.activations < b.activations
        assert depth(code) < depth(more)

    @given(codes(max_width=300))
    def test_parameters_and_depth_do_not_depend_on_the_size_of_the_image(self, code: Code) -> None:
        assert code_cost(code, 32).params == code_cost(code, (500, 40)).params
        assert depth(code) == depth(replace(code, image_size=33))

    @pytest.mark.parametrize("family", CONVNEXTS)
    def test_an_image_without_a_whole_patch_of_patches_is_refused(self, family: str) -> None:
        code = original(family)
        assert code_cost(code, 32).macs > 0
        for size in (31, (31, 200), 3):
            with pytest.raises(CodeError, match="too small"):
                code_cost(code, size)
            with pytest.raises(CodeError, match="too small"):
                cost_array(family, np.array([code.entries]), image_size=size)

    def test_the_stride_on_the_first_1x1_costs_less_and_keeps_the_parameters(self) -> None:
        torch_style = original("resnet50")
        caffe = replace(torch_style, stride_in="1x1")
        assert code_cost(caffe).macs < code_cost(torch_style).macs
        assert code_cost(caffe).params == code_cost(torch_style).params

    @given(codes(max_width=100))
    def test_macs2_is_twice_the_macs(self, code: Code) -> None:
        cost = code_cost(code)
        assert cost.macs2 == 2 * cost.macs

    def test_costs_add(self) -> None:
        assert Cost(1, 2, 3) + Cost(10, 20, 30) == Cost(11, 22, 33)


class TestArguments:
    @pytest.mark.parametrize("size", [0, -1, 16385, 2.5, "224", (224,), (224, 0), (1, 2, 3), True, (224, None), None])
    def test_an_impossible_image_size_is_named(self, size: object) -> None:
        code = original("resnet18")
        if size is None:
            assert code_cost(code, size) == code_cost(code, 224)
            return
        with pytest.raises(CodeError, match=r"image_size is .*1 to 16384 px"):
            code_cost(code, size)  # type: ignore[arg-type]

    def test_numpy_sizes_count_as_integers(self) -> None:
        assert code_cost(original("resnet18"), np.int64(96)) == code_cost(original("resnet18"), 96)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"num_classes": -1}, "num_classes is -1.*from 0"),
            ({"num_classes": 1.5}, "num_classes is 1.5"),
            ({"in_chans": 0}, "in_chans is 0.*from 1"),
            ({"in_chans": True}, "in_chans is True"),
        ],
    )
    def test_impossible_arguments_are_named(self, arguments: dict[str, object], words: str) -> None:
        with pytest.raises(CodeError, match=words):
            code_cost(original("resnet18"), **arguments)  # type: ignore[arg-type]
        with pytest.raises(CodeError, match=words):
            cost_array("resnet18", np.ones((1, 8), int), **arguments)  # type: ignore[arg-type]
