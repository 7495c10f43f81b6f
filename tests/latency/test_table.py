"""A measured latency table: every block of the space, built as in the networks, ranking whole networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from bsszoo.codes import FAMILIES, Code, code_cost
from bsszoo.errors import BudgetError
from bsszoo.latency.table import block_input, build_block, measure_latency_table
from bsszoo.latency.timer import measure_latencies
from bsszoo.spaces import Space
from bsszoo.spaces.chain import block_shapes, space_shapes


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_that_are_timed_are_those_of_the_network(family):
    code = Code.from_entries(family, FAMILIES[family].original)
    modules = [(shape, build_block(shape, family)) for shape in block_shapes(code)]
    assert sum(p.numel() for _, m in modules for p in m.parameters()) == code_cost(code).params
    assert sum(_macs(m, shape) for shape, m in modules) == code_cost(code).macs


def _macs(module, shape):
    total = []

    def count(layer, _, out):
        total.append(layer.weight.numel() * (out.shape[2] * out.shape[3] if out.ndim == 4 else 1))

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


def test_a_space_of_too_many_blocks_is_refused():
    space = Space.of("mobilenetv2").replace(C3=range(12, 80), C4=range(16, 100))
    with pytest.raises(BudgetError, match="distinct blocks"):
        measure_latency_table(space)


@pytest.mark.slow
def test_the_sum_of_blocks_ranks_whole_networks():
    torch.set_num_threads(1)
    space = Space.of("mobilenetv2").scaled(0.5)
    table = measure_latency_table(space, seconds_each=0.02)
    codes = [space.code(row) for row in space.sample(24, 0)]
    measured = [latency.low_ms for latency in measure_latencies(codes)]
    assert spearmanr(measured, [table.of(code) for code in codes]).statistic > 0.7
    assert np.isfinite(measured).all()
