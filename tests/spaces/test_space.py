"""``Space``: section B.2.2's ranges, grids scaled from them, a user's ranges, membership and random codes."""

from __future__ import annotations

import dataclasses
import pickle
from fractions import Fraction
from itertools import pairwise, product
from math import floor, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import FAMILY_NAMES, REGNETS, RESNEXTS

from bsszoo.codes import FAMILIES, Code, code_cost
from bsszoo.errors import CodeError, SpaceError, UnknownNameError
from bsszoo.spaces import Space, cost_array

# Section B.2.2 typed from the paper: (step, least, most) of each C, most of each L.
RESNET50 = ((64, 128, 256, 512), (64, 128, 256, 512), (320, 768, 1536, 3072), (11,) * 4)
MOBILENET = ((4, 8, 16, 24, 40, 80), (12, 16, 32, 48, 80, 160), (32, 64, 128, 192, 320, 640), (5, 6, 7, 6, 6, 4))
EFFICIENT = ((4, 8, 16, 28, 48, 80), (16, 24, 48, 56, 144, 160), (32, 64, 160, 280, 480, 640), (6, 6, 7, 7, 8, 5))
PAPER = ("resnet18", "resnet50", "mobilenetv2", "efficientnet_b0", "efficientnet_b1")
MULTIPLES = {"resnet50": RESNET50, "mobilenetv2": MOBILENET, "efficientnet_b0": EFFICIENT, "efficientnet_b1": EFFICIENT}

# Tables 3, 4 and 5 as printed, without the stray 6 of MobileNetV2's first row.
TABLE3 = {
    "resnet18": ["64,128,256,512,2,2,2,2", "32,64,128,512,1,2,8,5", "32,32,128,1024,4,14,14,1"],
    "resnet50": [
        "256,512,1024,2048,3,4,6,3,64,128,256,512",
        "128,640,1024,3072,8,7,4,3,48,80,256,384",
        "128,256,768,2048,9,6,9,3,48,128,192,512",
    ],
    "mobilenetv2": [
        "24,32,64,96,160,320,2,3,4,3,3,1,6,6,6,6,6,6",
        "20,48,80,144,200,480,2,4,3,2,5,1,3,3,3,6,3,3",
        "24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6",
    ],
    "efficientnet_b0": [
        "24,40,80,112,192,320,2,2,3,3,4,1,6,6,6,6,6,6",
        "24,40,96,112,192,640,1,2,1,2,6,1,6,6,6,3,6,6",
        "28,48,80,140,144,240,3,1,4,2,6,3,3,3,6,3,6,6",
    ],
    "efficientnet_b1": [
        "24,40,80,112,192,320,3,3,4,4,5,2,6,6,6,6,6,6",
        "16,24,128,140,240,400,4,6,2,4,5,2,3,3,3,3,6,6",
        "24,64,96,112,192,240,3,1,3,4,7,5,6,3,3,3,6,6",
    ],
}
TABLE4 = ["16,20,40,56,96,192,2,3,4,3,3,1,6,6,6,6,6,6", "16,20,40,56,96,288,1,4,6,1,6,1,3,6,6,3,6,6"]
TABLE5 = [
    "256,512,1024,2048,3,4,6,3,64,128,256,512",
    "192,512,512,1024,9,3,6,10,24,192,256,384",
    "192,384,768,1536,3,7,9,8,72,192,192,384",
]


def multiples(step: int, least: int, most: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, most + 1) if n % step == 0 and n >= least)


class TestSectionB22:
    @pytest.mark.parametrize("family", MULTIPLES)
    def test_widths_are_the_multiples_between_the_printed_bounds(self, family: str) -> None:
        steps, least, most, depths = MULTIPLES[family]
        space = Space.of(family)
        assert space.widths == tuple(map(multiples, steps, least, most))
        assert space.depths == tuple(tuple(range(1, n + 1)) for n in depths)

    def test_resnet18_takes_powers_of_two(self) -> None:
        space = Space.of("resnet18")
        lows, highs = (5, 5, 6, 7), (8, 10, 11, 11)
        assert space.widths == tuple(tuple(2**e for e in range(a, b + 1)) for a, b in zip(lows, highs, strict=True))
        assert space.depths == (tuple(range(1, 17)),) * 4
        assert space.thirds == ()

    def test_third_entries(self) -> None:
        assert Space.of("resnet50").thirds == ((Fraction(1, 8), Fraction(1, 4), Fraction(3, 8), Fraction(1, 2)),) * 4
        for family in ("mobilenetv2", "efficientnet_b0", "efficientnet_b1"):
            assert Space.of(family).thirds == ((3, 6),) * 6

    @pytest.mark.parametrize("family", PAPER)
    def test_size_is_the_product_of_counted_choices(self, family: str) -> None:
        if family == "resnet18":
            wanted = prod((4, 6, 6, 5)) * 16**4
        else:
            steps, least, most, depths = MULTIPLES[family]
            thirds = 4**4 if family == "resnet50" else 2**6
            wanted = prod(len(multiples(*r)) for r in zip(steps, least, most, strict=True)) * prod(depths) * thirds
        assert Space.of(family).size == wanted

    def test_mobilenetv2_has_about_2e11_codes(self) -> None:
        assert 1.9e11 < Space.of("mobilenetv2").size < 2e11

    def test_a_small_space_by_enumeration(self) -> None:
        ranges = {f"C{i}": [8 * i, 8 * i + 8] for i in range(3, 9)} | {f"L{i}": [1] for i in range(3, 8)}
        space = Space.of("mobilenetv2").replace(ranges, L8=[1, 2, 3], T3=[3], T4=[6])
        every = {
            (*widths, 1, 1, 1, 1, 1, last, 3, 6, *thirds)
            for widths in product(*space.widths)
            for last in (1, 2, 3)
            for thirds in product((3, 6), repeat=4)
        }
        assert space.size == len(every) == 2**6 * 3 * 2**4
        assert set(map(tuple, space.sample(40_000, 0).tolist())) == every


class TestThePapersCodes:
    @pytest.mark.parametrize("family", TABLE3)
    def test_all_of_table_3_lie_inside(self, family: str) -> None:
        for text in TABLE3[family]:
            code = Code.parse(text, family=family)
            assert Space.of(family).reasons(code) == ()
            assert code in Space.of(family)

    def test_all_of_table_5_lie_in_the_resnet50_space(self) -> None:
        for text in TABLE5:
            assert Code.parse(text, family="resnet50") in Space.of("resnet50")

    def test_table_4_lies_on_the_grid_scaled_by_0_6_only(self) -> None:
        scaled = Space.of("mobilenetv2").scaled(0.6)
        for text in TABLE4:
            code = Code.from_entries("mobilenetv2", eval(f"[{text}]"), stem_width=16, stage2_width=12)
            assert code in scaled
            outside = Space.of("mobilenetv2").reasons(code)
            assert [r.split()[0] for r in outside] == ["C4", "C5", "C6", "C7", "C8", "stem_width", "stage2_width"]


class TestScaled:
    def test_by_0_6_the_steps_are_2_5_10_14_24_48(self) -> None:
        space = Space.of("mobilenetv2").scaled(0.6)
        steps = (2, 5, 10, 14, 24, 48)
        for axis, step, whole, default_step in zip(
            space.widths, steps, Space.of("mobilenetv2").widths, MOBILENET[0], strict=True
        ):
            assert axis == tuple(step * (v // default_step) for v in whole)
        assert (space.stem_width, space.stage2_width, space.stage2_depth) == (16, 12, 1)

    @pytest.mark.parametrize("family", FAMILY_NAMES)
    def test_by_1_is_the_unscaled_space(self, family: str) -> None:
        assert Space.of(family).scaled(1) == Space.of(family)

    @given(st.sampled_from(PAPER), st.floats(0.05, 4))
    def test_keeps_the_choices_and_never_the_wrong_integers(self, family: str, scale: float) -> None:
        whole, space = Space.of(family), Space.of(family).scaled(scale)
        assert space.size == whole.size
        assert (space.depths, space.thirds) == (whole.depths, whole.thirds)
        nearest = 8 if family.startswith("resnet") else 1
        old_steps = MULTIPLES[family][0] if family in MULTIPLES else [axis[0] for axis in whole.widths]
        for axis, old, step in zip(space.widths, whole.widths, old_steps, strict=True):
            new_step = axis[0] * step // old[0]
            assert axis == tuple(new_step * (v // step) for v in old)
            assert new_step % nearest == 0
            assert abs(new_step - scale * step) <= nearest / 2 or new_step == nearest
            assert len(set(axis)) == len(axis)
        for row in space.sample(20, 1):
            assert space.code(row) in space

    @given(st.sampled_from(REGNETS), st.floats(0.05, 4))
    def test_regnet_stages_are_made_of_whole_groups(self, family: str, scale: float) -> None:
        space = Space.of(family).scaled(scale)
        for widths, groups in zip(space.widths, space.thirds, strict=True):
            step = widths[1] - widths[0]
            assert groups == tuple(g for g in range(8, step + 1) if g % 8 == 0 and step % g == 0)
            assert all(w % g == 0 for w in widths for g in groups)
        for row in space.sample(20, 1):
            assert space.code(row) in space

    @given(st.sampled_from(RESNEXTS), st.floats(0.05, 4))
    def test_resnext_bottlenecks_are_made_of_whole_groups_that_stay_as_wide(self, family: str, scale: float) -> None:
        space = Space.of(family).scaled(scale)
        for row in (*space.sample(20, 1), space.smallest.entries[:12]):
            code = space.code(row)
            assert code in space
            assert code.group_widths == (4, 8, 16, 32)
            assert all(b % g == 0 for b, g in zip(code.bottlenecks, code.group_widths, strict=True))
        other = dataclasses.replace(space.smallest, group_widths=(2, 4, 8, 16))
        assert space.reasons(other) == ("group widths are 2, 4, 8, 16; they are 4, 8, 16, 32 in this space",)

    def test_the_published_resnexts_of_50_layers_are_in_their_spaces(self) -> None:
        for family in RESNEXTS:
            assert Space.of(family).reasons(Code.from_entries(family, FAMILIES[family].original)) == ()
            with pytest.raises(SpaceError, match="B2 would be 10, which the group width 4 does not divide"):
                Space.of(family).replace(B2=[Fraction(1, 4)], C2=[40])
            with pytest.raises(
                CodeError, match="G3 is 8, which does not divide B3, 12: a stage is made of whole groups"
            ):
                Code(family, (64,) * 4, (1,) * 4, bottlenecks=(8, 12, 8, 8), group_widths=(4, 8, 8, 8))

    @pytest.mark.parametrize("family", RESNEXTS)
    def test_arrays_of_group_widths_that_divide_no_bottleneck_are_refused(self, family: str) -> None:
        row = [64, 64, 64, 64, 1, 1, 1, 1, 8, 12, 8, 8, 4, 8, 8, 8]
        with pytest.raises(CodeError, match=r"codes\[0, 9\] is 12, which G3, 8, does not divide"):
            cost_array(family, np.array([row]))

    def test_the_published_regnets_of_the_largest_scale_are_in_their_spaces(self) -> None:
        for family in REGNETS:
            assert Space.of(family).reasons(Code.from_entries(family, FAMILIES[family].original)) == ()
        with pytest.raises(SpaceError, match="does not divide a width of 48: a stage is made of whole groups"):
            Space.of("regnetx").replace(G2=[32])

    def test_is_not_compounded(self) -> None:
        assert Space.of("mobilenetv2").scaled(0.5).scaled(0.6) == Space.of("mobilenetv2").scaled(0.6)

    @pytest.mark.parametrize("scale", [0, -1, 17, float("nan"), float("inf"), "0.5", None, True])
    def test_an_impossible_scale_is_named(self, scale: object) -> None:
        with pytest.raises(SpaceError, match=r"scale is .*above 0 and up to 16"):
            Space.of("resnet18").scaled(scale)  # type: ignore[arg-type]


class TestMembership:
    def test_reasons_name_the_entry_the_value_and_the_allowed(self) -> None:
        code = Code.parse("24,32,60,96,160,320,9,3,4,3,3,1,6,5,6,6,6,6", family="mobilenetv2")
        assert Space.of("mobilenetv2").reasons(code) == (
            "C5 is 60; allowed are 32, 48, 64, .., 128",
            "L3 is 9; allowed are 1, 2, 3, .., 5",
            "T4 is 5; allowed are 3, 6",
        )

    def test_a_bottleneck_is_judged_by_its_width(self) -> None:
        code = Code.parse("256,512,1024,2048,3,4,6,3,64,128,256,500", family="resnet50")
        assert Space.of("resnet50").reasons(code) == ("B5 is 500; allowed are 256, 512, 768, 1024",)

    def test_another_family_or_another_fixed_part_is_outside(self) -> None:
        b1 = Code.parse(TABLE3["efficientnet_b1"][0], family="efficientnet_b1")
        assert Space.of("efficientnet_b0").reasons(b1) == ("it is a efficientnet_b1 code, not a efficientnet_b0 code",)
        caffe = Code.from_entries("resnet50", Space.of("resnet50").smallest.entries, stride_in="1x1", image_size=800)
        assert Space.of("resnet50").reasons(caffe) == (
            "image_size is 800; it is 224 in this space",
            "stride_in is 1x1; it is 3x3 in this space",
        )
        assert "resnet18" not in Space.of("resnet18")

    def test_a_resnet18_stem_other_than_c2_is_outside(self) -> None:
        code = Code("resnet18", (32, 64, 128, 256), (1, 1, 1, 1), stem_width=64)
        assert Space.of("resnet18").reasons(code) == ("stem_width is 64; it is 32 in this space",)


class TestUserRanges:
    def test_replaces_the_named_ranges_and_no_other(self) -> None:
        whole = Space.of("mobilenetv2")
        space = whole.replace(C3=[24, 16, 16], L4=range(1, 3), T5=[1, 6], C8=(n for n in (160, 165)))
        assert space.widths == ((16, 24), *whole.widths[1:5], (160, 165))
        assert space.depths == (whole.depths[0], (1, 2), *whole.depths[2:])
        assert space.thirds == (*whole.thirds[:2], (1, 6), *whole.thirds[3:])
        assert whole == Space.of("mobilenetv2")

    def test_resnet50_bottlenecks_are_ratios(self) -> None:
        space = Space.of("resnet50").replace({"B2": [0.25, Fraction(1, 2)], "C2": [64, 128]})
        assert {code.bottlenecks[0] / code.widths[0] for code in map(space.code, space.sample(100, 0))} == {0.25, 0.5}

    @pytest.mark.parametrize(
        ("entries", "words"),
        [
            ({"C9": [8]}, ["'C9'", "Available: C3, C4"]),
            ({"B3": [8]}, ["'B3'"]),
            ({"C3": []}, ["C3", "empty"]),
            ({"C3": [0, 8]}, ["C3", "0, 8", "integers from 1"]),
            ({"C3": [8.5]}, ["C3", "integers from 1"]),
            ({"C3": [100_000]}, ["C3", "100000", "65536"]),
            ({"L3": [1, 1001]}, ["L3", "1001", "1000"]),
            ({"T3": [3, 100]}, ["T3", "100", "64"]),
            ({"T3": [0.5]}, ["T3", "1/2"]),
            ({"C3": 8}, ["C3", "8", "list of numbers"]),
            ({"C3": ["a"]}, ["C3", "'a'", "list of numbers"]),
            ({"C3": [float("inf")]}, ["C3", "inf", "list of numbers"]),
            ({"C3": [float("nan")]}, ["C3", "nan", "list of numbers"]),
            ({"C3": ["1/0"]}, ["C3", "1/0", "list of numbers"]),
        ],
    )
    def test_impossible_ranges_are_named(self, entries: dict[str, object], words: list[str]) -> None:
        with pytest.raises(SpaceError) as caught:
            Space.of("mobilenetv2").replace(entries)  # type: ignore[arg-type]
        for word in words:
            assert word in str(caught.value)

    def test_a_ratio_that_gives_a_fraction_of_a_channel_is_named(self) -> None:
        with pytest.raises(SpaceError, match=r"B2 would be 1/3 x 64 = 21\.3333.*change C2"):
            Space.of("resnet50").replace(B2=[Fraction(1, 3)])

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"widths": ((8,),) * 5}, "6 ranges for C; got 5"),
            ({"depths": ((2, 1),) * 6}, "L3 is 2, 1; .* rising order"),
            ({"thirds": ()}, "6 ranges for T; got 0"),
            ({"stem_width": 0}, "stem_width is 0"),
        ],
    )
    def test_a_space_is_checked_where_it_is_made(self, change: dict[str, object], words: str) -> None:
        whole = Space.of("mobilenetv2")
        parts = {"widths": whole.widths, "depths": whole.depths, "thirds": whole.thirds} | change
        with pytest.raises(SpaceError, match=words):
            Space("mobilenetv2", **parts)  # type: ignore[arg-type]

    def test_an_unknown_family(self) -> None:
        with pytest.raises(UnknownNameError, match="mobilenetv2"):
            Space.of("mobilenet_v2")

    def test_a_space_pickles(self) -> None:
        space = Space.of("resnet50").scaled(0.5)
        assert pickle.loads(pickle.dumps(space)) == space


class TestSampling:
    @pytest.mark.parametrize("family", FAMILY_NAMES)
    def test_every_sampled_code_is_inside_and_within_the_bounds(self, family: str) -> None:
        for space in (Space.of(family), Space.of(family).scaled(0.37)):
            rows = space.sample(300, 3)
            assert rows.dtype == np.int64
            assert rows.shape == (300, len(space.entry_names))
            assert all(space.code(row) in space for row in rows)
            low, high = np.array(space.bounds).T
            assert (rows >= low).all()
            assert (rows <= high).all()

    def test_the_same_seed_gives_the_same_codes_and_another_seed_others(self) -> None:
        space = Space.of("mobilenetv2")
        assert (space.sample(50, 7) == space.sample(50, 7)).all()
        assert (space.sample(50, 7) == space.sample(50, np.random.default_rng(7))).all()
        assert (space.sample(50, 7) != space.sample(50, 8)).any()

    def test_a_generator_goes_on(self) -> None:
        rng = np.random.default_rng(0)
        space = Space.of("resnet18")
        assert (space.sample(20, rng) != space.sample(20, rng)).any()

    def test_none_are_drawn_when_none_are_asked_for(self) -> None:
        assert Space.of("resnet50").sample(0, 1).shape == (0, 12)

    @pytest.mark.parametrize("family", FAMILY_NAMES)
    def test_each_entry_is_uniform_and_pairs_are_independent(self, family: str) -> None:
        space, n = Space.of(family), 20_000
        rows = space.sample(n, 11).astype(float)
        if space.shares_width:
            rows[:, 8:] /= rows[:, :4]  # the ratio is what is drawn
        kinds = [np.unique(column, return_inverse=True)[1] for column in rows.T]
        axes = space.widths + space.depths + space.thirds
        p = []
        for index, axis in zip(kinds, axes, strict=True):
            counts = np.bincount(index)
            assert len(counts) == len(axis)
            p.append(stats.chisquare(counts).pvalue if len(axis) > 1 else 1.0)
        for a, b in pairwise(kinds):
            table = np.zeros((a.max() + 1, b.max() + 1))
            np.add.at(table, (a, b), 1)
            p.append(stats.chi2_contingency(table).pvalue)
        # Bonferroni over the tests of this family; the seed is fixed.
        assert min(p) > 0.01 / len(p)

    @pytest.mark.parametrize("family", FAMILY_NAMES)
    @pytest.mark.parametrize("scale", [1, 0.6, 0.25])
    def test_smallest_and_largest_bound_all_costs(self, family: str, scale: float) -> None:
        space = Space.of(family).scaled(scale)
        sampled = cost_array(space, space.sample(20_000, 5))
        low, high = code_cost(space.smallest), code_cost(space.largest)
        for field in ("macs", "params", "activations"):
            values = getattr(sampled, field)
            assert getattr(low, field) <= values.min()
            assert values.max() <= getattr(high, field)

    def test_a_row_of_the_wrong_length_is_no_code(self) -> None:
        with pytest.raises(CodeError, match="18 entries"):
            Space.of("mobilenetv2").code([1, 2, 3])


def test_stage_2_and_stem_rules_as_documented() -> None:
    """The rule in ``scaled``'s words: the nearest multiple of 8, and up to a multiple of 4."""
    for scale in np.linspace(0.05, 2, 40):
        space = Space.of("efficientnet_b0").scaled(float(scale))
        assert space.stem_width == max(8, 8 * floor(32 * scale / 8 + 0.5))
        assert space.stage2_width >= round(16 * scale, 6)
        assert space.stage2_width % 4 == 0
        assert space.stage2_width - 16 * scale < 4


class TestFromTheParamsOfATrial:
    """``code_of``: by names, with the space's fixed parts, and of this space only."""

    SPACES = (
        *(Space.of(family).scaled(0.6) for family in FAMILY_NAMES),
        *(
            Space.subnetworks(Code.parse(text))
            for text in (
                "resnet18_c24-48-96-192_l2-2-2-2_stem16_px32",
                "mobilenetv2_c24-32-64-96-160-320_l2-3-4-3-3-1_t6-6-6-6-6-6_stem16_stage2-8x1_px96",
                "resnet50_c64-128-256-512_l3-4-6-3_b16-32-64-128_px64_stride1x1",
                "resnext_c64-128-256-512_l3-4-6-3_b32-64-128-256_g4-8-16-32_px64",
            )
        ),
    )

    @pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.family}-{space.form}")
    def test_it_is_the_code_of_the_row_whatever_the_order_of_the_names(self, space: Space) -> None:
        for row in space.sample(20, 3):
            params = dict(zip(space.entry_names, map(int, row), strict=True))
            code = space.code_of(dict(reversed(params.items())) | {"lr": 0.1})
            assert code == space.code(row)
            assert code in space
            # The numbers of the candidates' table, which the search counted on, are this network's.
            assert code_cost(code).macs == cost_array(space, row[None, :]).macs[0]

    def test_a_trial_a_finished_one_and_a_leader_are_taken_as_they_are(self) -> None:
        import optuna

        from bsszoo.search import AutoBSSSampler, Limits, draw_candidates

        space = Space.of("mobilenetv2").scaled(0.6)
        candidates = draw_candidates(space, Limits(max_macs=130_000_000), 50, 0)
        sampler = AutoBSSSampler(candidates, batch_size=2, seed=0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        seen = []
        for _ in range(3):
            trial = study.ask(fixed_distributions=candidates.distributions)
            seen.append(space.code_of(trial))
            study.tell(trial, float(trial.number))
        assert [space.code_of(trial) for trial in study.trials] == seen
        assert space.code_of(study.best_params) == space.code_of(study.best_trial) == seen[2]
        assert space.code_of(sampler.recommend(study)[0]) in seen
        for code, trial in zip(seen, study.trials, strict=True):
            assert code_cost(code).macs == candidates.macs[candidates.index(trial.params)]
            # What the call is there for: the family's stem and stage 2 make it another network.
            assert Code.from_entries("mobilenetv2", trial.params.values()) != code

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"C3": None}, "C3 is None; it takes a whole number"),
            ({"C3": 16.5}, "C3 is 16.5; it takes a whole number"),
            ({"C3": float("nan")}, "C3 is nan; it takes a whole number"),
            ({"C3": True}, "C3 is True; it takes a whole number"),
            ({"C3": 0}, "no code of this space: .* C3 is 0"),
            ({"L3": 6}, "not in this space: L3 is 6; allowed are 1, 2, 3, .., 5"),
        ],
    )
    def test_what_is_no_code_of_the_space_is_an_error_that_names_the_entry(self, change: dict, said: str) -> None:
        space = Space.of("mobilenetv2")
        params = dict(zip(space.entry_names, space.row(space.smallest), strict=True))
        with pytest.raises(SpaceError, match=said):
            space.code_of(params | change)

    def test_a_missing_entry_and_a_row_are_errors_that_say_what_it_takes(self) -> None:
        space = Space.of("mobilenetv2")
        params = dict(zip(space.entry_names, space.row(space.smallest), strict=True))
        with pytest.raises(SpaceError, match="have no T7"):
            space.code_of({name: value for name, value in params.items() if name != "T7"})
        with pytest.raises(SpaceError, match=r"Space\.code takes a row"):
            space.code_of(list(params.values()))

    def test_whole_numbers_of_any_kind_are_taken(self) -> None:
        space = Space.of("mobilenetv2")
        row = space.row(space.smallest)
        for kind in (float, np.int64, np.float32):
            assert space.code_of(dict(zip(space.entry_names, map(kind, row), strict=True))) == space.smallest
