"""Short trainings of images in memory: the same images and figures as by the loaders of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from train.small import small_recipe

from bsszoo.errors import RunError
from bsszoo.models.build import build
from bsszoo.models.names import resolve_code
from bsszoo.train.classification.data import open_splits
from bsszoo.train.classification.evaluation import evaluate
from bsszoo.train.classification.in_memory import (
    Images,
    Normaliser,
    accuracy,
    decode,
    fine_tune,
    outputs,
    recompute_norms,
)
from bsszoo.train.classification.recipe import Recipe, with_values
from bsszoo.train.classification.samples import evaluation_batches
from bsszoo.train.devices import Process

CPU = torch.device("cpu")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path, "data.holdout=0.25", "data.crop_pct=1.0", "optim.lr=0.05")


@pytest.fixture
def network(recipe: Recipe) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(resolve_code(recipe.model.name), num_classes=4)


def test_figures_are_those_of_the_loaders(recipe: Recipe, network: torch.nn.Module, tmp_path: Path) -> None:
    held = open_splits(recipe.data, None, num_classes=4)[1]
    images = decode(held, recipe, tmp_path / "held.npy")
    assert len(images) == len(held) == 64
    found = accuracy(outputs(network, images, Normaliser(recipe, CPU)), images.labels)
    wanted = evaluate(network, evaluation_batches(held, recipe, Process(CPU)), Process(CPU))
    assert (found.top1, found.top5, found.images) == (wanted.top1, wanted.top5, wanted.images)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)


def test_images_are_decoded_once_and_another_file_in_their_place_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train = open_splits(recipe.data, None, num_classes=4)[0]
    seen: list[tuple[int, int]] = []
    first = decode(train, recipe, tmp_path / "train.npy", lambda *step: seen.append(step))
    assert seen[-1] == (192, 192)
    again = decode(train, recipe, tmp_path / "train.npy", lambda *step: pytest.fail(f"decoded again: {step}"))
    assert (first.pixels == again.pixels).all()
    np.save(tmp_path / "train.npy", np.zeros((3, 4)))
    with pytest.raises(RunError, match="Remove it; it is written again"):
        decode(train, recipe, tmp_path / "train.npy")


def test_crops_lie_within_the_images_and_centres_in_their_middle() -> None:
    pixels = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 1, 8, 8)
    images = Images(pixels, torch.zeros(6), size=5)
    assert images.centres(slice(2, 4)).numpy().tolist() == pixels[2:4, :, 1:6, 1:6].tolist()
    rng = np.random.default_rng(0)
    for flip in (0.0, 1.0):
        crops = images.crops(np.array([0, 3, 3, 5]), rng, flip=flip).numpy()
        for row, crop in zip((0, 3, 3, 5), crops, strict=True):
            whole = pixels[row] if not flip else pixels[row, :, :, ::-1]
            assert any((whole[:, y : y + 5, x : x + 5] == crop).all() for y in range(4) for x in range(4))


def test_some_images_of_a_set_sorted_by_class_are_of_all_classes() -> None:
    images = Images(np.zeros((400, 1, 4, 4), dtype=np.uint8), torch.arange(400) // 100, size=4)
    rows = images.some(60)
    assert len(set(rows.tolist())) == 60
    assert min(torch.bincount(images.labels[rows.tolist()], minlength=4)) > 5
    assert rows.tolist() == images.some(60).tolist()
    assert sorted(images.some(1000).tolist()) == list(range(400))


def test_recomputed_norms_are_the_statistics_of_the_images(
    recipe: Recipe, network: torch.nn.Module, tmp_path: Path
) -> None:
    images = decode(open_splits(recipe.data, None, num_classes=4)[0], recipe, tmp_path / "train.npy")
    normalise = Normaliser(recipe, CPU)
    momentum = network.bn1.momentum
    recompute_norms(network, images, normalise, number=192, batch=192)
    with torch.no_grad():
        stem = network.conv_stem(normalise(images.centres(slice(0, 192))))
    torch.testing.assert_close(network.bn1.running_mean, stem.mean((0, 2, 3)))
    torch.testing.assert_close(network.bn1.running_var, stem.var((0, 2, 3)))
    assert network.bn1.momentum == momentum
    assert not network.training


def test_a_fine_tuning_learns_and_depends_on_its_seed_alone(recipe: Recipe, tmp_path: Path) -> None:
    images = decode(open_splits(recipe.data, None, num_classes=4)[0], recipe, tmp_path / "train.npy")
    normalise = Normaliser(recipe, CPU)
    # So low that it is learnt whatever the processor's rounding.
    recipe = with_values(recipe, optim={"lr": 0.02})

    def tuned(seed: int, epochs: float) -> torch.Tensor:
        torch.manual_seed(0)
        network = build(resolve_code(recipe.model.name), num_classes=4)
        fine_tune(network, images, recipe, normalise, epochs=epochs, seed=seed)
        recompute_norms(network, images, normalise, number=192, batch=192)  # their averages lag behind so few updates
        return outputs(network, images, normalise)

    assert torch.equal(tuned(0, 0.5), tuned(0, 0.5))
    assert not torch.equal(tuned(0, 0.5), tuned(1, 0.5))
    assert accuracy(tuned(0, 6), images.labels).loss < 0.8 * np.log(4)
