"""A training that starts from another network's weights, or learns from its outputs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import drawn_shapes
import pytest
import timm
import torch
from drawn_shapes import CLASSES
from forked import Command
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from train.small import environment
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.codes.code import Code
from bsszoo.errors import BssZooError, CodeError, RecipeError, SettingsError
from bsszoo.hub.source import without_paths
from bsszoo.models.inherit import inherit_weights
from bsszoo.train.classification.recipe import Recipe, read_recipe, recipe_text, with_values
from bsszoo.train.classification.task import Classification
from bsszoo.train.classification.trained import START, open_teacher, with_trained
from bsszoo.train.devices import Process
from bsszoo.train.loop import train
from bsszoo.train.seeds import seed_generators

BASE = drawn_shapes.BASE
SMALLER = "resnet18_c12-16-24-32_l1-1-1-1_b8-16-24-32_px32"
LARGER = "resnet18_c24-32-32-64_l2-2-1-2_px32"


@pytest.fixture(scope="module")
def permuted(drawn_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in timm's folder, its outputs in another order of the classes."""
    made = bsszoo.create(f"local-dir:{drawn_base}", pretrained=True)
    order = [2, 0, 1]
    with torch.no_grad():
        made.fc.weight.copy_(made.fc.weight[order].clone())
        made.fc.bias.copy_(made.fc.bias[order].clone())
    folder = tmp_path_factory.mktemp("permuted") / "net"
    labels = {"label_names": [CLASSES[i] for i in order]}
    timm.models.save_for_hf(made, folder, model_config=labels, safe_serialization=True)
    return folder


def short(code: str, **sections: dict[str, object]) -> Recipe:
    """Two epochs at a rate for inherited weights."""
    brief = {"schedule": {"epochs": 2, "warmup_epochs": 0.0}, "optim": {"lr": 0.01}}
    return with_values(drawn_shapes.recipe(code), **{**brief, **sections})


def begun(recipe: Recipe, data: Path) -> tuple[Classification, nn.Module]:
    """The task of a recipe, and the network that its training begins with."""
    task = Classification(recipe, data, Process(torch.device("cpu")))
    return task, task.network(fresh=True)


def outputs(network: nn.Module) -> torch.Tensor:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network.eval()(images)


def whole(drawn_base: Path) -> nn.Module:
    return bsszoo.create(f"local-dir:{drawn_base}", pretrained=True)


# -- the start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["folder", "local-dir", "file"])
def test_the_same_code_begins_as_the_trained_network(drawn: Path, drawn_base: Path, what: str) -> None:
    weights = {"folder": drawn_base, "local-dir": f"local-dir:{drawn_base}", "file": drawn_base / "model.safetensors"}[
        what
    ]
    task, network = begun(with_trained(short(BASE), inherit=weights), drawn)
    trained = load_file(drawn_base / "model.safetensors")
    assert all(torch.equal(value, trained[name]) for name, value in network.state_dict().items())
    assert "(100.0%), in 5 of 5 blocks" in task.notes[-1]


def test_a_network_with_more_of_everything_begins_as_the_trained_one_too(drawn: Path, drawn_base: Path) -> None:
    _, network = begun(with_trained(short(LARGER), inherit=drawn_base), drawn)
    torch.testing.assert_close(outputs(network), outputs(whole(drawn_base)), rtol=1e-3, atol=1e-3)


def test_a_smaller_one_begins_far_above_guessing_and_above_weights_that_are_only_copied(
    drawn: Path, drawn_base: Path
) -> None:
    recipe = with_trained(short(SMALLER, model={"drop_path_rate": 0.2}), inherit=drawn_base)
    task, network = begun(recipe, drawn)
    assert "fitted to its outputs for 270 training images" in task.notes[-1]
    accuracy = task.validate(network, None, None)
    copied = bsszoo.create(SMALLER, num_classes=3)
    inherit_weights(copied, Code.parse(SMALLER), whole(drawn_base), Code.parse(BASE))
    plain = task.validate(copied, None, None)
    task.close()
    assert accuracy is not None
    assert plain is not None
    assert accuracy.top1 > 65  # of three classes
    assert accuracy.loss < plain.loss


def test_neither_smaller_nor_larger_it_inherits_what_shapes_allow_and_is_fitted(drawn: Path, drawn_base: Path) -> None:
    other = "resnet18_c16-16-40-48_l1-1-1-1_px32"
    task, network = begun(with_trained(short(other), inherit=drawn_base), drawn)
    assert "in 4 of 4 blocks, fitted to its outputs for 270 training images" in task.notes[-1]
    # Statistics are those of 256 training images, not the trained network's.
    assert int(network.bn1.num_batches_tracked) == 1
    copied = bsszoo.create(other, num_classes=3)
    inherit_weights(copied, Code.parse(other), whole(drawn_base), Code.parse(BASE))
    accuracy, plain = (task.validate(made, None, None) for made in (network, copied))
    task.close()
    assert accuracy is not None
    assert plain is not None
    assert accuracy.loss < plain.loss


def test_with_other_classes_the_last_layer_is_fresh(drawn: Path, drawn_base: Path) -> None:
    recipe = with_values(with_trained(short(SMALLER), inherit=drawn_base), model={"num_classes": 7})
    task, network = begun(recipe, drawn)
    assert task.notes[-1].endswith("the classifier is fresh, as it has 3 classes")
    # As that of a training that inherits nothing.
    seed_generators(torch.device("cpu"), recipe.run.seed)
    _, fresh = begun(with_values(short(SMALLER), model={"num_classes": 7}), drawn)
    assert torch.equal(network.get_classifier().weight, fresh.get_classifier().weight)
    assert not torch.equal(network.conv1.weight, fresh.conv1.weight)


def test_outputs_are_brought_into_the_order_of_the_data(drawn: Path, drawn_base: Path, permuted: Path) -> None:
    _, network = begun(with_trained(short(BASE), inherit=permuted), drawn)
    assert torch.equal(outputs(network), outputs(whole(drawn_base)))
    teacher = open_teacher(with_trained(short(SMALLER), teacher=permuted), CLASSES)
    assert teacher is not None
    assert torch.equal(outputs(teacher.network), outputs(whole(drawn_base)))
    assert not torch.equal(outputs(whole(permuted)), outputs(whole(drawn_base)))


def test_images_normalised_otherwise_are_a_note(drawn: Path, drawn_base: Path) -> None:
    task, _ = begun(with_trained(short(BASE, data={"mean": (0.5, 0.5, 0.5)}), inherit=drawn_base), drawn)
    assert "was trained on images with mean [0.485, 0.456, 0.406]" in task.notes[-1]


# -- the whole training ----------------------------------------------------------------------------------------


def command(folder: Path, data: Path, out: Path, *options: object) -> list[str]:
    file = folder / "recipe.yaml"
    file.write_text(recipe_text(short(SMALLER)), encoding="utf-8")
    words = ["-m", "bsszoo", "train", file, "--data", data, "--out", out, "--device", "cpu", *options]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def unbroken(drawn: Path, drawn_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    done = Command(
        command(out.parent, drawn, out, "--inherit", drawn_base, "--teacher", drawn_base), env=environment()
    ).wait()
    assert done.returncode == 0, done.stderr
    assert "fitted to its outputs for 270 training images" in done.stderr
    return out


def test_the_folder_says_what_was_inherited_and_who_taught(unbroken: Path, drawn_base: Path) -> None:
    summary = json.loads((unbroken / "summary.json").read_text())
    source = {"code": BASE, "weights": f"local-dir:{drawn_base}"}
    source["sha256"] = json.loads((drawn_base / "summary.json").read_text())["sha256"]
    assert summary["teacher"] == source
    assert source.items() <= summary["inherited"].items()
    assert summary["inherited"]["params"] == summary["params"]
    assert summary["inherited"]["blocks"] == 4
    recipe = read_recipe(unbroken / "recipe.yaml")
    assert (recipe.model.inherit_weights, recipe.loss.teacher_weights) == (source["weights"],) * 2
    # Published without the folders of this machine.
    assert str(drawn_base.parent) not in json.dumps(without_paths(summary))


def test_killed_before_and_after_its_first_checkpoint_it_ends_as_the_unbroken_one(
    unbroken: Path, drawn: Path, drawn_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = command(
        tmp_path,
        drawn,
        out,
        "--inherit",
        drawn_base,
        "--teacher",
        drawn_base,
        "--set",
        "run.checkpoint_minutes=0.00001",
    )
    times = []
    for awaited in (START, "last.pt"):
        process = Command(words, env=environment())
        while process.poll() is None and not (out / awaited).exists():
            time.sleep(0.005)
        if process.poll() is None:
            process.kill()
        assert process.wait().returncode in (0, -signal.SIGKILL)
        times.append((out / START).stat().st_mtime_ns)
    done = Command(words, env=environment()).wait()
    assert done.returncode == 0, done.stderr
    assert {*times, (out / START).stat().st_mtime_ns} == {times[0]}, "it is written once"
    one, other = (load_file(folder / "model.safetensors") for folder in (unbroken, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    records = [json.loads((folder / "summary.json").read_text())["inherited"] for folder in (unbroken, out)]
    assert records[0] == records[1]


def test_other_weights_in_the_same_folder_are_refused(
    unbroken: Path, drawn: Path, permuted: Path, drawn_base: Path
) -> None:
    with pytest.raises(SettingsError, match=r"model\.inherit_weights is 'local-dir:.*base' there and .*net' now"):
        train(short(SMALLER), drawn, unbroken, device="cpu", inherit=permuted, teacher=drawn_base)
    with pytest.raises(SettingsError, match=r"loss\.teacher_weights is 'local-dir:.*base' there and .*net' now"):
        train(short(SMALLER), drawn, unbroken, device="cpu", inherit=drawn_base, teacher=permuted)
    with pytest.raises(SettingsError, match=r"model\.inherit is 'resnet18_.*' there and None now"):
        train(short(SMALLER), drawn, unbroken, device="cpu", teacher=drawn_base)
    again = train(short(SMALLER), drawn, unbroken, device="cpu", inherit=drawn_base, teacher=drawn_base)
    assert again == json.loads((unbroken / "summary.json").read_text())


def test_a_start_of_other_settings_is_made_anew_and_a_damaged_one_too(
    drawn: Path, drawn_base: Path, tmp_path: Path
) -> None:
    def start(recipe: Recipe) -> dict[str, torch.Tensor]:
        process = Process(torch.device("cpu"))
        return Classification(recipe, drawn, process, tmp_path).network(fresh=True).state_dict()

    recipe = with_trained(short(SMALLER), inherit=drawn_base)
    first, file = start(recipe), tmp_path / START
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["bsszoo"])
    assert metadata["record"]["weights"] == f"local-dir:{drawn_base}"
    narrower = with_trained(short(SMALLER.replace("c12", "c8")), inherit=drawn_base)
    assert start(narrower)["conv1.weight"].shape[0] == 8
    assert load_file(file)["conv1.weight"].shape[0] == 8
    again = start(recipe)
    file.write_bytes(file.read_bytes()[:1000])
    mended = start(recipe)
    assert all(torch.equal(value, again[name]) and torch.equal(value, mended[name]) for name, value in first.items())


@pytest.mark.slow
def test_two_processes_begin_alike(unbroken: Path, drawn: Path, drawn_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    halves = ("--set", "run.device_batch=15", "--inherit", drawn_base, "--teacher", drawn_base)
    words = command(tmp_path, drawn, out, *halves)
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    one, other = (load_file(folder / START) for folder in (unbroken, out))
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)
    assert json.loads((out / "summary.json").read_text())["processes"] == 2
    assert not list(out.glob(".*.part"))


# -- errors ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_inherited_or_learnt_from_is_said_before_any_training(
    drawn: Path, drawn_base: Path, tmp_path: Path
) -> None:
    def refused(kind: type[Exception], words: str, recipe: Recipe, **how: object) -> None:
        with pytest.raises(kind, match=words):
            train(recipe, drawn, tmp_path / "out", device="cpu", **how)

    of_mobilenet = short("mobilenetv2_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_px32")
    refused(
        CodeError, "A mobilenetv2 code cannot inherit the weights of a resnet18 one", of_mobilenet, inherit=drawn_base
    )
    refused(
        SettingsError,
        r"comes without weights\. .* a name with a tag, such as resnet18\.",
        short(BASE),
        inherit="resnet18",
    )
    refused(
        SettingsError, "--teacher takes a classifier, and got the detector", short(BASE), teacher="retinanet_resnet50"
    )
    refused(BssZooError, "There is no file or folder", short(BASE), inherit=str(tmp_path / "nothing"))
    pretrained = short(BASE, model={"pretrained": str(drawn_base)})
    refused(RecipeError, r"leave --inherit out, or set model\.pretrained=null", pretrained, inherit=drawn_base)
    more = short(BASE, model={"num_classes": 4})
    refused(RecipeError, "has 3 outputs, and model.num_classes is 4: a teacher is", more, teacher=drawn_base)
    assert not (tmp_path / "out" / "last.pt").exists()


def test_labels_that_do_not_fit_the_images_are_said(drawn: Path, drawn_base: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("bar", "cross"):
            (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / "ring").mkdir(parents=True)
        for name, source in zip(("bar", "cross", "ring"), CLASSES, strict=True):
            for file in sorted((drawn / split / source).iterdir())[:20]:
                (tmp_path / split / name / file.name).write_bytes(file.read_bytes())
    words = "have the class 'ring', which is no label of local-dir:.*Name the folders as its labels, bar, cross, disc"
    with pytest.raises(SettingsError, match=words):
        train(short(BASE), tmp_path, tmp_path / "out", device="cpu", inherit=drawn_base)
    with pytest.raises(RecipeError, match=words):
        train(short(BASE), tmp_path, tmp_path / "out", device="cpu", teacher=drawn_base)


def test_a_detector_s_recipe_says_how_its_backbone_gets_weights(drawn_base: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "coco" / "maskrcnn_resnet50.yaml"
    done = CliRunner().invoke(app, ["train", str(recipe), "--out", "nowhere", "--inherit", str(drawn_base)])
    assert isinstance(done.exception, SettingsError)
    assert "--set model.backbone_weights=WEIGHTS" in str(done.exception)
