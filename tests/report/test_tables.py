"""What the terminal shows: every figure, both ways of counting, and codes that can be copied whole."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from report.finished_run import CAUTION, example_run, original
from rich.console import Console, RenderableType
from strategies import FAMILY_NAMES, codes

from bsszoo.codes import FAMILIES, Code, code_cost, stage_costs, stages_of
from bsszoo.report.figures import ABSENT, human
from bsszoo.report.tables import (
    ListRow,
    code_summary,
    cost_line,
    inner,
    model_list_table,
    operator,
    result_table,
    stage_table,
)


def shown(table: RenderableType, *, width: int = 80, soft_wrap: bool = True) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False, color_system=None).print(table, soft_wrap=soft_wrap)
    return out.getvalue()


def flowing(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_stage_table_has_a_line_for_each_stage(family: str) -> None:
    code = original(family)
    lines = shown(stage_table(code)).splitlines()
    for row in stage_costs(code):
        line = next(line for line in lines if line.split()[:2] == [str(row.number), row.name])
        assert human(row.cost.macs) in line
        assert human(row.cost.params) in line
        assert f" {row.width} " in line
    total = code_cost(code)
    line = next(line for line in lines if line.split()[:1] == ["total"])
    assert line.split()[1:] == [human(total.macs), "100.0%", human(total.params)]
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("family", "operators"),
    [
        ("resnet18", ["Conv 7x7 + pool", "BasicBlock 3x3", "Linear"]),
        ("resnet50", ["Conv 7x7 + pool", "Bottleneck 3x3", "Linear"]),
        ("mobilenetv2", ["Conv 3x3", "MBConv k3", "Conv 1x1", "Linear"]),
        ("efficientnet_b0", ["Conv 3x3", "MBConv k5 + SE", "Conv 1x1", "Linear"]),
    ],
)
def test_the_stage_table_names_operators(family: str, operators: list[str]) -> None:
    text = shown(stage_table(original(family)))
    assert all(operator in text for operator in operators)


def test_the_stage_table_shows_bottlenecks_and_expansions() -> None:
    lines = shown(stage_table(original("resnet50"))).splitlines()
    assert next(line for line in lines if "layer3" in line).split()[-6:-3] == ["1024", "6", "256"]
    lines = shown(stage_table(original("mobilenetv2"))).splitlines()
    # Counted from the right: an operator's name has spaces.
    assert [line.split()[-4] for line in lines if " blocks." in line] == ["1", *"666666"]


@pytest.mark.parametrize(
    ("name", "legend"),
    [
        ("resnet18", "C output channels, L blocks"),
        ("resnet50", "C output channels, L blocks, B bottleneck width"),
        ("mobilenetv2", "C output channels, L blocks, T expansion"),
        ("deit", "C output channels, L blocks, B attention width"),
    ],
)
def test_the_legend_names_the_third_entry_in_the_familys_words(name: str, legend: str) -> None:
    assert legend in [line.strip() for line in shown(stage_table(original(name))).splitlines()]


def test_an_operator_of_several_forms_is_the_first_and_two_dots() -> None:
    code = Code.parse("mobilenetv4_conv_medium_c48-80-160-256_l1-1-8-11_t4-2-4-4")
    assert [operator(stage) for stage in stages_of(code)][1:5] == [
        "Fused-MBConv k3",
        "ExtraDW k3-k5",
        "ExtraDW k3-k5, ..",
        "ExtraDW k5-k5, ..",
    ]
    titles = [block.title() for stage in stages_of(code)[3:4] for block in stage.blocks()]
    assert titles[1:] == ["ExtraDW k3-k3"] * 2 + ["ExtraDW k3-k5", "ExtraDW k3-k3", "ConvNext k3", "FFN", "ConvNext k3"]
    small = stages_of(Code.parse("mobilenetv4_conv_small_c32-64-96-128_l1-1-6-6_t1-3-2-4"))
    assert [block.title() for block in small[4].blocks()][2:] == ["IB k5", "IB k5", "IB k3", "IB k3"]
    # What the code says, which only some blocks' inner widths are that multiple of.
    assert [inner(stage, "T") for stage in small] == [ABSENT, "1", "3", "2", "4", *[ABSENT] * 3]


def test_the_stage_table_counts_at_the_image_size_asked_for() -> None:
    code = original("resnet50")
    assert human(code_cost(code, (800, 600)).macs) in shown(stage_table(code, (800, 600)))


@settings(max_examples=20)
@given(codes())
def test_any_code_has_a_stage_table_and_a_summary(code: Code) -> None:
    cost = code_cost(code)
    text = shown(code_summary(code, cost))
    assert str(code) in text.splitlines()[1]
    of_the_paper = code.form == FAMILIES[code.family].letter
    assert ("{" + ",".join(map(str, code.entries)) + "}" in text) == of_the_paper
    assert f"{cost.macs:,}" in text
    assert f"{cost.params:,}" in text
    assert human(cost.macs2) in text
    assert human(cost.macs) in shown(stage_table(code))


@pytest.mark.parametrize(
    "text",
    [
        "mobilenetv3_large_c24-40-80-80-112-160_l2-3-1-3-2-3_b72-120-240-184-672-960_e64-72-240-200-480-672",
        "ghostnet_c24-40-80-112-160_l2-2-4-2-5_b72-120-200-672-960_e48-72-240-480-672",
        "convnext_atto_c32-64-128-256_l2-2-4-2_b112-224-480-1024",
        "convnext_atto_c32-64-128-256_l2-2-4-2_t4-4-4-4",
        "resnext_c256-512-1024-2048_l3-4-6-3_b128-256-512-1024_g4-8-16-32",
        "resnet18_c24-48-96-192_l2-2-2-2",
    ],
)
def test_the_papers_form_of_a_code_is_read_as_that_code(text: str) -> None:
    code = Code.parse(text)
    lines = shown(code_summary(code, code_cost(code))).splitlines()
    flat = [line.removeprefix("paper's form").strip() for line in lines if line.startswith("paper's form")]
    assert [Code.parse(one, family=code.family) for one in flat] == [code] * (code.form == FAMILIES[code.family].letter)


def test_costs_are_displayed_both_ways_everywhere() -> None:
    run = example_run()
    best = run.best
    row = ListRow("a", "resnet18", str(best.code), best.cost.macs, best.cost.params, None, "none", 224)
    for table in (
        stage_table(best.code),
        code_summary(best.code, best.cost),
        result_table(run),
        model_list_table([row]),
        cost_line(best.cost),
    ):
        text = flowing(shown(table))
        assert human(best.cost.macs) in text
        assert human(2 * best.cost.macs) in text
        assert "the paper's FLOPs" in text
        assert "2 x MACs" in text
        assert "what tools counting a multiply-add as two call FLOPs" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_end_of_a_run_is_displayed_whole(width: int) -> None:
    run = example_run()
    text = shown(result_table(run), width=width)
    lines = text.splitlines()
    for network in run.networks:
        row = next(line for line in lines if line.startswith(network.label))
        assert [human(network.cost.macs), human(network.cost.macs2), human(network.cost.params)] == row.split()[
            len(network.label.split()) :
        ][:3]
        assert f"{network.score:.4f}" in row
        assert f"{network.latency_ms:.2f}" in row
        assert str(network.code) in lines, "a code stands alone on its line, so that it can be copied"
    assert CAUTION in flowing(text)
    table = [line for line in lines[: lines.index("")] if line not in map(str, (n.code for n in run.networks))]
    assert all(len(line) <= width for line in table)


def test_without_soft_wrap_nothing_is_cut_off() -> None:
    run = example_run()
    text = shown(result_table(run), width=60, soft_wrap=False)
    assert all(str(network.code) in text.replace("\n", "") for network in run.networks)


def test_what_was_not_measured_is_a_dash() -> None:
    run = example_run(latency=False, controls_scored=False)
    line = next(line for line in shown(result_table(run)).splitlines() if line.startswith("original"))
    assert line.split()[-1:] == ["-"]  # no score, and no column for latencies that nobody measured
    assert "Latency" not in shown(result_table(run))
    assert "Latency" in shown(result_table(example_run()))


def test_a_label_is_text_and_not_markup() -> None:
    run = example_run()
    odd = replace(run.networks[0], label="[bold]x[/bold] [mine]")
    assert "[bold]x[/bold] [mine]" in shown(result_table(replace(run, networks=(odd, *run.networks[1:]))), width=120)


def test_the_list_of_models() -> None:
    rows = [
        ListRow("resnet50_autobss", "resnet50", "resnet50_c64", 4_033_000_000, 23_736_000, "4.03B 23.73M", "none", 224),
        ListRow("mobilenetv2", "mobilenetv2", "mobilenetv2_c24", 300_774_272, 3_504_872, None, "timm", 240),
    ]
    text = shown(model_list_table(rows))
    line = re.split(r"  +", next(line for line in text.splitlines() if line.startswith("resnet50")).strip())
    assert line == ["resnet50_autobss", "224", "4.03B", "8.07B", "23.74M", "4.03B 23.73M", "none"]
    assert "resnet50_c64" not in text
    assert "resnet50_c64" in shown(model_list_table(rows, with_codes=True)).splitlines()
    assert "MACs" in shown(model_list_table([]))
    # Networks at different inputs are not compared without a word.
    assert "inputs of different sizes (224, 240 px)" in flowing(text)
    assert "different sizes" not in shown(model_list_table(rows[:1]))


def test_the_end_of_a_run_says_at_which_input_it_was_counted() -> None:
    run = example_run()
    assert f"Counted at an input of {run.best.code.image_size} x" in shown(result_table(run))
    other = replace(run.networks[0], code=replace(run.networks[0].code, image_size=512))
    mixed = flowing(shown(result_table(replace(run, networks=(other, *run.networks[1:])))))
    assert "inputs of different sizes" in mixed
    assert "512" in mixed
