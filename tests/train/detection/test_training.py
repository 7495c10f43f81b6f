"""A detector's training is a function of its recipe, as a classifier's: killed, resumed, shared by processes."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_detectors import BOXES, MASKS, TEXT, command, environment, run, small_recipe
from strategies import some_by_default

import bsszoo
from bsszoo.codes.detector import Detector, detector_cost
from bsszoo.errors import DataError, RecipeError, RunError, SettingsError, UnknownNameError, WeightsError
from bsszoo.models.names import find_detector
from bsszoo.train.callbacks import NoCallback
from bsszoo.train.classification.recipe import Recipe
from bsszoo.train.detection.paper import any_recipe_of, coco_recipe
from bsszoo.train.detection.recipe import read_any_recipe
from bsszoo.train.detection.task import Detection, train_detector
from bsszoo.train.detection.validate import validate_detector
from bsszoo.train.devices import Process


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    done = run(folder, shapes, folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_it_leaves_what_it_says(unbroken: Path) -> None:
    summary = json.loads((unbroken / "summary.json").read_text())
    rows = list(csv.DictReader((unbroken / "metrics.csv").open()))
    assert [r["update"] for r in rows] == ["4", "6"]
    assert float(rows[-1]["mask_ap"]) == pytest.approx(summary["mask_ap"], abs=1e-3)
    assert summary["val_pictures"] == 8
    detector = find_detector(MASKS)
    assert detector is not None
    assert summary["num_classes"] == 5  # four shapes and the background
    assert summary["macs"] == detector_cost(Detector("maskrcnn", detector.backbone, 5, channels=8), 64).macs


def test_its_folder_gives_the_detector_as_it_was_trained(unbroken: Path) -> None:
    model = bsszoo.create(f"local-dir:{unbroken}", pretrained=True).eval()
    state, saved = model.state_dict(), load_file(unbroken / "model.safetensors")
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[k], saved[k]) for k in saved)
    assert (model.transform.min_size, model.transform.max_size) == ((64,), 128)
    assert model.rpn.anchor_generator.sizes[0] == (8,)
    assert model.roi_heads.detections_per_img == 20
    assert model.label_names == ("-", "circle", "square", "triangle", "star")
    named = bsszoo.create(MASKS, pretrained=str(unbroken / "model.safetensors"), num_classes=5)
    assert all(torch.equal(v, saved[k]) for k, v in named.state_dict().items())
    with pytest.raises(WeightsError, match="holds the weights of another network"):
        bsszoo.create(MASKS, pretrained=str(unbroken / "model.safetensors"))


def test_validate_gives_the_figures_that_ended_the_training(unbroken: Path, shapes: Path) -> None:
    summary = json.loads((unbroken / "summary.json").read_text())
    figures = validate_detector(unbroken, shapes, device="cpu")
    assert figures.mask is not None
    assert (figures.box.ap, figures.mask.ap, figures.mask.ap50) == (
        summary["box_ap"],
        summary["mask_ap"],
        summary["mask_ap50"],
    )
    by_name = validate_detector(
        MASKS, shapes, weights=str(unbroken), device="cpu", settings={"train_split": "train", "val_split": "val"}
    )
    assert by_name == figures
    with pytest.raises(WeightsError, match="Nobody has published weights of maskrcnn_resnet50"):
        validate_detector("maskrcnn_resnet50", shapes)


@pytest.mark.slow  # the loop is the classifiers', whose own test runs by default
def test_killed_at_random_and_resumed_it_ends_at_the_same_weights_bit_for_bit(
    unbroken: Path, shapes: Path, tmp_path: Path
) -> None:
    rng = random.Random(1)
    out = tmp_path / "out"
    kills = 0
    while kills < 2:
        process = subprocess.Popen(command(tmp_path, shapes, out), env=environment(), stderr=subprocess.PIPE)
        before = (out / "last.pt").stat().st_mtime_ns if (out / "last.pt").exists() else 0
        # Not before there is something new to resume from.
        while process.poll() is None and not (
            (out / "last.pt").exists() and (out / "last.pt").stat().st_mtime_ns > before
        ):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        if process.wait() != 0:
            kills += 1
        elif kills:
            break
        else:  # on a busy machine it may have ended before it was looked at
            shutil.rmtree(out)
    done = run(tmp_path, shapes, out)
    assert done.returncode == 0, done.stderr
    assert kills
    ours, theirs = load_file(out / "model.safetensors"), load_file(unbroken / "model.safetensors")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    figures = [
        [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_s")}
            for row in csv.DictReader((folder / "metrics.csv").open())
        ]
        for folder in (out, unbroken)
    ]
    assert figures[0] == figures[1]


@pytest.mark.extended
def test_a_signal_keeps_everything_and_says_how_to_go_on(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(
            tmp_path,
            shapes,
            out,
            "schedule.updates=4000",
            "schedule.validate_every=4000",
            "run.checkpoint_minutes=60",
            "run.workers=1",
        ),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = ""
    while "loss" not in seen and process.poll() is None:
        seen += process.stderr.readline()
    os.killpg(process.pid, signal.SIGTERM)
    _, output = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "The same command resumes from there" in output
    assert torch.load(out / "last.pt", weights_only=True)["update"] > 0


@pytest.mark.slow  # likewise
def test_two_processes_train_as_one_with_the_same_batch(unbroken: Path, shapes: Path, tmp_path: Path) -> None:
    done = run(tmp_path, shapes, tmp_path / "out", processes=2)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "out", unbroken))
    for key in theirs:
        # Running statistics are means over the processes; all else differs by rounding.
        if "running" not in key and "num_batches" not in key:
            assert torch.allclose(ours[key], theirs[key], atol=2e-4), key
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["processes"], summary["val_pictures"]) == (2, 8)


@pytest.mark.parametrize(
    "assignments",
    [
        ("optim.weight_decay=0.001", "run.precision=bfloat16"),
        (f"model.name={BOXES}",),
        ("ema.decay=0.9", "data.test_split=val", "schedule.name=cosine", "run.channels_last=true"),
    ],
    ids=["bfloat16", "retinanet on MobileNetV2", "average, test split"],
)
def test_other_ways_to_train(shapes: Path, tmp_path: Path, assignments: tuple[str, ...]) -> None:
    recipe = small_recipe(tmp_path, *assignments, "schedule.updates=3", "schedule.validate_every=3")
    summary = train_detector(recipe, shapes, tmp_path / "out", device="cpu")
    assert (summary["mask_ap"] is None) == (recipe.detector.kind == "retinanet")
    assert 0 <= summary["box_ap"] <= 100
    if recipe.data.test_split:
        assert summary["test"]["box"]["ap"] == summary["box_ap"]
        assert summary["weights"] == "moving average"


def test_a_backbone_starts_from_a_classifier_that_was_trained(shapes: Path, tmp_path: Path) -> None:
    for name in (MASKS, BOXES):
        detector = find_detector(name)
        assert detector is not None
        classifier = bsszoo.create(detector.backbone, num_classes=3)
        file = tmp_path / f"{detector.kind}.pt"
        torch.save(classifier.state_dict(), file)
        recipe = small_recipe(tmp_path, f"model.name={name}", f"model.backbone_weights={file}")
        model = Detection(recipe, shapes, Process(torch.device("cpu"))).network(fresh=True)
        body = getattr(model.backbone.body, "network", model.backbone.body).state_dict()
        backbone = classifier.state_dict()
        assert set(body) <= set(backbone)
        assert all(torch.equal(body[k], backbone[k]) for k in body)


def test_the_rate_warms_up_and_falls_after_its_milestones(shapes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        "schedule.updates=40",
        "schedule.milestones=[20,30]",
        "schedule.warmup_updates=10",
        "schedule.warmup_from=0.1",
        "optim.lr=0.02",
    )
    task = Detection(recipe, shapes, Process(torch.device("cpu")))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.optim.peak_lr)
    schedule = task.schedule(optimizer)
    rates = []
    for update in range(40):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.002)
    assert rates[5] == pytest.approx(0.011)
    assert rates[10:20] == pytest.approx([0.02] * 10)
    assert rates[20:30] == pytest.approx([0.002] * 10)
    assert rates[30:] == pytest.approx([0.0002] * 10)


def test_a_loss_that_is_not_finite_stops_with_its_images(shapes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "optim.lr=1e30", "run.checkpoint_minutes=60")
    with pytest.raises(RunError, match=r"The loss of update \d+ .*Its images are in"):
        train_detector(recipe, shapes, tmp_path / "out", device="cpu")
    saved = torch.load(next((tmp_path / "out").glob("lost_*.pt")), weights_only=True)
    assert saved["passes"][0]["files"][0].endswith(".jpg")


def test_a_recipe_is_a_detectors_or_a_classifiers_by_its_network(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    assert any_recipe_of("paper:maskrcnn_resnet50_autobss") == coco_recipe("maskrcnn_resnet50_autobss")
    assert isinstance(any_recipe_of("paper:resnet18"), Recipe)
    assert recipe.schedule.ends == (4, 6)
    for assignment, words in {
        "schedule.milestones=[3,2]": r"milestones is \[3, 2\]; it takes rising numbers",
        "schedule.warmup_updates=6": "allowed is less than schedule.updates, 6",
        "run.compile=true": "run.compile is for classifiers",
        "data.annotations=all.json": r"with \{split\} for the split's name",
        "data.max_size=32": "data.max_size is 32, the longer side",
        "model.norm=group": "allowed are 'batch', 'frozen'",
        "model.hidden=3": r"There is no key 'model\.hidden' to set",
    }.items():
        with pytest.raises(RecipeError, match=words):
            small_recipe(tmp_path, assignment)
    other = small_recipe(tmp_path, "data.annotations={split}/_annotations.coco.json", "data.test_split=null")
    assert (other.data.annotations, other.data.test_split) == ("{split}/_annotations.coco.json", None)
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet50'"):
        small_recipe(tmp_path, "model.name=maskrcnn_resnet5")
    (tmp_path / "other.yaml").write_text(TEXT.replace("image_size", "image_sise"))
    with pytest.raises(RecipeError, match="image_sise"):
        read_any_recipe(tmp_path / "other.yaml")


def test_a_folder_of_a_classifiers_training_is_refused(shapes: Path, tmp_path: Path) -> None:
    from train.small import small_recipe as classifier

    from bsszoo.train import loop

    loop.train(
        classifier(tmp_path, "schedule.epochs=1", "schedule.warmup_epochs=0"), None, tmp_path / "out", device="cpu"
    )
    with pytest.raises(SettingsError, match="holds a training that cannot be resumed"):
        train_detector(small_recipe(tmp_path), shapes, tmp_path / "out", device="cpu")


@pytest.mark.parametrize("name", some_by_default(["maskrcnn", "retinanet"], ["maskrcnn"]))
def test_a_training_from_torchvisions_weights_goes_on_and_is_loaded_as_it_was(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import torchvision.models.detection as theirs
    from torchvision.models import WeightsEnum

    torch.manual_seed(0)
    make = theirs.maskrcnn_resnet50_fpn if name == "maskrcnn" else theirs.retinanet_resnet50_fpn
    state = make(weights=None, weights_backbone=None, num_classes=91).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    wanted = (
        "run.device_batch=1",
        "model.norm=frozen",
        "model.pretrained=torchvision",
        "data.label_by=id",
        "model.num_classes=91",
        f"model.name={name}_resnet50_c256-512-1024-2048_l3-4-6-3_b64-128-256-512_px800",
    )
    recipe = small_recipe(tmp_path, *wanted)
    task = Detection(recipe, shapes, Process(torch.device("cpu")))
    fresh, resumed = task.network(fresh=True), task.network(fresh=False)
    resumed.load_state_dict(fresh.state_dict())
    pixels = [torch.rand(3, 48, 64)]
    for model in (fresh, resumed):
        model.eval()
    with torch.inference_mode():
        assert all(torch.equal(v, resumed(pixels)[0][k]) for k, v in fresh(pixels)[0].items())
    from bsszoo.models.detector import saved_text
    from bsszoo.train.detection.outcome import detector_of, settings_of

    labels = task._labels
    (tmp_path / "config.json").write_text(
        saved_text(detector_of(recipe, labels), norm="frozen", settings=settings_of(recipe), labels=labels.to_dict())
    )
    torch.save(fresh.state_dict(), tmp_path / "weights.pt")
    loaded = bsszoo.create(f"local-dir:{tmp_path}", pretrained=str(tmp_path / "weights.pt")).eval()
    with torch.inference_mode():
        assert all(torch.equal(v, loaded(pixels)[0][k]) for k, v in fresh(pixels)[0].items())
    with pytest.raises(RecipeError, match="go with frozen normalisation"):
        small_recipe(tmp_path, *wanted, "model.norm=batch")
    few = small_recipe(tmp_path, *wanted, "model.num_classes=8")
    with pytest.raises(RecipeError, match="whose weights have 91 outputs, and the data needs 8"):
        Detection(few, shapes, Process(torch.device("cpu"))).network(fresh=True)


def test_what_is_left_out_of_any_split_is_said_and_kept(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "instances_val.json"
    data = json.loads(file.read_text())
    data["annotations"][0]["bbox"] = [5, 5, 0, 9]
    file.write_text(json.dumps(data))
    notes: list[str] = []
    callback = NoCallback()
    callback.note = notes.append  # type: ignore[method-assign]
    recipe = small_recipe(tmp_path, "data.broken=skip", "schedule.updates=2", "schedule.warmup_updates=0")
    summary = train_detector(recipe, root, tmp_path / "out", device="cpu", callback=callback)
    assert any("instances_val.json are left out (1 with an empty box)" in note for note in notes)
    assert any("instances_val.json" in note for note in summary["notes"])
    notes.clear()
    validate_detector(tmp_path / "out", root, on_note=notes.append)
    assert any("instances_val.json" in note for note in notes)


def test_a_test_split_without_objects_is_refused_before_the_training(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    data = json.loads((root / "annotations" / "instances_val.json").read_text())
    (root / "annotations" / "instances_empty.json").write_text(json.dumps({**data, "annotations": []}))
    shutil.copytree(root / "val", root / "empty")
    with pytest.raises(DataError, match="There is no object in the 8 images of the split 'empty'"):
        train_detector(small_recipe(tmp_path, "data.test_split=empty"), root, tmp_path / "out", device="cpu")


def test_weights_are_run_as_they_were_trained_and_under_their_own_name(unbroken: Path, shapes: Path) -> None:
    whole = validate_detector(unbroken, shapes)
    for weights in (f"local-dir:{unbroken}", str(unbroken / "model.safetensors")):
        assert (
            validate_detector(MASKS, shapes, weights=weights, settings={"train_split": "train", "val_split": "val"})
            == whole
        )
    assert validate_detector(MASKS, shapes, weights=str(unbroken / "best.safetensors")).images == 8
    with pytest.raises(WeightsError, match="holds the weights of maskrcnn_fpn8_resnet18"):
        validate_detector("retinanet_resnet50", shapes, weights=str(unbroken))
    with pytest.raises(UnknownNameError, match="names no detector"):
        validate_detector("maskrcnn_", shapes, weights="torchvision")
