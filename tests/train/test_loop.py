"""A training is a function of its recipe: however often it is killed, and however many processes share it."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import timm
import torch
from forked import Command
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from train.small import CODE, command, environment, run, small_recipe

import bsszoo
from bsszoo.errors import RecipeError, RunError, SettingsError
from bsszoo.train import loop
from bsszoo.train.callbacks import NoCallback, TrainingState
from bsszoo.train.classification.data import open_splits
from bsszoo.train.classification.samples import TrainingBatches, divide
from bsszoo.train.classification.trained import open_teacher
from bsszoo.train.classification.validate import validate
from bsszoo.train.devices import Process, backend_of
from bsszoo.train.optim import Objective, make_optimizer, make_schedule


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    done = run(folder, folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_it_leaves_what_it_says(unbroken: Path) -> None:
    summary = json.loads((unbroken / "summary.json").read_text())
    rows = list(csv.DictReader((unbroken / "metrics.csv").open()))
    assert [r["update"] for r in rows] == ["8", "16"]
    assert float(rows[-1]["top1"]) == pytest.approx(summary["top1"], abs=1e-3)
    assert (summary["train_pictures"], summary["val_pictures"]) == (256, 64)
    assert summary["macs"] == bsszoo.cost(CODE, 32, num_classes=4).macs
    # The folder is one that timm and bsszoo load.
    ours = bsszoo.create(CODE, pretrained=f"local-dir:{unbroken}", num_classes=4).eval()
    theirs = timm.create_model(f"local-dir:{unbroken}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))
    assert theirs.pretrained_cfg["input_size"] == (3, 32, 32)


def test_validate_gives_the_figure_that_ended_the_training(unbroken: Path) -> None:
    summary = json.loads((unbroken / "summary.json").read_text())
    accuracy = validate(unbroken, None, device="cpu")
    assert (accuracy.top1, accuracy.top5) == (summary["top1"], summary["top5"])
    assert accuracy.loss == pytest.approx(summary["val_loss"], rel=1e-6)


def test_a_test_split_is_measured_once_at_the_end_on_other_images_than_those_held_out(tmp_path: Path) -> None:
    done = run(tmp_path, tmp_path / "out", "data.holdout=0.25", "data.test_split=validation")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["val_pictures"], summary["test_pictures"], summary["tested_on"]) == (64, 64, "validation")
    whole = validate(tmp_path / "out", None, settings={"holdout": 0.0}, device="cpu")
    assert (whole.top1, whole.top5) == (summary["test_top1"], summary["test_top5"])
    assert whole.loss == pytest.approx(summary["test_loss"], rel=1e-6)
    assert summary["test_loss"] != summary["val_loss"]
    assert f"Test: top-1 {whole.top1:.2f}%" in done.stdout


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_at_random_and_resumed_it_ends_at_the_same_weights_bit_for_bit(
    unbroken: Path, tmp_path: Path, workers: int
) -> None:
    out, rng, kills = tmp_path / "out", random.Random(workers), 0
    for _ in range(20):
        process = Command(command(tmp_path, out, f"run.workers={workers}")[1:], env=environment())
        # From the first checkpoint of this start on, at a random moment.
        before = (out / "last.pt").stat().st_mtime_ns if (out / "last.pt").exists() else 0
        while process.poll() is None:
            if (out / "last.pt").exists() and (out / "last.pt").stat().st_mtime_ns != before:
                time.sleep(rng.uniform(0, 0.3))
                break
            time.sleep(0.01)
        if kills < 2 and process.poll() is None:
            process.kill()
            kills += 1
        done = process.wait()
        if done.returncode == 0 and kills:
            break
        if done.returncode == 0:  # on a busy machine it may have ended before it was looked at
            shutil.rmtree(out)
            continue
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.returncode == 0
    assert kills
    one, other = load_file(unbroken / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert one.keys() == other.keys()
    assert not list(out.glob(".*.part"))

    def figures(folder: Path) -> list[list[str]]:
        return [
            [r[k] for k in ("epoch", "update", "train_loss", "val_loss", "top1")]
            for r in csv.DictReader((folder / "metrics.csv").open())
        ]

    assert figures(out) == figures(unbroken)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_all_its_processes_keeps_everything_and_says_how_to_go_on(
    unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(tmp_path, out, "run.workers=1"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (out / "last.pt").exists():
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, output = process.communicate()
    assert process.returncode == 128 + number, output
    assert "Stopping after this update" in output
    assert "resumes from there" in output
    assert run(tmp_path, out).returncode == 0
    one, other = load_file(unbroken / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, by two processes."""
    folder = tmp_path_factory.mktemp("shared")
    done = run(folder, folder / "out", processes=2)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_two_processes_train_as_one_with_the_same_batch(unbroken: Path, shared: Path) -> None:
    def losses(folder: Path) -> list[float]:
        return [float(r["train_loss"]) for r in csv.DictReader((folder / "metrics.csv").open())]

    # One process takes 16 + 16 images, each of two 16: the same normalisation, sums in another order.
    assert losses(shared) == pytest.approx(losses(unbroken), rel=1e-4)
    one, other = load_file(unbroken / "model.safetensors"), load_file(shared / "model.safetensors")
    weights = [k for k in one if "running" not in k and "num_batches" not in k]
    assert all(torch.allclose(one[k], other[k], rtol=1e-3, atol=2e-4) for k in weights)


@pytest.mark.extended
def test_one_process_of_torchrun_trains_as_one_without(unbroken: Path, tmp_path: Path) -> None:
    # By a process group of itself, DistributedDataParallel and the collective operations of several.
    done = run(tmp_path, tmp_path / "out", torchrun=True)
    assert done.returncode == 0, done.stderr
    one, other = (load_file(f / "model.safetensors") for f in (unbroken, tmp_path / "out"))
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.extended
def test_two_processes_validate_the_same_moving_average(tmp_path: Path) -> None:
    done = run(
        tmp_path, tmp_path / "out", "ema.decay=0.9", "schedule.epochs=1", "schedule.warmup_epochs=0", processes=2
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert validate(tmp_path / "out", None, device="cpu").loss == pytest.approx(summary["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "chosen", "processes", "backend"),
    [
        (None, "cuda:1", "2", "nccl"),
        ("cuda", "cuda:1", "2", "nccl"),
        ("cuda:0", "cuda:0", "1", "nccl"),
        ("cuda:0", "cuda:0", "2", "gloo"),
        ("cpu", "cpu", "2", "gloo"),
    ],
)
def test_processes_that_share_a_gpu_do_without_nccl(
    name: str | None, chosen: str, processes: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert backend_of(name, torch.device(chosen)) == backend


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes of a process in /proc")
def test_torchrun_restarts_after_a_process_dies_and_goes_on_from_the_last_checkpoint(
    shared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = command(tmp_path, out, processes=2)
    index = words.index("--standalone")
    words[index:index] = ["--max-restarts", "2", "--monitor-interval", "0.1"]
    launcher = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while launcher.poll() is None and not (out / "last.pt").exists():
        time.sleep(0.01)
    children = [int(p) for p in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
    victims = [p for p in children if b"train" in Path(f"/proc/{p}/cmdline").read_bytes()]
    os.kill(victims[-1], signal.SIGKILL)
    _, output = launcher.communicate()
    assert launcher.returncode == 0, output
    assert "resumed after" in output
    one, other = (load_file(f / "model.safetensors") for f in (shared, out))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_finished_training_is_not_trained_again(unbroken: Path, tmp_path: Path) -> None:
    before = (unbroken / "model.safetensors").stat().st_mtime_ns
    summary = loop.train(small_recipe(tmp_path), None, unbroken, device="cpu")
    assert summary == json.loads((unbroken / "summary.json").read_text())
    assert (unbroken / "model.safetensors").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder_is_refused_by_its_key(unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"optim\.lr is 0\.05 there and 0\.06 now"):
        loop.train(small_recipe(tmp_path, "optim.lr=0.06"), None, unbroken, device="cpu")


class _Recorder(NoCallback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def updated(self, state: TrainingState) -> None:
        self.losses.append(state.loss)


def test_a_loss_that_is_not_finite_stops_with_its_images(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "optim.lr=1e30", "schedule.warmup_epochs=0")
    with pytest.raises(RunError, match=r"The loss of update \d+ .* is (nan|inf).*Its images are in"):
        loop.train(recipe, None, tmp_path / "out", device="cpu")
    [file] = (tmp_path / "out").glob("lost_update*.pt")
    lost = torch.load(file, weights_only=True)
    assert [p["images"].shape for p in lost["passes"]] == [(16, 3, 32, 32)] * 2
    assert not math.isfinite(lost["loss"])


def test_tensorboard_reads_the_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = small_recipe(tmp_path, "run.tensorboard=true")
    summary = loop.train(recipe, None, tmp_path / "out", device="cpu")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    scalars = events.Scalars("top1")
    assert [e.step for e in scalars] == [1, 2]
    assert scalars[-1].value == pytest.approx(summary["top1"])


def test_a_teacher_is_learnt_from(unbroken: Path, tmp_path: Path) -> None:
    # With the whole loss the teacher's and the student begun as the teacher, in its precision, nothing is left.
    weights = unbroken / "model.safetensors"
    recipe = small_recipe(tmp_path, f"loss.teacher={CODE}", f"loss.teacher_weights={weights}", "loss.teacher_share=1")
    teacher = open_teacher(recipe)
    assert teacher is not None
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    outputs = teacher.network.eval()(images).detach()
    objective = Objective(recipe, teacher.network)
    assert float(objective(outputs, labels, images)) == pytest.approx(0, abs=1e-6)
    # Hinton's formula, written out.
    other = torch.randn(4, 4)
    p, q = outputs.softmax(1), other.softmax(1)
    expected = (p * (p.log() - q.log())).sum(1).mean()
    assert float(objective(other, labels, images)) == pytest.approx(float(expected), rel=1e-4)


def test_a_moving_average_is_what_is_validated_and_saved(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "ema.decay=0.9", "schedule.epochs=1")
    summary = loop.train(recipe, None, tmp_path / "out", device="cpu")
    state = torch.load(tmp_path / "out" / "last.pt", weights_only=True)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(saved[k], state["ema"][k]) for k in saved)
    assert any(not torch.equal(saved[k], state["model"][k]) for k in saved)
    assert summary["weights"] == "moving average"


def test_the_batch_of_an_update_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    train, _ = open_splits(recipe.data, None, num_classes=4)

    def images_of(world: int) -> list[torch.Tensor]:
        images = []
        for rank in range(world):
            process = Process(torch.device("cpu"), rank, world)
            division = divide(recipe, len(train), world)
            batches = TrainingBatches(train, recipe, division, process).between(division.updates, 2 * division.updates)
            images += [next(batches)[0] for _ in range(division.micro_batches)]
        return images

    assert all(torch.equal(a, b) for a, b in zip(images_of(1), images_of(2), strict=True))


def test_a_batch_that_does_not_divide_says_what_does(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    with pytest.raises(RecipeError, match="which 3 processes cannot share equally"):
        divide(recipe, 256, 3)
    with pytest.raises(RecipeError, match="has 8 images"):
        divide(recipe, 8, 1)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="holds other files"):
        loop.train(small_recipe(tmp_path), None, tmp_path / "out", device="cpu")


def test_the_rate_warms_up_and_follows_half_a_cosine_to_the_end(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path, "schedule.epochs=10", "schedule.warmup_epochs=2", "schedule.warmup_from=0.25", "optim.lr=0.4"
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = make_schedule(recipe, optimizer, 8)

    def rate(update: int) -> float:
        schedule.step_update(update)
        return float(optimizer.param_groups[0]["lr"])

    assert [rate(u) for u in (0, 8, 16)] == pytest.approx([0.1, 0.25, 0.4])
    for update in (20, 48, 79):
        assert rate(update) == pytest.approx(0.2 * (1 + math.cos(math.pi * (update - 16) / 64)))


@pytest.mark.parametrize("decay_all", [False, True])
def test_the_optimiser_is_sgd_with_nesterov_and_spares_norms_unless_told(tmp_path: Path, *, decay_all: bool) -> None:
    recipe = small_recipe(tmp_path, f"optim.decay_norm_and_bias={str(decay_all).lower()}")
    model = bsszoo.create(CODE, num_classes=4)
    ours = make_optimizer(recipe.optim, model)
    assert isinstance(ours, torch.optim.SGD)
    assert all(g["nesterov"] and g["momentum"] == 0.9 for g in ours.param_groups)
    decayed = {id(p) for g in ours.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for p in model.parameters() if decay_all or p.ndim > 1}
    theirs = create_optimizer_v2(model, opt="sgd", lr=0.05, weight_decay=1e-4, filter_bias_and_bn=not decay_all)
    assert [len(g["params"]) for g in ours.param_groups] == [len(g["params"]) for g in theirs.param_groups]
