"""The timer: what is run, in which order and how often; never how long it takes."""

from __future__ import annotations

import statistics

import pytest
import torch

from bsszoo.codes import Code
from bsszoo.latency.timer import Latency, measure_latencies, time_forwards


def test_callables_take_turns_once_each_is_warm():
    calls = []
    a, b = time_forwards([lambda: calls.append("a"), lambda: calls.append("b")], least=3, warm_up=2)
    assert "".join(calls) == "aabb" + "ababab"
    assert a.runs == b.runs == 3
    assert min(*a.times, *b.times, a.warm_ms, b.warm_ms) > 0
    assert a.where == ("CPU, 1 thread" if torch.get_num_threads() == 1 else f"CPU, {torch.get_num_threads()} threads")


def test_each_is_run_once_more_before_it_is_timed_where_caches_shall_hold_what_it_needs():
    calls = []
    a, _ = time_forwards([lambda: calls.append("a"), lambda: calls.append("b")], least=2, warm_up=1, again=True)
    assert "".join(calls) == "ab" + "aabbaabb"
    assert a.runs == 2


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 2), (600.0, 5)])
def test_turns_end_with_the_time_but_neither_below_the_least_nor_above_the_most(seconds, runs):
    (latency,) = time_forwards([lambda: None], seconds=seconds, least=2, most=5)
    assert latency.runs == runs


def test_forwards_keep_no_gradients():
    modes = []
    time_forwards([lambda: modes.append(torch.is_inference_mode_enabled())])
    assert all(modes)


def test_a_latency_is_the_median_and_the_quartiles_of_its_times():
    latency = Latency((4.0, 1.0, 2.0, 9.0), 30.0, "CPU, 1 thread")
    assert (latency.low_ms, latency.median_ms, latency.high_ms) == tuple(statistics.quantiles([1, 2, 4, 9], n=4))


def test_networks_are_timed_at_their_own_inputs():
    small = "mobilenetv2_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_stem8_stage2-8x1_px"
    for latency in measure_latencies([Code.parse(f"{small}32"), Code.parse(f"{small}64")], rounds=4):
        assert latency.runs == 4
