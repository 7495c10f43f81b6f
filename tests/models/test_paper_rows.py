"""The paper's Tables 3, 4 and 5 against our counts: within the tolerance and for the reason in the golden file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bsszoo.codes import Code, code_cost
from bsszoo.codes.named import named_entries

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "paper_rows.json").read_text())
ROWS: list[dict[str, Any]] = GOLDEN["rows"]
COUNTED = [row for row in ROWS if "macs" in row]


def printed(text: str) -> tuple[float, float]:
    """(value, unit of the last printed digit) of a figure such as ``1.81B``."""
    number, letter = text[:-1], text[-1]
    scale = {"B": 10**9, "M": 10**6}[letter]
    digits = len(number.partition(".")[2])
    return float(number) * scale, scale / 10**digits


def agrees(count: int, figure: dict[str, Any]) -> bool:
    value, unit = printed(figure["printed"])
    if figure["agreement"] == "rounded":
        return abs(count - value) <= unit / 2
    if figure["agreement"] == "cut off":
        return 0 <= count - value < unit
    return abs(count - value) <= value * figure["percent"] / 100


def test_every_entry_has_a_row_and_every_row_an_entry() -> None:
    assert [row["name"] for row in ROWS] == [e.name for e in named_entries().values() if e.paper is not None]
    # Fifteen rows of Table 3, two of Table 4, the two searched backbones of Table 5 (one of them twice).
    assert [sum(f"Table {n}" in row["place"] for row in ROWS) for n in (3, 4, 5)] == [15, 2, 3]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_entry_is_the_row(row: dict[str, Any]) -> None:
    entry = named_entries()[row["name"]]
    assert list(entry.code.entries) == row["entries"]
    assert entry.code.image_size == row["image_size"]
    assert (entry.paper.place, entry.paper.code) == (row["place"], row["printed_code"])
    numbers = [int(n) for n in re.findall(r"\d+", row["printed_code"])]
    # A code that is not what the paper prints says so in the notes.
    slip = numbers != row["entries"]
    assert slip == (row["name"] in ("mobilenetv2", "resnet50_retinanet_autobss"))
    assert not slip or any("printed" in note for note in entry.notes)


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row["name"])
@pytest.mark.parametrize("what", ["macs", "params"])
def test_count_agrees_with_the_printed_figure(row: dict[str, Any], what: str) -> None:
    entry = named_entries()[row["name"]]
    count = getattr(code_cost(entry.code), what)
    figure = row[what]
    assert getattr(entry.paper, what) == figure["printed"]
    assert agrees(count, figure), f"{count} against {figure}"
    assert (figure["agreement"] == "rounded") != bool(figure.get("reason")), "anything but rounding needs a reason"


@pytest.mark.parametrize("row", [r for r in ROWS if "otherwise" in r], ids=lambda row: row["name"])
def test_the_other_reading_misses_the_printed_figure(row: dict[str, Any]) -> None:
    """Why the fixed parts are as they are: read otherwise, the row would not come out."""
    other = row["otherwise"]
    code = Code.parse(other["code"])
    assert code != named_entries()[row["name"]].code
    count = code_cost(code).macs
    assert round(count / 1e6, 1) == other["millions_of_macs"]
    assert not agrees(count, row["macs"])
    assert any(f"{other['millions_of_macs']}M" in note for note in named_entries()[row["name"]].notes)


@pytest.mark.parametrize("entry", named_entries().values(), ids=lambda entry: entry.name)
def test_stored_cost_is_the_cost_of_the_code(entry: Any) -> None:
    assert entry.cost == code_cost(entry.code)


def test_known_values_of_the_originals() -> None:
    """Parameters as timm's and torchvision's model tables give them."""
    expected = {
        "resnet18": 11_689_512,
        "resnet50": 25_557_032,
        "mobilenetv2": 3_504_872,
        "efficientnet_b0": 5_288_548,
        "efficientnet_b1": 7_794_184,
    }
    assert {name: named_entries()[name].cost.params for name in expected} == expected
