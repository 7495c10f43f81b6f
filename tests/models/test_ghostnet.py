"""GhostNets: timm's class with a code's widths, pairs of channels, and stages whose further blocks differ."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.test_inherit import outputs, trained
from timm.models.ghostnet import GhostNet

from bsszoo.codes import Code, code_cost, stages_of
from bsszoo.codes.named import named_entries
from bsszoo.errors import CodeError, WeightsError
from bsszoo.models.build import build
from bsszoo.models.importance import axis_map, best_in_order
from bsszoo.models.inherit import inherit_weights, is_subnetwork
from bsszoo.models.recognise import recognise
from bsszoo.models.timm_arguments import timm_arch_def, timm_arguments, timm_cfgs
from bsszoo.spaces import Space
from bsszoo.spaces.space import uniform_code


def rows(code: Code) -> list[list[list[float]]]:
    """What timm's class takes, by the paper's table: kernel, inner and output width, SE and stride of blocks."""
    before, out = code.stage2_width, [[[3, code.stem_width, code.stage2_width, 0, 1]]]
    for i, (width, depth) in enumerate(zip(code.widths, code.depths, strict=True)):
        t = code.expansions[i] if code.expansions else 0
        first, further = (t * before, t * width) if t else (code.first_bottlenecks[i], code.bottlenecks[i])
        blocks = []
        for j in range(depth):
            inner = first if j == 0 else further
            if i == 2 and j > 1:
                inner = min(inner, int(23 * inner / 25 + 2) // 4 * 4)
            squeeze = 0.25 if i in (1, 3) or (i == 4 and j % 2 == 0) else 0
            blocks.append([(3, 5, 3, 3, 5)[i], inner, width, squeeze, 2 if j == 0 and i != 3 else 1])
        if i == 3:  # in the module of the stage before
            out[-1] += blocks
        else:
            out += [blocks[:1], blocks[1:]]
        before = width
    return out


CODES = (
    "ghostnet_c24-40-80-112-160_l2-2-4-2-5_b72-120-200-672-960_e48-72-240-480-672",
    "ghostnet_c12-20-28-32-40_l3-1-3-2-4_t3-2-4-6-6",
    "ghostnet_c12-20-28-28-40_l1-2-2-1-1_b40-60-80-60-240_e24-60-100-60-240",
    "ghostnet_c16-20-40-28-40_l2-2-5-3-3_b40-60-100-60-240_e24-60-100-80-200",
)


@pytest.mark.parametrize("text", CODES)
def test_timms_class_with_the_codes_widths_is_the_same_network(text: str) -> None:
    code = Code.parse(text)
    torch.manual_seed(0)
    theirs = GhostNet(rows(code), num_classes=7, drop_rate=0.0).eval()
    torch.manual_seed(0)
    ours = build(code, num_classes=7).eval()
    state, mine = theirs.state_dict(), ours.state_dict()
    # timm's convolution in front of the pooling is as wide as the last block inside, ours six times the last width.
    assert list(mine) == list(state)
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in state.items()}
    assert all(torch.equal(mine[key], tensor) for key, tensor in state.items())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    assert code_cost(code, num_classes=7).params == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("text", CODES)
def test_the_script_builds_it_with_timms_class(text: str) -> None:
    code = Code.parse(text)
    form = timm_cfgs(code)
    assert form is not None
    assert [[list(block) for block in module] for module in form.cfgs] == rows(code)
    names: dict[str, torch.nn.Module] = {}
    exec(form.script(7), names)
    theirs, ours = names["model"].eval(), build(code, num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    "text",
    [
        "ghostnet_c12-20-28-32-42_l3-1-3-2-4_t3-2-4-6-6",  # 42 is no multiple of 4
        "ghostnet_c12-20-28-32-40_l3-1-3-2-4_t3-2-4-6-3",  # the last block is not six times as wide inside
        "ghostnet_c12-20-28-32-40_l3-1-3-2-4_t3-2-4-6-6_stem8",
        "ghostnet_c12-20-28-32-40_l3-1-3-2-4_t3-2-4-6-6_head96",
        "mobilenetv2_c16-20-40-56-96-192_l2-3-4-3-3-1_t6-6-6-6-6-6",
    ],
)
def test_what_timms_class_does_not_build(text: str) -> None:
    assert timm_cfgs(Code.parse(text)) is None


def test_timm_takes_no_widths_of_it_by_name() -> None:
    with pytest.raises(TypeError, match="width"):
        timm.create_model("ghostnet_100", width=0.75)
    assert timm_arguments(Code.parse(CODES[0])).architecture == "ghostnet_100"
    assert timm_arguments(Code.parse(CODES[1])) is None
    assert timm_arch_def(Code.parse(CODES[1])) is None
    again = timm.create_model("bsszoo_code", code=CODES[1])
    assert again.state_dict().keys() == build(Code.parse(CODES[1])).state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "words"), [({"output_stride": 16}, "dilation"), ({"drop_path_rate": 0.1}, "dep")]
)
@pytest.mark.parametrize("features_only", [False, True])
def test_what_timms_blocks_have_not_is_refused(arguments: dict, words: str, features_only: bool) -> None:
    with pytest.raises(CodeError, match=words):
        build(Code.parse(CODES[1]), features_only=features_only, **arguments)


@pytest.mark.parametrize("name", ["ghostnetv2_100", "ghostnetv3_100"])
def test_later_versions_are_refused(name: str) -> None:
    state = timm.create_model(name, device=torch.device("meta")).state_dict()
    with pytest.raises(WeightsError, match=r"nearest.* ghostnet_"):
        recognise({key: tuple(tensor.shape) for key, tensor in state.items()}, "it")


def test_half_as_wide_a_network_is_the_published_one() -> None:
    published = {name: named_entries()[f"ghostnet_{name}"].code for name in ("050", "100", "130")}
    assert uniform_code(published["100"], 0.5) == published["050"]
    # A wider second stage is rounded up to a multiple of 4.
    assert uniform_code(published["100"], 1.3) == replace(published["130"], stage2_width=24)


def test_a_channel_goes_and_comes_with_its_ghost() -> None:
    importance = torch.tensor([1.0, 5.0, 2.0, 0.0, 3.0, 1.0, 9.0])  # four pairs, the last without a ghost
    assert axis_map(importance, 4, paired=True).tolist() == [1, 2, 5, 6]
    assert axis_map(importance, 3, paired=True).tolist() == [1, 2, 5]
    assert axis_map(importance, 7, paired=True).tolist() == [*range(7)]
    assert axis_map(importance, 10, paired=True).tolist() == [0, 1, 2, 3, -1, 4, 5, 6, -1, -1]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=7), st.data())
def test_the_best_blocks_of_each_kind_are_those_of_all_choices(
    blocks: list[tuple[bool, int]], data: st.DataObject
) -> None:
    kinds, values = zip(*blocks, strict=True)
    depth = data.draw(st.integers(0, len(blocks)))
    chosen = best_in_order(kinds, values, kinds[:depth])
    assert [kinds[i] for i in chosen] == list(kinds[:depth])
    fitting = [
        c for c in itertools.combinations(range(len(kinds)), depth) if [kinds[i] for i in c] == list(kinds[:depth])
    ]
    assert sum(values[i] for i in chosen) == max(sum(values[i] for i in c) for c in fitting)


def test_a_shallower_stage_inherits_blocks_with_and_without_squeeze_and_excitation_in_turn() -> None:
    whole, part = Code.parse(CODES[0]), Code.parse(CODES[0].replace("l2-2-4-2-5", "l2-2-3-2-3"))
    source, _ = trained(str(whole))
    made = build(part, num_classes=7)
    inheritance = inherit_weights(made, part, source, whole)
    assert inheritance.blocks == inheritance.total_blocks == sum(part.depths) + 1
    # Stage 6 is one block further on in the module that it shares with stage 5.
    assert torch.equal(made.blocks[6][3].se.conv_reduce.weight, source.blocks[6][4].se.conv_reduce.weight)


def test_a_deeper_stage_in_front_of_another_in_one_module_keeps_the_function() -> None:
    source, code = trained(CODES[2])
    grown, deeper = trained(CODES[2].replace("l1-2-2-1-1", "l1-2-2-1-2").replace("b40-60-80", "b40-60-100"), seed=1)
    assert not is_subnetwork(deeper, code)
    assert is_subnetwork(code, deeper)
    inherit_weights(grown, deeper, source, code)
    torch.testing.assert_close(outputs(grown), outputs(source), rtol=1e-4, atol=1e-4)


def test_subnetworks_of_a_published_network_have_no_more_of_anything() -> None:
    whole = Code.parse(CODES[0])
    space = Space.subnetworks(whole)
    for row in space.sample(100, 0):
        code = space.code(row)
        assert is_subnetwork(code, whole)
        assert space.cost(code).macs <= space.cost(whole).macs
        assert [len(list(stage.blocks())) for stage in stages_of(code)][2:7] == list(code.depths)
