"""The report page: whole, offline, escaped, with the data's own figures, and never claiming an accuracy."""

from __future__ import annotations

import html
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from report.finished_run import CAUTION, example_run, with_text
from strategies import FAMILY_NAMES, KINDS, some_by_default

from bsszoo.codes import Code
from bsszoo.errors import RunError
from bsszoo.evaluators.base import EvaluatorInfo
from bsszoo.report.commands import commands
from bsszoo.report.figures import human, score
from bsszoo.report.page import render_page, write_report
from bsszoo.study.result import Confirmation, ConfirmedRow

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would find: the text, the tables by row, every attribute; checks that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_needs_nothing_from_outside() -> None:
    page = Page(render_page(example_run()))
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    # One script, our own, which asks nothing of anybody.
    scripts = re.findall(r"<script>(.*?)</script>", render_page(example_run()), flags=re.DOTALL)
    assert len(scripts) == page.tags.count("script") == 1
    assert not re.search(r"https?:|fetch|XMLHttp|import|eval|innerHTML", scripts[0])
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value.startswith("#"), (tag, name, value)
    css = re.findall(r"<style>(.*?)</style>", render_page(example_run()), flags=re.DOTALL)
    assert len(css) == 1
    assert "url(" not in css[0]
    assert "@import" not in css[0]


def test_the_page_shows_every_network_with_its_figures() -> None:
    run = example_run()
    page = Page(render_page(run))
    for network in run.networks:
        cost = network.cost
        assert [
            network.label,
            human(cost.macs),
            human(cost.macs2),
            human(cost.params),
            human(cost.activations),
            score(network.score),
            f"{network.latency_ms:.2f}",
        ] in page.rows
        assert page.text.count(str(network.code)) >= 1


def test_the_page_begins_with_the_best_beside_the_controls() -> None:
    run = example_run()
    page = Page(render_page(run))
    text, whole = page.text, run.networks[0].cost
    head, *rows = [[" ".join(cell.split()) for cell in row] for row in page.rows[:4]]
    assert head == ["Network", "MACs", "Params", "Latency [ms]", "Score"]
    assert rows[0][:3] == ["original", human(whole.macs), human(whole.params)]
    for (title, *cells), network in zip(rows[1:], (run.networks[1], run.best), strict=True):
        cost = network.cost
        assert title in ("uniformly rescaled", "found 1")
        assert cells[0] == f"{human(cost.macs)} {100 * cost.macs / whole.macs:.1f}%"
        assert cells[1] == f"{human(cost.params)} {100 * cost.params / whole.params:.1f}%"
        assert cells[3] == score(network.score)
    assert f"2 x MACs of the last row: {human(run.best.cost.macs2)}" in text
    assert f"{run.budget.macs:,} MACs (2 x MACs: {2 * run.budget.macs:,})" in text


def test_a_trained_run_begins_with_accuracies_and_says_how_to_use_the_network() -> None:
    run = example_run()
    first, uniform = run.best, run.networks[1]
    tested = (
        ConfirmedRow("uniform", "uniform", uniform.code, uniform.cost, (90.0, 91.0), 84.1, 96.9),
        ConfirmedRow("found 1", "found", first.code, first.cost, (93.0, 94.0), 87.1, 99.9),
    )
    measured = EvaluatorInfo("inherited", "nearness")
    trained = replace(run, evaluator=measured, confirmation=Confirmation("top-1", tested, ("It is better.",)))

    class Delivered(type(trained)):  # type: ignore[misc]
        recommendation = "Take found 1: 93.5%."
        weights = "runs/a/recommended"

    done = Delivered(**{field.name: getattr(trained, field.name) for field in fields(trained)})
    page = Page(render_page(done))
    head, *rows = [[" ".join(cell.split()) for cell in row] for row in page.rows[:4]]
    assert head[:3] == ["Network", "Accuracy [%]", "95% interval"]
    assert [row[:3] for row in rows] == [
        ["original", "-", "-"],
        ["uniformly rescaled", "90.50", "84.10 to 96.90"],
        ["recommended: found 1", "93.50", "87.10 to 99.90"],
    ]
    following = page.text[page.text.index("What to do next") :]
    assert following.index("runs/a/recommended") < following.index("Accuracy over MACs")
    assert following.index("Accuracy over latency") < following.index("Confirmed on unseen images")
    assert f"found: 93.50% (87.10 to 99.90), {human(first.cost.macs)} MACs, {first.code}" in page.text
    assert f"trial 0: score {score(run.trials[0].score)}" in page.text


def test_the_network_to_take_is_the_one_that_stands_out() -> None:
    run = example_run()
    second = [row for row in run.networks if row.role == "found"][1]

    class Delivered(type(run)):  # type: ignore[misc]
        recommendation = f"Take {second.label}."
        recommended = second

    taking = Delivered(**{field.name: getattr(run, field.name) for field in fields(run)})
    for result, first in ((run, run.best), (taking, second)):
        text = render_page(result)
        assert re.findall(r'<div class="card found first"><h3>(.*?)</h3>', text) == [first.label]
        assert set(re.findall(r'class="found-first"><td class="name">(?:recommended: )?(.*?)</td>', text)) == {
            first.label
        }
        assert re.findall(r"<details open><summary>(.*?):", text) == [first.label]


def test_the_page_says_how_the_run_went() -> None:
    run = example_run()
    budget = replace(run.budget, min_macs=1_000, params=5_000_000, activations=9_000_000, latency_ms=12.5)
    text = Page(render_page(replace(run, budget=budget))).text
    for fact in (
        "total depth at most 78",
        "1 of 12 trials failed",
        "12,345 codes",
        "0.6",
        "1 min 41 s",
        "bsszoo 0.1.0, python 3.12.1",
        "at least 1,000 MACs",
        "at most 5,000,000 params",
        "at most 9,000,000 activations",
        "at most 12.50 ms",
        "12, of which 1 failed",
    ):
        assert fact in text
    assert "none" in Page(render_page(replace(run, caps=(), notes=()))).text


def test_every_trial_is_in_the_page_and_failed_ones_with_their_error() -> None:
    run = example_run(failed=(2, 5))
    page = Page(render_page(run))
    for trial in run.trials:
        row = next(r for r in page.rows if r and r[0] == str(trial.number) and len(r) == 9)
        assert row[2:4] == [human(trial.cost.macs), human(trial.cost.macs2)]
        assert row[6] == score(trial.score)
        assert row[8] == str(trial.code) + (trial.error or "")
    assert "All 12 trials, 2 of them failed" in page.text


def test_the_commands_of_every_best_code_are_in_the_page() -> None:
    run = example_run()
    text = Page(render_page(run)).text
    for network in run.networks:
        for command in commands(network.code):
            assert (command.text.rstrip() in text) == (network.role == "found")
    for found in re.findall(r'bsszoo\.create\("([^"]+)"\)', text):
        assert Code.parse(found) in [n.code for n in run.networks]


def test_a_caution_is_displayed_as_such_and_nothing_claims_an_accuracy() -> None:
    run = example_run()
    page = render_page(run)
    box = re.search(r'<div class="caution".*?</div>', page, flags=re.DOTALL)
    assert box
    assert html.escape(CAUTION) in box.group(0)
    assert page.index(box.group(0)) < page.index("<h2>")
    assert "accura" not in page.replace(html.escape(CAUTION), "").lower()


def test_a_measured_score_needs_no_caution() -> None:
    run = replace(example_run(), evaluator=EvaluatorInfo("mine:accuracy", "top-1 accuracy after 5 epochs"))
    page = render_page(run)
    assert 'class="caution"' not in page
    assert "top-1 accuracy after 5 epochs" in page


def test_text_of_a_user_never_becomes_markup() -> None:
    evil = "<script>alert('x')</script><img src=\"http://example.org/x\">&amp;</style></title>\ud800 $x^2$"
    page = Page(render_page(with_text(example_run(), evil)))
    assert "img" not in page.tags
    assert page.tags.count("script") == 1
    assert page.text.count("<script>alert('x')</script>") >= 8
    assert "&amp;" in page.text


@pytest.mark.parametrize("family", some_by_default(FAMILY_NAMES, KINDS))
def test_every_family_has_a_page(family: str) -> None:
    run = example_run(family)
    text = render_page(run)
    page = Page(text)
    drawn = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawn) == page.tags.count("svg") == 4 + len(run.networks)
    for svg in drawn:
        ET.fromstring(svg)
    assert "nan" not in page.text.lower().replace("gave nan", "").replace("finance", "")


@pytest.mark.parametrize(
    "run",
    [
        example_run(trials=1, failed=(), found=1),
        example_run(latency=False, controls_scored=False),
        replace(example_run(), networks=(example_run().best,)),
        replace(example_run(), versions={}, caps=(), notes=()),
    ],
    ids=["one trial", "nothing measured", "no controls", "nothing message"],
)
def test_runs_that_lack_something_have_a_page(run: object) -> None:
    page = Page(render_page(run))  # type: ignore[arg-type]
    assert "None" not in page.text
    assert "nan" not in page.text.lower().replace("gave nan", "")


def test_latency_is_left_out_when_it_was_not_measured() -> None:
    text = Page(render_page(example_run(latency=False))).text
    assert "Latency was not measured." in text
    assert "latency [ms]" not in text


def test_equal_results_give_equal_pages() -> None:
    assert render_page(example_run()) == render_page(example_run())


def test_a_report_is_written_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")
    run = example_run()
    assert write_report(run, str(target)) == target
    assert target.read_text(encoding="utf-8") == render_page(run)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_write_leaves_the_older_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match=r"Cannot write the report to .*report.html.*No space left"):
        write_report(example_run(), target)
    assert target.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"missing.*No such file.*Give a folder that exists"):
        write_report(example_run(), tmp_path / "missing" / "report.html")
