"""What a recipe switches on beside the plain training: precision, memory layout, clipping, mixing, compiling."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train.small import small_recipe

from bsszoo.errors import StoppedError
from bsszoo.train import loop
from bsszoo.train.callbacks import NoCallback, TrainingState
from bsszoo.train.classification.validate import validate
from bsszoo.train.loop import train

ALL = (
    "run.precision=bfloat16",
    "run.channels_last=true",
    "optim.clip_grad=1.0",
    "ema.decay=0.9",
    "augment.cutmix=1.0",
    "augment.mixup=0.2",
    "augment.erase=0.5",
    "data.dataset=synthetic/128",
)

# Small outputs and steps, nothing dropped: rounding then stays small, and a compiled network draws other numbers.
CALM = (
    "data.dataset=synthetic/128",
    "model.head_init_scale=0.06",
    "optim.lr=0.01",
    "model.drop_rate=0",
    "model.drop_path_rate=0",
)


class StopsAt(NoCallback):
    """Sends the training one signal to stop after an update; a second one would end the process."""

    def __init__(self, update: int) -> None:
        self.update, self.sent = update, False

    def updated(self, state: TrainingState) -> None:
        if state.update >= self.update and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


def losses(folder: Path) -> list[float]:
    return [float(r["train_loss"]) for r in csv.DictReader((folder / "metrics.csv").open())]


def test_with_every_switch_on_a_stopped_training_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_REPORT", 0.0)
    recipe = small_recipe(tmp_path, *ALL)
    train(recipe, None, tmp_path / "whole", device="cpu")
    with pytest.raises(StoppedError):
        train(recipe, None, tmp_path / "broken", device="cpu", callback=StopsAt(3))
    train(recipe, None, tmp_path / "broken", device="cpu")
    one, other = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "broken"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")


def test_float16_scales_gradients_and_resumes_with_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is for GPUs, and slow on a CPU; what it does beside the arithmetic is the same there.
    monkeypatch.setattr(loop, "_FLOAT16", ("cpu",))
    monkeypatch.setattr(loop, "_REPORT", 0.0)
    recipe = small_recipe(tmp_path, *CALM, "run.precision=float16", "optim.clip_grad=1.0", "ema.decay=0.9")
    try:
        train(recipe, None, tmp_path / "whole", device="cpu")
    except RuntimeError as error:
        pytest.skip(f"this PyTorch does not compute it on a CPU: {error}")
    with pytest.raises(StoppedError):
        train(recipe, None, tmp_path / "broken", device="cpu", callback=StopsAt(3))
    scaler = torch.load(tmp_path / "broken" / "last.pt", weights_only=True)["scaler"]
    assert scaler != torch.amp.GradScaler("cpu").state_dict()
    train(recipe, None, tmp_path / "broken", device="cpu")
    one, other = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "broken"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    train(small_recipe(tmp_path, *CALM, "optim.clip_grad=1.0", "ema.decay=0.9"), None, tmp_path / "plain", device="cpu")
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "plain"), rel=0.05)


def test_bfloat16_and_channels_last_train_nearly_as_float32(tmp_path: Path) -> None:
    train(small_recipe(tmp_path, *CALM), None, tmp_path / "plain", device="cpu")
    train(small_recipe(tmp_path, *CALM, *ALL[:2]), None, tmp_path / "other", device="cpu")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)
    assert losses(tmp_path / "other") != losses(tmp_path / "plain")


def test_images_have_the_memory_format_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats: dict[str, set[tuple[bool, bool]]] = {"train": set(), "eval": set()}
    convolve = nn.Conv2d.forward

    def watched(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        if layer.in_channels == 3:
            both = (images.is_contiguous(memory_format=torch.channels_last), images.is_contiguous())
            formats["train" if layer.training else "eval"].add(both)
            formats["weights"] = {(layer.weight.is_contiguous(memory_format=torch.channels_last), False)}
        return convolve(layer, images)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    train(small_recipe(tmp_path, *CALM, "run.channels_last=true"), None, tmp_path / "out", device="cpu")
    assert formats == {key: {(True, False)} for key in ("train", "eval", "weights")}
    formats.clear()
    formats["eval"] = set()
    validate(tmp_path / "out", None, device="cpu")
    assert formats == {key: {(True, False)} for key in ("eval", "weights")}


def test_gradients_are_clipped_to_the_norm_before_each_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    clip = nn.utils.clip_grad_norm_

    def watched(parameters: object, most: float) -> torch.Tensor:
        clipped = list(parameters)  # type: ignore[call-overload]
        norm = clip(clipped, most)
        after = torch.sqrt(sum(p.grad.pow(2).sum() for p in clipped if p.grad is not None))
        seen.append((float(norm), float(after)))
        return norm

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", watched)
    train(
        small_recipe(tmp_path, "optim.clip_grad=0.1", "schedule.epochs=1", "schedule.warmup_epochs=0"),
        None,
        tmp_path / "out",
        device="cpu",
    )
    assert len(seen) == 8
    assert all(after <= 0.1001 for _, after in seen)
    assert any(before > 0.1 for before, _ in seen)


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_does_otherwise(tmp_path: Path) -> None:
    small = (*CALM, "schedule.epochs=1", "schedule.warmup_epochs=0")
    train(small_recipe(tmp_path, *small), None, tmp_path / "plain", device="cpu")
    train(small_recipe(tmp_path, *small, "run.compile=true"), None, tmp_path / "compiled", device="cpu")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    # The weights are those of the plain network, under its names.
    assert (
        load_file(tmp_path / "compiled" / "model.safetensors").keys()
        == load_file(tmp_path / "plain" / "model.safetensors").keys()
    )
