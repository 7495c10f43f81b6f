"""What the page says of the model: figures from the insight, a verdict that follows it, nothing without results."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from report.finished_run import example_run
from report.test_page import Page
from report.test_plots import texts

from bsszoo.report.model_plots import effect_curves, importance_bars, plain, posterior_over_cost
from bsszoo.report.page import cards, learnt, render_page
from bsszoo.report.plots import pareto_front
from bsszoo.search.insight import insight_of_rows, study_insight
from bsszoo.spaces.candidate_set import CandidateSet

GRID = np.array(list(itertools.product(range(1, 6), repeat=4)))


def insight(n=40, values=None, names=("C3", "C4", "L3", "L4"), noise=0.0):
    rng = np.random.default_rng(0)
    codes = GRID[rng.choice(len(GRID), n, replace=False)]
    values = codes[:, 0] * 2.0 + codes[:, 2] if values is None else values
    macs = 1_000_000 * GRID.sum(axis=1)
    return study_insight(CandidateSet(GRID, names=names, macs=macs), codes, values + noise * rng.normal(size=n))


def of_run(run):
    codes = np.array([t.code.entries for t in run.trials])
    macs = np.array([t.cost.macs for t in run.trials])
    return insight_of_rows(CandidateSet(codes, macs=macs), run.trials)


def test_a_page_with_an_insight_has_its_plots_and_nothing_from_outside():
    run = example_run(trials=40, batch=16, found=8)
    found = of_run(run)
    page = Page(render_page(run, found))
    # Four plots of trials, three of the model, a card for each network.
    assert page.tags.count("svg") == 7 + len(run.networks)
    assert "What the results teach" in page.text
    assert not {"img", "link"} & set(page.tags)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert render_page(run, found) == render_page(run, found)


def test_without_an_insight_the_section_is_left_out_unless_results_are_too_few():
    assert "What the results teach" not in render_page(example_run())
    assert "Fewer than two results" in render_page(example_run(trials=1, failed=(), found=1))


def test_a_note_stands_below_the_heading_as_text():
    page = render_page(example_run(), note="3 trials <running>")
    assert '<p class="note">3 trials &lt;running&gt;</p>' in page


def test_the_plots_are_svg_that_name_every_entry():
    found = insight()
    for svg in (importance_bars(found), effect_curves(found), posterior_over_cost(found, [(9_000_000, 5.0)])):
        assert ET.fromstring(svg).get("role") == "img"
        assert "nan" not in svg.lower()
    for svg in (importance_bars(found), effect_curves(found)):
        assert {"C3", "C4", "L3", "L4"} <= set(texts(svg))
    bars = texts(importance_bars(found))
    assert bars.index("C3") < bars.index("L3") < bars.index("MACs")
    assert {"all, each alone", "combinations"} <= set(bars)
    assert re.search(r"C3 (7\d|8\d)% \(\d+ to \d+%\), L3 ", importance_bars(found))


def test_many_entries_and_candidates_stay_small():
    rng = np.random.default_rng(1)
    codes = rng.integers(1, 9, size=(2000, 30))
    found = study_insight(CandidateSet(codes, macs=codes.sum(axis=1)), codes[:80], rng.normal(size=80))
    page = learnt(found, [(int(c.sum()), 0.5) for c in codes[:80]])
    assert len(page) < 700_000
    assert len(Page(page).text) > 100


def test_a_good_model_is_called_good_and_a_bad_one_not():
    good = learnt(insight(), [])
    assert "The model follows them well." in good
    assert "above 0.99" in good
    bad = learnt(insight(values=np.random.default_rng(5).normal(size=40)), [])
    assert "do not rely on what follows" in bad


def test_few_results_are_named_as_such():
    assert "Only 5 results:" in learnt(insight(5), [])
    assert "too few, or too alike, for a correlation" in learnt(insight(3), [])
    assert "Only" not in learnt(insight(8), [])


def test_equal_results_have_a_sentence_and_no_plot():
    message = learnt(insight(values=np.ones(40)), [])
    assert "All 40 results are equal" in message
    assert "<svg" not in message
    assert "Fewer than two results" in learnt(None, [])


def test_no_name_of_a_user_becomes_a_formula_or_markup():
    assert plain("a$x^2$b") == r"a\$x^2\$b"
    assert len(plain("long" * 20)) == 18
    svg = importance_bars(insight(names=("<b>", "$x$", "l" * 90, "\ud800")))
    assert {"<b>", "$x$", "?"} <= set(texts(svg))


@pytest.mark.parametrize("seed", range(5))
def test_a_pareto_front_by_comparing_all_pairs(seed):
    rng = np.random.default_rng(seed)
    points = [(int(c), float(v)) for c, v in zip(rng.integers(0, 9, 30), rng.integers(0, 9, 30), strict=True)]
    beaten = {p for p in points for q in points if q[0] <= p[0] and q[1] >= p[1] and q != p}
    assert set(pareto_front(points)) == set(points) - beaten
    assert pareto_front([]) == []


@pytest.mark.parametrize("family", ["resnet18", "resnet50", "mobilenetv2"])
def test_a_card_holds_every_entry_of_its_code(family):
    run = example_run(family)
    page = Page(cards(run))
    drawn = re.findall(r"<svg.*?</svg>", cards(run), flags=re.DOTALL)
    assert len(drawn) == len(run.networks)
    for network, svg in zip(run.networks, drawn, strict=True):
        words = texts(svg)
        for value in network.code.entries:
            assert str(value) in words
        assert svg.count('class="bar"') == svg.count('class="mark"') == len(network.code.entries)
    assert page.text.count("score") == len(run.networks)


def test_cards_without_the_uniform_control_have_no_marks():
    from dataclasses import replace

    run = example_run()
    assert 'class="mark"' not in cards(replace(run, networks=run.networks[2:]))
