"""Subnetworks of a trained network, judged by inherited weights: a training on drawn shapes, and its compression."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import drawn_shapes
import pytest
import timm
import torch
from drawn_shapes import CLASSES
from safetensors.torch import load_file, save_file

import bsszoo
from bsszoo.codes import Code
from bsszoo.compression.reopen import report_study
from bsszoo.compression.trainers import Trainers
from bsszoo.errors import RecipeError, SettingsError
from bsszoo.evaluators.base import Untracked
from bsszoo.evaluators.inherited import InheritedEvaluator, data_part, fine_tuning_recipe
from bsszoo.evaluators.registry import Request, make_evaluator
from bsszoo.models.build import build
from bsszoo.models.resolve import resolve
from bsszoo.options import TrainingOptions
from bsszoo.report.figures import human
from bsszoo.train.classification.recipe import read_recipe, recipe_text, with_values
from bsszoo.train.classification.validate import validate
from bsszoo.train.loop import train

pytestmark = pytest.mark.usefixtures("no_plots")

BASE = Code.parse(drawn_shapes.BASE)


def evaluator(drawn_base: object, drawn: Path, folder: Path, **how: object) -> InheritedEvaluator:
    request = Request(resolve(drawn_base), TrainingOptions(data=str(drawn), **how), folder)  # type: ignore[arg-type]
    made = make_evaluator(None, request)
    assert isinstance(made, InheritedEvaluator)
    return made


def test_a_network_with_weights_is_judged_by_them_and_one_without_by_training(
    drawn: Path, drawn_base: Path, tmp_path: Path
) -> None:
    judge = evaluator(drawn_base, drawn, tmp_path)
    assert judge.info.name.startswith("inherited-")
    assert judge.original == BASE
    space = judge.space(resolve(drawn_base))
    assert space.base == BASE
    assert (space.num_classes, space.in_chans) == (3, 3)
    with pytest.raises(RecipeError, match=r"optim\.batch_size is 1024"):  # the paper's recipe
        make_evaluator(None, Request(resolve(str(BASE)), TrainingOptions(data=str(drawn)), tmp_path))
    with pytest.raises(SettingsError, match="comes without weights"):
        make_evaluator("inherited", Request(resolve(str(BASE)), TrainingOptions(data=str(drawn)), tmp_path))


def test_the_network_itself_is_measured_as_it_is_and_a_subnetwork_after_a_short_fine_tuning(
    drawn: Path, drawn_base: Path, tmp_path: Path
) -> None:
    judge = evaluator(drawn_base, drawn, tmp_path)
    notes: list[str] = []
    judge.prepare(notes.append)
    assert judge(BASE).value == 0
    assert notes[-1].startswith("The network as it is: ")
    # Wilson's interval of 30 images.
    top1, low, high = map(
        float, re.fullmatch(r".*: ([\d.]+)% of 30 held-out images \(95%: ([\d.]+) to ([\d.]+)\)\.", notes[-1]).groups()
    )
    share, z = top1 / 100, 1.959964
    centre, half = share + z * z / 60, z * (share * (1 - share) / 30 + z * z / 3600) ** 0.5
    assert [low, high] == pytest.approx([100 * (centre + s * half) / (1 + z * z / 30) for s in (-1, 1)], abs=0.06)
    text = judge.estimate(12, 4, 3, Code.parse("resnet18_c8-16-24-32_l1-1-1-1_b8-12-24-32_px32"))
    assert re.fullmatch(
        r"Estimate: 12 codes, about 4 of them fine-tuned, then 4 networks in full, 3 times each: "
        r"about (a minute or less|\d+ minutes) on this machine, with one worker\.",
        text,
    )
    assert judge.tested(BASE, 0)[0] == pytest.approx(validate(drawn_base, drawn, settings={"val_split": "test"}).top1)
    trial = Untracked()
    code = Code.parse("resnet18_c8-16-24-32_l1-1-1-1_b8-12-24-32_px32")
    score = judge.evaluate(code, trial)
    assert list(trial.reports) == [0]
    # Nearer than a network that knows nothing, before any training and after it.
    shared = judge.shared()
    torch.manual_seed(0)
    knows_nothing = shared.nearness(build(code, num_classes=3))
    assert knows_nothing < 2 * trial.reports[0] < 0
    assert knows_nothing < 2 * score.value < 0
    assert judge.evaluate(code, Untracked()) == score  # whatever was judged in between


def test_a_code_that_stands_low_as_fitted_is_not_fine_tuned(drawn: Path, drawn_base: Path, tmp_path: Path) -> None:
    class Low(Untracked):
        def should_stop(self) -> bool:
            return True

    judge, trial = evaluator(drawn_base, drawn, tmp_path), Low()
    code = Code.parse("resnet18_c8-16-24-32_l1-1-1-1_b8-12-24-32_px32")
    before = judge.shared().subnetwork(code).state_dict()
    score = judge.evaluate(code, trial)
    assert trial.reports == {0: score.value}
    made = build(code, num_classes=3)
    made.load_state_dict(before)
    assert judge.shared().nearness(made) == pytest.approx(score.value, rel=1e-6)


@pytest.mark.parametrize("how", ["a weights file", "another order of the classes"])
def test_outputs_go_by_their_labels(drawn: Path, drawn_base: Path, tmp_path: Path, how: str) -> None:
    if how == "a weights file":
        # No labels: the classes are the folders in their order.
        file = tmp_path / "mine.safetensors"
        save_file(load_file(drawn_base / "model.safetensors"), file)
        network: object = file
        request = TrainingOptions(data=str(drawn), image_size=32)
    else:
        # timm's folder of the same network whose outputs stand for the classes in another order.
        made = bsszoo.create(f"local-dir:{drawn_base}", pretrained=True)
        order = [2, 0, 1]
        with torch.no_grad():
            made.fc.weight.copy_(made.fc.weight[order].clone())
            made.fc.bias.copy_(made.fc.bias[order].clone())
        folder = tmp_path / "pulled"
        timm.models.save_for_hf(
            made, folder, model_config={"label_names": [CLASSES[i] for i in order]}, safe_serialization=True
        )
        network, request = f"local-dir:{folder}", TrainingOptions(data=str(drawn))
    resolved = resolve(network)
    judge = InheritedEvaluator.requested(Request(resolved, request, tmp_path))
    finer = InheritedEvaluator.requested(Request(resolved, request, tmp_path, divisor=1))
    assert (judge.space(resolved).divisor, finer.space(resolved).divisor) == (8, 1)
    assert finer.fingerprint != judge.fingerprint
    said: list[str] = []
    judge.prepare(said.append)
    # Of so small images the whole is seen, as in the training, which no tensor says.
    assert judge.shared().accuracy.top1 == pytest.approx(
        evaluator(drawn_base, drawn, tmp_path / "other").shared().accuracy.top1
    )
    assert "Images: of 32 px, the inner 100% of each side, with mean [0.485, 0.456, 0.406]" in " ".join(said)
    assert data_part(resolved, Request(resolved, replace(request, image_size=128), tmp_path)).crop_pct == (
        0.875 if how == "a weights file" else 1.0
    )


def test_weights_that_do_not_fit_the_images_stop_a_run_with_the_reason(
    drawn: Path, drawn_base: Path, tmp_path: Path
) -> None:
    network = resolve(drawn_base)
    options = TrainingOptions(data=str(drawn))
    other = replace(network, config={**network.config, "label_names": ["bar", "cross", "ring"]})
    with pytest.raises(SettingsError, match=r"the class 'disc', which is no label of .* its labels, bar, cross, ring"):
        InheritedEvaluator.requested(Request(other, options, tmp_path))
    with pytest.raises(SettingsError, match="has 5 outputs, and the images are of 3 classes"):
        InheritedEvaluator.requested(Request(replace(network, num_classes=5), options, tmp_path))
    torch.manual_seed(0)
    state = {
        name: torch.randn_like(t) if t.dim() == 4 else t
        for name, t in load_file(drawn_base / "model.safetensors").items()
    }
    file = tmp_path / "noise.safetensors"
    save_file(state, file)
    with pytest.raises(
        SettingsError, match=r"what guessing among 3 classes gives: its weights do not fit .*--set data\.crop_pct"
    ):
        bsszoo.compress(file, flops="60%", data=drawn, image_size=32, trials=2, out=tmp_path / "run")


def test_a_built_module_is_compressed_with_its_weights(drawn: Path, drawn_base: Path, tmp_path: Path) -> None:
    module = bsszoo.create(drawn_base, pretrained=True)
    out = tmp_path / "run"
    settings: dict[str, object] = {"image_size": 32, "trials": 1, "batch": 1, "confirm": 0, "measure": False}
    result = bsszoo.compress(module, flops="50%", data=drawn, out=out, **settings)
    assert result.evaluator.name.startswith("inherited-")
    # Another process that builds the same network resumes the run.
    again = bsszoo.compress(bsszoo.create(drawn_base, pretrained=True), flops="50%", data=drawn, out=out, **settings)
    assert again.trials == result.trials


def test_a_short_fine_tuning_in_full_leaves_what_a_training_does(drawn: Path, drawn_base: Path, tmp_path: Path) -> None:
    judge = evaluator(drawn_base, drawn, tmp_path, epochs=3)
    code = Code.parse("resnet18_c8-16-24-32_l1-1-1-1_b8-12-24-32_px32")
    assert judge.in_memory
    test, held = judge.tested(code, 0)
    [out] = [file.parent for file in (tmp_path / "trainings").rglob("summary.json")]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["test_top1"], summary["top1"], summary["epochs"]) == (test, held, 3)
    assert validate(out, drawn, settings={"val_split": "test"}).top1 == pytest.approx(test)
    assert not (out / "log.txt").exists(), "it needed no process"
    # It is not repeated, and its recipe starts from the same weights in a process of its own.
    assert judge.tested(code, 0) == (test, held)
    again = train(read_recipe(out / "recipe.yaml"), str(drawn), tmp_path / "again", device="cpu")
    assert again["inherited"]["blocks"] == 4
    assert abs(again["test_top1"] - test) < 20, "other crops, the same length"
    # A recipe of the user's may have what images in memory lack.
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(recipe_text(judge.recipe))
    assert not evaluator(drawn_base, drawn, tmp_path / "other", recipe=recipe).in_memory


@pytest.mark.parametrize(
    ("images", "epochs", "batch", "rate"), [(10_000, None, 64, 0.02), (10_000, 6, 64, 0.01), (200, None, 24, 0.00375)]
)
def test_the_rate_fits_the_number_of_updates(
    drawn: Path, drawn_base: Path, tmp_path: Path, images: int, epochs: int | None, batch: int, rate: float
) -> None:
    network = resolve(drawn_base)
    data = data_part(network, Request(network, TrainingOptions(data=str(drawn)), tmp_path))
    recipe = fine_tuning_recipe(network, data, images, 3, epochs)
    assert (recipe.optim.batch_size, recipe.optim.lr) == (batch, pytest.approx(rate))
    # What judges is of few updates; a recipe of the user's is taken at its word.
    judge = evaluator(drawn_base, drawn, tmp_path)
    assert judge.judging == judge.recipe
    high = replace(judge, recipe=with_values(judge.recipe, optim={"lr": 0.5}))
    assert high.judging.optim.lr == pytest.approx(0.01 * judge.recipe.optim.batch_size / 64)
    assert replace(high, in_memory=False).judging.optim.lr == 0.5


def test_short_fine_tunings_in_full_are_done_side_by_side_where_that_takes_less_time(
    drawn: Path, drawn_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = replace(evaluator(drawn_base, drawn, tmp_path / "one", epochs=3), device="cpu")
    code = Code.parse("resnet18_c8-16-24-32_l1-1-1-1_b8-12-24-32_px32")
    assert judge.processes([code] * 12, 1) == 0, "less than the start of a process"
    assert judge.processes([code] * 12, 3) == 3
    assert judge.processes([code], 3) == 0
    with Trainers(judge, {}) as trainers:
        result = trainers.tested(code, 0)
    assert result == replace(evaluator(drawn_base, drawn, tmp_path / "other", epochs=3), device="cpu").tested(code, 0)
    assert judge.tested(code, 0) == result
    assert not list((tmp_path / "one" / "trainings").rglob("log.txt"))
    monkeypatch.setattr("bsszoo.evaluators.inherited.FEW", 0)
    monkeypatch.setattr("torch.get_num_threads", lambda: 32)
    assert judge.processes([code] * 12, 1) == 8
    assert judge.processes([code] * 5, 1) == 5
    assert judge.processes([BASE], 1) == 0
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert replace(judge, device=None).processes([code] * 12, 3) == 0, "each takes a GPU"
    monkeypatch.setattr("bsszoo.evaluators.inherited.LONG", 1)
    assert judge.processes([code] * 12, 3) == 0, "long ones have checkpoints, and a process each"


def test_parts_grow_on_request(drawn: Path, drawn_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings: dict[str, object] = {"trials": 3, "batch": 3, "confirm": 0, "measure": False, "image_size": 32}
    result = bsszoo.compress(drawn_base, flops="70%", data=drawn, grow=True, out=out, **settings)
    codes = [trial.code for trial in result.trials]
    assert all(trial.state != "failed" for trial in result.trials)
    assert all(trial.cost.macs <= 0.7 * bsszoo.cost(BASE, num_classes=3).macs for trial in result.trials)
    whole = replace(BASE, bottlenecks=BASE.widths)
    assert any(a > b for code in codes for a, b in zip(code.entries, whole.entries, strict=True))
    # The page draws the same candidates again, and without the option it is another run.
    report_study(str(out), out=tmp_path / "again.html")
    assert "The candidates drawn again" not in (tmp_path / "again.html").read_text()
    with pytest.raises(SettingsError, match="another"):
        bsszoo.compress(drawn_base, flops="70%", data=drawn, out=out, **settings)


def test_a_compression_ends_with_a_trained_network_and_says_which_to_take(
    drawn: Path, drawn_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InheritedEvaluator, "leaders", 1)  # each is a training of seconds
    out = tmp_path / "run"
    settings = {
        "flops": "50%",
        "data": drawn,
        "trials": 2,
        "batch": 2,
        "confirm": 1,
        "epochs": 2,
        "measure": False,
        "out": out,
    }
    result = bsszoo.compress(drawn_base, **settings)
    whole = next(row for row in result.networks if row.role == "original")
    for row in result.networks:
        # Counted at the network's own input and classes.
        assert row.cost == bsszoo.cost(row.code, num_classes=3)
        assert row.role == "original" or row.cost.macs <= 0.5 * whole.cost.macs
    assert result.recommendation is not None
    assert result.recommendation.startswith("Take ")
    written = json.loads((out / "result.json").read_text())
    assert {"original", "uniform", "recommended"} <= written.keys()
    take = written["recommended"]
    assert take["code"] == str(result.recommended.code)
    # It is what its figures are of, for bsszoo and timm alike.
    folder = (out / take["weights"]).parent
    assert resolve(folder).code == result.recommended.code
    assert validate(folder, drawn, settings={"val_split": "test"}).top1 == pytest.approx(take["test_accuracy"])
    assert written["original"]["test_accuracy"] == pytest.approx(
        validate(drawn_base, drawn, settings={"val_split": "test"}).top1
    )
    # Chosen among the trained ones by images that it is not reported on.
    rows = [row for row in result.confirmation.rows if row.role in ("found", "uniform")]
    assert max(rows, key=lambda row: sum(row.held)).code == result.recommended.code
    # Nothing is judged or trained again, and only what is needed stays on the disk.
    before = {p: p.stat().st_mtime_ns for p in (out / "trainings").rglob("summary.json")}
    assert bsszoo.compress(drawn_base, **settings).trials == result.trials
    assert {p: p.stat().st_mtime_ns for p in (out / "trainings").rglob("summary.json")} == before
    assert not list(out.rglob("last.pt"))
    assert not list(out.rglob("*.start.safetensors"))
    # The page of the folder alone says the same.
    report_study(str(out), out=tmp_path / "again.html")
    page = (tmp_path / "again.html").read_text()
    assert "The candidates drawn again" not in page
    assert str(result.best.code) in page
    # It is about the network to take.
    macs = human(result.recommended.cost.macs)
    assert re.search(rf"recommended: [^<]*</td>.*?>{re.escape(macs)}\s", page, re.DOTALL)
    assert "Random codes" not in page
