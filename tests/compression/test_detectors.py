"""``compress`` on detectors: the backbone is searched, every limit is on the whole detector."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

import bsszoo
from bsszoo.codes import Code
from bsszoo.codes.detector import DetectorHead
from bsszoo.compression.reopen import report_study
from bsszoo.errors import BudgetError, DataError, RecipeError, SettingsError
from bsszoo.evaluators.detection import DetectionEvaluator, detection_recipe
from bsszoo.models.names import find_detector

SMALL = "maskrcnn_fpn8_resnet18_c16-32-64-128_l1-1-1-1"


def test_every_code_keeps_the_detectors_budget(tmp_path: Path) -> None:
    run = bsszoo.compress("maskrcnn_resnet50", flops="90B", params="40M", trials=24, out=tmp_path / "run")
    assert [n.cost.macs for n in run.networks[:1]] == [117_071_049_216]
    for trial in run.trials:
        cost = bsszoo.cost(f"maskrcnn_{trial.code}")
        assert cost == trial.cost
        assert 81_000_000_000 <= cost.macs <= 90_000_000_000
        assert cost.params <= 40_000_000
    assert {t.code.stride_in for t in run.trials} == {"1x1"}
    assert {t.code.image_size for t in run.trials} == {800}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Mask R-CNN on ResNet-50 at 90.00B MACs" in page
    name = run.name_of(run.best.code)
    assert f"bsszoo train paper:{name}" in page
    assert f'bsszoo.create("{name}")' in html.unescape(page)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["best"]["network"] == name
    # The page can be written anew from the folder alone.
    report_study(str(tmp_path / "run"))
    assert name in (tmp_path / "run" / "report.html").read_text()
    again = bsszoo.compress("maskrcnn_resnet50", flops="90B", params="40M", trials=24, out=tmp_path / "run")
    assert [t.code for t in again.trials] == [t.code for t in run.trials]


def test_any_function_judges_backbones(tmp_path: Path) -> None:
    seen: list[Code] = []

    def judge(code: Code) -> float:
        seen.append(code)
        return -float(bsszoo.cost(f"retinanet_fpn64_{code}").params)

    run = bsszoo.compress(
        "retinanet_fpn64_mobilenetv2", flops="12.5B", evaluator=judge, trials=12, out=tmp_path / "run", slack=0.5
    )
    assert len(set(seen)) == 14  # the controls as well
    assert run.best.cost.params == min(t.cost.params for t in run.trials)
    assert all(t.cost.macs <= 12_500_000_000 for t in run.trials)


def test_a_budget_below_what_stands_beside_the_backbone_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"a RetinaNet has beside its backbone, 93\.97B .*retinanet_fpn128_\.\. does"):
        bsszoo.compress("retinanet_mobilenetv2", flops="50B", out=tmp_path / "run")


@pytest.mark.slow
def test_a_detectors_search_is_judged_by_training_it(shapes: Path, tmp_path: Path) -> None:
    recipe = detection_recipe(SMALL, shapes, recipe=small(tmp_path), epochs=1)
    assert recipe.schedule.updates == 4
    detector = find_detector(SMALL)
    assert detector is not None
    judge = DetectionEvaluator(
        recipe, str(shapes), tmp_path / "trainings", head=DetectorHead.of(detector), measure="box", device="cpu"
    )
    assert judge.info.measures.startswith("box AP [%] on 25% of the training images (6), held out, after 4 updates")
    run = bsszoo.compress(SMALL, flops="70%", evaluator=judge, trials=1, batch=1, confirm=1, out=tmp_path / "run")
    folder = judge.training_folder(run.best.code, 0)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["box_ap"] == run.best.score
    assert summary["model"] == run.name_of(run.best.code)
    assert summary["validated_on"] == "0.25 of train, held out"
    assert run.confirmation is not None
    assert {r.role for r in run.confirmation.rows} == {"uniform", "random", "found"}
    assert run.training is not None
    assert run.training.num_classes == 5
    assert any("is about what an untrained detector has" in note for note in run.notes) == ((run.best.score or 0) <= 1)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"--set model.name={run.name_of(run.best.code)}" in page


def small(folder: Path) -> Path:
    from small_detectors import TEXT

    file = folder / "small.yaml"
    file.write_text(TEXT.replace("max_size: 128", "max_size: 128, holdout: 0.25"))
    return file


def test_what_does_not_fit_is_an_error_before_any_training(shapes: Path, tmp_path: Path) -> None:
    head = DetectorHead("retinanet")
    recipe = detection_recipe(SMALL, shapes, recipe=small(tmp_path))
    with pytest.raises(SettingsError, match="RetinaNet finds no masks"):
        DetectionEvaluator(recipe, str(shapes), tmp_path / "t", head=head, measure="mask")
    with pytest.raises(DataError, match="There is no folder"):
        DetectionEvaluator(recipe, str(tmp_path / "nowhere"), tmp_path / "t", head=head)
    with pytest.raises(SettingsError, match="--repeats is 0"):
        DetectionEvaluator(recipe, str(shapes), tmp_path / "t", 0, head=head)
    (tmp_path / "classifier.yaml").write_text("model: {name: resnet18}\noptim: {lr: 0.1}\nschedule: {epochs: 1}\n")
    with pytest.raises(RecipeError, match="is the recipe of a classifier, resnet18"):
        detection_recipe(SMALL, shapes, recipe=tmp_path / "classifier.yaml")


def test_the_papers_recipe_is_shortened_to_epochs_in_proportion(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "model: {name: maskrcnn_resnet50}\ndata: {train_split: train, val_split: val}\noptim: {lr: 0.02}\n"
        "schedule: {updates: 270000, milestones: [210000, 250000], warmup_updates: 2500}\n"
    )
    plan = detection_recipe("maskrcnn_resnet50", shapes, recipe=tmp_path / "s.yaml", epochs=100).schedule
    pictures = 22  # of 24 without those held out and those that show nothing
    assert plan.updates == pytest.approx(100 * pictures / 16, abs=10)
    assert [m / plan.updates for m in plan.milestones] == pytest.approx([7 / 9, 25 / 27], abs=0.01)
    assert plan.warmup_updates == pytest.approx(plan.updates / 108, abs=1)
    image = detection_recipe("maskrcnn_resnet50", shapes, recipe=tmp_path / "s.yaml", image_size=400).data
    assert (image.image_size, image.max_size) == (400, 666)
