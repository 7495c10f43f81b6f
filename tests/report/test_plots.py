"""The plots: valid SVG with text as text, the data's own figures, ids of their own, the same bytes each time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import pytest
from report.finished_run import example_run, with_text

from bsszoo.report.figures import human
from bsszoo.report.plots import cost_against_score, params_against_score, progress_by_trial, stage_profile
from bsszoo.study.result import Result

PLOTS = (cost_against_score, params_against_score, progress_by_trial, stage_profile)
Plot = Callable[[Result], str]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("plot", PLOTS)
def test_a_plot_is_one_accessible_svg_that_scales(plot: Plot) -> None:
    svg = plot(example_run())
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("width") is None
    assert "width:100%" in str(root.get("style"))
    assert len(str(root.get("viewBox")).split()) == 4
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.get("id") == root.get("aria-labelledby")
    assert len(str(title.text)) > 20
    assert texts(svg), "text is text and not outlines"
    assert "<metadata" not in svg
    assert "<style" not in svg
    assert "nan" not in svg.lower()
    assert "#0102" not in svg.lower()


def test_plots_on_one_page_share_no_id() -> None:
    run = example_run()
    ids = [re.findall(r'\bid="([^"]+)"', plot(run)) for plot in PLOTS]
    together = [name for group in ids for name in group]
    assert len(together) == len(set(together))
    for plot, own in zip(PLOTS, ids, strict=True):
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', plot(run)))
        assert used <= set(own)


@pytest.mark.parametrize("plot", PLOTS)
def test_equal_runs_give_equal_plots_whatever_the_users_settings(plot: Plot) -> None:
    import matplotlib

    expected = plot(example_run())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert plot(example_run()) == expected
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("plot", PLOTS)
def test_small_runs_have_plots(plot: Plot) -> None:
    for run in (
        example_run(trials=1, failed=(), found=1),
        example_run(trials=2, batch=1, failed=(0,), found=1),
        example_run(trials=60, batch=2, found=1, latency=False, controls_scored=False),
        replace(example_run(), networks=(example_run().best,)),
        replace(example_run(), trials=()),
    ):
        ET.fromstring(plot(run))


@pytest.mark.parametrize("plot", PLOTS)
def test_no_text_of_a_user_is_in_a_plot(plot: Plot) -> None:
    run = example_run()
    assert plot(with_text(run, "<b>$x$")) == plot(run)


def test_the_cost_plot_marks_the_budget_and_every_best_code() -> None:
    run = example_run(trials=30, found=5, failed=(3, 4))
    svg = cost_against_score(run)
    words = texts(svg)
    assert re.findall(r"font-weight: 700[^>]*>(\d+)</text>", svg) == ["5", "4", "3", "2", "1"], "the best on top"
    assert f"budget {human(run.budget.macs)}" in words
    assert "failed" in words
    assert any("2 x MACs" in w for w in words)
    assert "failed" not in texts(cost_against_score(example_run(failed=())))


def test_a_control_far_beyond_the_budget_stands_in_the_legend_with_its_figures() -> None:
    run = example_run()
    original = replace(run.networks[0], cost=replace(run.networks[0].cost, macs=50 * run.budget.macs), score=9.5)
    words = texts(cost_against_score(replace(run, networks=(original, *run.networks[1:]))))
    assert f"original: beyond, {human(original.cost.macs)}, 9.5000" in words
    assert max(float(w.replace("−", "-")) for w in words if re.fullmatch(r"[−\d]\d*\.\d+", w)) < 9


def test_the_progress_plot_names_batches_and_the_best_score() -> None:
    run = example_run(trials=12, batch=4, failed=(0, 7))
    svg = progress_by_trial(run)
    assert {"batch 0", "batch 1", "batch 2", "best so far", "failed"} <= set(texts(svg))
    best = max(t.score for t in run.trials if t.score is not None)
    assert f"{best:.4f}" in svg
    assert "2 failed" in svg


@pytest.mark.parametrize(("family", "stages"), [("resnet18", "2345"), ("mobilenetv2", "2345678")])
def test_the_stage_profile_has_every_stage_in_each_panel(family: str, stages: str) -> None:
    words = texts(stage_profile(example_run(family)))
    for name in ("stem", "fc", *stages[1:]):
        assert words.count(name) >= 3
    assert {"original", "uniformly rescaled", "best code"} <= set(words)
    assert {"width [channels]", "depth [blocks]", "share of MACs [%]"} <= set(words)
