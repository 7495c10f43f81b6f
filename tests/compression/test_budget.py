"""Budgets as people write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bsszoo
from bsszoo.compression.budget import latency_limit, parse_amount
from bsszoo.errors import BudgetError, UnknownNameError
from bsszoo.search import LatencyFunction, LatencyTable
from bsszoo.spaces import Space
from bsszoo.spaces.chain import space_shapes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("130M", 130_000_000),
        ("130m", 130_000_000),
        ("0.13G", 130_000_000),
        ("1.8B", 1_800_000_000),
        ("130e6", 130_000_000),
        ("130000000", 130_000_000),
        (" 130 M ", 130_000_000),
        ("60%", 600),
        ("2.5k", 2500),
        (130_000_000, 130_000_000),
        (1.3e8, 130_000_000),
        (".5M", 500_000),
    ],
)
def test_amounts(text, value):
    assert parse_amount(text, of=1000, what="--flops") == value


@pytest.mark.parametrize(
    "text", ["", "M", "-5M", "130X", "0", "0.6", "0%", "nan", "inf", "1e999", "13 0M", True, "60 %%"]
)
def test_what_is_no_amount_is_named(text):
    with pytest.raises(BudgetError, match="--flops is"):
        parse_amount(text, of=1000, what="--flops")


@given(st.integers(1, 10**13))
def test_plain_numbers_stay(n):
    assert parse_amount(str(n), of=1, what="--flops") == n


def _table():
    space = Space.of("resnet18").replace(C2=[32], C3=[32], C4=[64], C5=[128], L2=[1], L3=[1], L4=[1], L5=[1])
    return LatencyTable(dict.fromkeys(space_shapes(space), 2.0))


@pytest.mark.parametrize(
    ("flops", "words"), [("50", "Did you mean 50%, a share of the network's, or 50M"), ("130", "Did you mean 130M")]
)
def test_a_budget_without_its_unit_is_asked_about(flops: str, words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        bsszoo.compress("resnet18", flops=flops)


def test_a_latency_table_is_a_value_a_mapping_or_a_file(tmp_path):
    _table().save(tmp_path / "t.csv")
    marks = set()
    for table in (_table(), dict(_table().blocks), tmp_path / "t.csv", str(tmp_path / "t.csv")):
        limit = latency_limit("12.5 ms", table, None)
        assert limit.most == 12.5
        marks.add(limit.settings["latency_source"])
    assert len(marks) == 1
    assert latency_limit(None, limit.settings["latency_table"], None).model.digest() == _table().digest()
    assert latency_limit(None, None, None) is None


def test_a_latency_model_is_a_function_or_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "predicted.py").write_text(
        "from bsszoo.search import LatencyFunction\n"
        "def ms(code):\n    return code.depths[0] * 0.5\n"
        "fast = LatencyFunction(lambda codes: codes[:, 0] * 1.0, arrays=True)\n"
    )
    space = Space.of("resnet18")
    rows = space.sample(3, 0)
    by_name = latency_limit(None, None, "predicted:ms")
    assert by_name.most is None
    assert by_name.model.latencies(space, rows).tolist() == [0.5 * row[4] for row in rows]
    assert latency_limit(3, None, "predicted:fast").model.latencies(space, rows).tolist() == rows[:, 0].tolist()
    by_function = latency_limit(3, None, lambda code: code.depths[0]).model
    assert by_function.latencies(space, rows).tolist() == rows[:, 4].tolist()
    same = LatencyFunction(len)
    assert latency_limit(3, None, same).model is same
    with pytest.raises(UnknownNameError, match="Did you mean"):
        latency_limit(3, None, "predicted:mss")
    with pytest.raises(UnknownNameError, match="The latency model is MODULE:FUNCTION"):
        latency_limit(3, None, "predicted")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, None, None), "nothing predicts a code's latency"),
        (("60%", None, len), "has no time for the network itself"),
        ((3, {}, len), "both set"),
        (("fast", None, len), "such as 12.5"),
        ((0, None, len), "above 0"),
        ((True, None, len), "above 0"),
        ((3, None, 7), "latency is 7"),
    ],
)
def test_what_is_no_latency_model_is_refused(arguments, words):
    with pytest.raises(BudgetError, match=words):
        latency_limit(*arguments)


@pytest.mark.parametrize(
    ("network", "flops", "message"),
    [
        ("mobilenetv2", "400M", "mobilenetv2 has 300.8M MACs; a budget of 400.0M would make it larger"),
        ("mobilenetv2", "150%", "a budget of 451.2M would make it larger"),
        (bsszoo.Code.parse("resnet18_c64-64-64-64_l1-1-1-1"), "1.8B", "resnet18_c64-64-64-64_l1-1-1-1 has"),
        ("maskrcnn_resnet50", "130B", "maskrcnn_resnet50 has 117.1B MACs; a budget of 130.0B"),
    ],
)
def test_a_budget_that_would_make_the_network_larger_is_refused(
    network: Any, flops: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=re.escape(message)) as refused:
        bsszoo.compress(network, flops=flops, out=tmp_path / "run")
    assert "--grow" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_larger_network_is_searched_when_it_is_asked_for(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"trials": 2, "batch": 2, "measure": False}
    network = "resnet18_c64-64-64-64_l1-1-1-1"
    own = bsszoo.cost(network).macs
    found = bsszoo.compress(network, flops=2 * own, grow=True, out=tmp_path / "run", **asked)
    assert all(own < row.cost.macs <= 2 * own for row in found.trials)
    # The network's own figure, as a person reads it in a table, is no larger network.
    bsszoo.compress("resnet50", flops="4.1B", out=tmp_path / "rounded", **asked)
