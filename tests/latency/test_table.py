"""A measured latency table: every block of the space, built as in the networks, ranking whole networks."""

from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from timm.layers.attention import Attention
from torch import nn

from bsszoo.codes import FAMILIES, Code, code_cost, layers_of
from bsszoo.latency.runtimes import RUNTIMES, runtime_of
from bsszoo.latency.table import (
    _by_place,
    _extended,
    _some,
    block_input,
    build_block,
    kept_table,
    measure_latency_table,
)
from bsszoo.latency.timer import measure_latencies
from bsszoo.search import LatencyTable
from bsszoo.spaces import Space
from bsszoo.spaces.chain import BlockShape, block_shapes, space_shapes
from bsszoo.spaces.space import uniform_subnetworks


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_that_are_timed_are_those_of_the_network(family):
    code = Code.from_entries(family, FAMILIES[family].original)
    modules = [(shape, build_block(shape, family)) for shape in block_shapes(code)]
    # A ViT's class token and positions cost no time to speak of.
    beside = {"cls_token", "pos_embed"}
    vectors = [v for layer in layers_of(code) for v in layer.vectors if v.name in beside]
    params = sum(p.numel() for _, m in modules for p in m.parameters())
    assert params + sum(math.prod(v.shape) for v in vectors) == code_cost(code).params
    assert sum(_macs(m, shape) for shape, m in modules) == code_cost(code).macs


def _macs(module, shape):
    total = []

    def count(layer, _, out):
        total.append(layer.weight.numel() * (out.numel() // layer.weight.shape[0]))

    def attend(layer, inputs, _):
        total.append(2 * inputs[0].shape[1] ** 2 * layer.attn_dim)

    for attention in (m for m in module.modules() if isinstance(m, Attention)):
        attention.register_forward_hook(attend)
    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(count)
    with torch.device("meta"):
        image = torch.zeros(1, *block_input(shape))
    module.to("meta").eval()(image)
    return sum(total)


def _space():
    return replace(Space.of("mobilenetv2"), image_size=64).replace(
        C3=[16, 32],
        C4=[32],
        C5=[64],
        C6=[96],
        C7=[80],
        C8=[160],
        L3=[1, 4],
        L4=[1],
        L5=[1],
        L6=[1],
        L7=[1],
        L8=[1],
        T3=[3],
        T4=[3],
        T5=[3],
        T6=[6],
        T7=[6],
        T8=[3],
    )


def test_a_table_holds_every_block_of_its_space_and_sums_them():
    seen = []
    table = measure_latency_table(_space(), seconds_each=0.0, networks=2, on_block=lambda *step: seen.append(step))
    shapes = space_shapes(_space())
    assert table.missing(_space()) == []
    assert seen == [(i + 1, 4 * len(shapes)) for i in range(4 * len(shapes))]
    code = _space().largest
    assert table.of(code) == pytest.approx(sum(table.nanoseconds(s) for s in block_shapes(code)) / 1e6)


NARROW = Code.parse("resnet18_c16-24-32-64_l2-2-2-2_px32")


def test_a_table_of_a_convnexts_subnetworks_has_its_downsampling_and_its_head():
    code = Code.parse("convnextv2_atto_c16-24-32-64_l1-2-1-1_t4-4-4-4_px36")
    space = Space.subnetworks(code, num_classes=10)
    table = measure_latency_table(space, seconds_each=0.0, networks=2)
    assert table.missing(space) == []
    blocks = block_shapes(code, num_classes=10)
    assert [s.kind for s in blocks] == ["stem", *["convnext"] * 5, "head_norm", "classifier"]
    assert [(s.stride, s.size) for s in blocks] == [(4, 36), (1, 9), (2, 9), (1, 4), (2, 4), (2, 2), (1, 1), (1, 1)]
    assert table.of(code, num_classes=10) == pytest.approx(sum(table.milliseconds(s) for s in blocks))


def test_a_table_of_a_vits_subnetworks_tells_attention_and_mlps_apart():
    code = Code.parse("vit_patch8_c64-64-96-64_l1-2-1-1_b32-48-32-32_g16-16-16-16_stem32_px24")
    space = Space.subnetworks(code, num_classes=10)
    table = measure_latency_table(space, seconds_each=0.0, networks=2)
    assert table.missing(space) == []
    blocks = block_shapes(code, num_classes=10)
    assert [s.kind for s in blocks] == ["stem", *["transformer"] * 5, "head_norm", "classifier"]
    assert [(s.mid_width, s.mlp_width, s.group_width) for s in blocks[1:4]] == [(32, 64, 16), *[(48, 64, 16)] * 2]
    assert table.of(code, num_classes=10) == pytest.approx(sum(table.milliseconds(s) for s in blocks))
    assert all(BlockShape.parse(str(s)) == s for s in blocks)


def test_a_table_of_a_ghostnets_subnetworks_has_the_blocks_that_differ_in_a_stage():
    code = Code.parse("ghostnet_c16-20-28-32-40_l1-1-3-1-2_b32-60-100-90-120_stem8_stage2-8x1_head40_px32")
    space = Space.subnetworks(code, num_classes=10)
    last = {"C7", "L5", "L6", "L7", "B5"}
    space = space.replace(
        {n: axis[-1:] for n, axis in zip(space.entry_names, space.axes, strict=True) if n not in last}
    )
    table = measure_latency_table(space, seconds_each=0.0, networks=2)
    assert table.missing(space) == []
    blocks = block_shapes(code, num_classes=10)
    assert [(s.mid_width, s.squeeze_width) for s in blocks if s.kind == "ghost"] == [
        *[(8, 0), (32, 0), (60, 16), (100, 0), (100, 0), (92, 0), (90, 24), (120, 32), (120, 0)]
    ]
    assert table.of(code, num_classes=10) == pytest.approx(sum(table.milliseconds(s) for s in blocks))


def test_of_many_blocks_some_are_timed_and_the_others_follow_from_them():
    space = Space.subnetworks(NARROW, num_classes=10, divisor=1)
    codes = uniform_subnetworks(space)
    seen = []
    table = measure_latency_table(
        space, codes=codes, seconds_each=0.0, networks=2, on_block=lambda *step: seen.append(step)
    )
    blocks = {*space_shapes(space), *(s for code in codes for s in block_shapes(code, num_classes=10))}
    assert set(table.shapes) == blocks
    assert seen[-1][0] == seen[-1][1] < len(blocks)
    # Wider blocks take no less: each part of a line rises.
    for a, b in itertools.pairwise(sorted(s for s in blocks if s.kind == "basic" and s.size == 8 and s.stride == 1)):
        if all(x <= y for x, y in zip(a[1:4], b[1:4], strict=True)) and (a[1] == a[2]) == (b[1] == b[2]):
            assert table.nanoseconds(a) <= table.nanoseconds(b)


def test_times_that_are_sums_of_products_of_channels_are_found_from_some_blocks():
    shapes = space_shapes(Space.subnetworks(NARROW, num_classes=10, divisor=1))

    def ms(s):
        return 0.1 + 1e-4 * (s.in_width * s.mid_width + s.mid_width * s.out_width) / s.stride**2 + 1e-3 * s.out_width

    some = _some(shapes, (300, 12))
    assert len(some) < len(shapes) / 2
    table = _extended(LatencyTable({s: ms(s) for s in some}), some, shapes)
    assert [table.nanoseconds(s) / 1e6 for s in shapes] == pytest.approx([ms(s) for s in shapes], rel=1e-3)


def test_times_that_go_by_whole_vectors_are_found_from_some_blocks_and_measured_ones_stay():
    shapes = space_shapes(Space.subnetworks(NARROW, num_classes=10, divisor=1))

    def ms(s):
        a, m, b = (-(-width // 16) for width in (s.in_width, s.mid_width, s.out_width))
        return 0.01 + 1e-2 * (a * m + m * b) / s.stride**2 + (2e-3 * s.mid_width if s.mid_width % 4 else 0.0)

    some = _some(shapes, (600, 24))
    odd = {some[0]: 3 * ms(some[0])}
    table = _extended(LatencyTable({s: ms(s) for s in some} | odd), some, shapes, "uneven")
    assert table.milliseconds(some[0]) == pytest.approx(odd[some[0]], rel=1e-4)
    errors = [abs(table.milliseconds(s) / ms(s) - 1) for s in shapes]
    assert np.median(errors) < 0.01
    assert np.quantile(errors, 0.95) < 0.1
    # Few blocks are enough where channels that fill no part of a vector cost nothing of their own.
    few = _some(shapes, (120, 8))
    even = {s: ms(s._replace(mid_width=-(-s.mid_width // 4) * 4)) for s in shapes}
    table = _extended(LatencyTable({s: even[s] for s in few}), few, shapes, "vectors")
    assert np.median([abs(table.milliseconds(s) / even[s] - 1) for s in shapes]) < 0.01
    by_lines = _extended(LatencyTable({s: ms(s) for s in some}), some, shapes)
    assert np.median([abs(by_lines.milliseconds(s) / ms(s) - 1) for s in shapes]) > 0.05


def test_networks_times_correct_the_blocks_of_each_place():
    space = Space.subnetworks(NARROW, num_classes=10)
    sizes = {"num_classes": 10}
    shapes = space_shapes(space)
    table = LatencyTable({s: 0.1 + 1e-3 * s.mid_width for s in shapes})
    # In a network, blocks at 8 px take twice as long as alone, and each with a stride 0.05 ms less.
    truth = LatencyTable(
        {s: (2 if s.size == 8 else 1) * table.milliseconds(s) - 0.05 * (s.stride == 2) for s in shapes}
    )
    fitted, others = ([space.code(row) for row in space.sample(64, seed)] for seed in (0, 1))
    measured = np.array([truth.of(code, **sizes) for code in fitted])
    corrected = _by_place(table, [block_shapes(code, **sizes) for code in fitted], measured)

    def error(one):
        return np.median([abs(one.of(code, **sizes) / truth.of(code, **sizes) - 1) for code in others])

    assert error(table) > 0.1
    assert error(corrected) < 0.02
    assert all(corrected.milliseconds(s) > 0 for s in shapes)


@pytest.mark.usefixtures("short_timings")
@pytest.mark.parametrize("runtime", [name for name, one in RUNTIMES.items() if one.timed and one.export is not None])
def test_a_table_of_a_runtime_is_another_than_pytorch_s(runtime, tmp_path, monkeypatch):
    pytest.importorskip(RUNTIMES[runtime].modules[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = Code.parse("resnet18_c8-8-16-16_l1-1-1-2_px32")
    space = Space.subnetworks(code, num_classes=10)
    steps, notes = [], []
    how = {"on_block": lambda *step: steps.append(step), "note": notes.append}
    table = kept_table(space, code, runtime=runtime, **how)
    assert table.missing(space) == []
    assert runtime_of(runtime).label in notes[0]
    assert (table.notes["runtime"], table.notes["runtime_version"]) == (runtime, runtime_of(runtime).version)
    total = steps[-1][1]
    assert steps == [(i + 1, total) for i in range(total)]
    steps.clear()
    kept_table(space, code, runtime=runtime, **how)
    assert not steps
    kept_table(space, code, **how)
    assert steps
    assert len(list((tmp_path / "bsszoo" / "latency").iterdir())) == 2


@pytest.mark.usefixtures("short_timings")
def test_a_table_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    timed, notes = [], []

    def table(**how):
        timed.clear()
        return kept_table(
            _space(), _space().smallest, on_block=lambda *step: timed.append(step), note=notes.append, **how
        )

    first = table()
    assert timed
    assert [f.suffix for f in (tmp_path / "cache" / "bsszoo" / "latency").iterdir()] == [".json"]
    again = table()
    assert not timed
    assert again.digest() == first.digest()
    # A run's own copy goes before the cache, unless it is of something else.
    copy = tmp_path / "run.json"
    copy.write_text(next((tmp_path / "cache" / "bsszoo" / "latency").iterdir()).read_text())
    table(saved=copy)
    assert str(copy) in notes[-1]
    table(threads=2, saved=copy)
    assert timed
    copy.write_text("{")
    table(saved=copy)
    assert not timed
    # What a run saves beside its study serves where the cache was emptied.
    again.save(copy)
    shutil.rmtree(tmp_path / "cache")
    assert table(saved=copy).digest() == first.digest()
    assert not timed


@pytest.mark.slow
def test_the_sum_of_blocks_ranks_whole_networks():
    torch.set_num_threads(1)
    space = Space.of("mobilenetv2").scaled(0.5)
    table = measure_latency_table(space, seconds_each=0.02)
    codes = [space.code(row) for row in space.sample(24, 0)]
    measured = [latency.low_ms for latency in measure_latencies(codes)]
    assert spearmanr(measured, [table.of(code) for code in codes]).statistic > 0.7
    assert np.isfinite(measured).all()
