"""Division of a batch into micro-batches: what is refused before training, and the batches proposed instead."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import small_detectors
import torch
from train.small import small_recipe

from bsszoo.errors import RecipeError
from bsszoo.train import loop
from bsszoo.train.classification.samples import divide
from bsszoo.train.detection.samples import divide_detection
from bsszoo.train.optim import Objective

MIXED = "augment.mixup=0.2"


def refused(folder: Path, *assignments: str, world: int = 1) -> str:
    with pytest.raises(RecipeError) as caught:
        divide(small_recipe(folder, *assignments), 5000, world)
    return str(caught.value)


@pytest.mark.parametrize(
    ("batch", "most", "size", "near"),
    [
        (131, 128, 1, "128 or 132"),
        (262, 128, 2, "258 or 264"),
        (7, 4, 1, "4 or 8"),
        (1, 128, 1, "2"),
        (1009, 128, 1, "1008 or 1012"),
    ],
)
def test_a_batch_without_a_divisor_is_refused_and_near_ones_are_proposed(
    tmp_path: Path, batch: int, most: int, size: int, near: str
) -> None:
    words = refused(tmp_path, f"optim.batch_size={batch}", f"run.device_batch={most}")
    assert f"optim.batch_size is {batch}, which is divided into micro-batches of {size} image" in words
    assert f"Set optim.batch_size to {near}, or run.device_batch to " in words or words.endswith(
        f"Set optim.batch_size to {near}."
    )
    for number in re.findall(r"\d+", near):
        division = divide(small_recipe(tmp_path, f"optim.batch_size={number}", f"run.device_batch={most}"), 5000, 1)
        assert division.size > 1
        assert 2 * division.size >= min(int(number), most)


@pytest.mark.parametrize(("batch", "most"), [(2, 128), (7, 128), (250, 128), (256, 128), (96, 128), (12, 5)])
def test_batches_that_divide_are_divided_as_ever(tmp_path: Path, batch: int, most: int) -> None:
    division = divide(small_recipe(tmp_path, f"optim.batch_size={batch}", f"run.device_batch={most}"), 5000, 1)
    assert division.size == max(d for d in range(1, most + 1) if batch % d == 0)
    assert division.size * division.micro_batches == batch


@pytest.mark.parametrize(("batch", "size"), [(250, 125), (130, 65), (150, 75), (500, 125), (1000, 125), (7, 7)])
def test_pairs_are_mixed_of_even_passes_only(tmp_path: Path, batch: int, size: int) -> None:
    for mixing in (MIXED, "augment.cutmix=1.0"):
        words = refused(tmp_path, f"optim.batch_size={batch}", "run.device_batch=128", mixing)
        assert f"micro-batches of {size} images" in words
        assert "mix pairs, and so take an even number" in words
        batches, _, sizes = words.rpartition("Set optim.batch_size to ")[2].partition(", or run.device_batch to ")
        ways = [(number, 128) for number in re.findall(r"\d+", batches)]
        for number, most in [*ways, *((batch, wide) for wide in re.findall(r"\d+", sizes))]:
            recipe = small_recipe(tmp_path, f"optim.batch_size={number}", f"run.device_batch={most}", mixing)
            even = divide(recipe, 5000, 1).size
            assert even % 2 == 0
            images, _ = Objective(recipe).mixed(torch.zeros(even, 3, 8, 8), torch.zeros(even, dtype=torch.int64))
            assert len(images) == even
    assert divide(small_recipe(tmp_path, f"optim.batch_size={batch}", "run.device_batch=128"), 5000, 1).size == size


def test_passes_are_refused_by_what_a_process_takes(tmp_path: Path) -> None:
    sets = ("optim.batch_size=262", "run.device_batch=128")
    assert "micro-batches of 1 image" in refused(tmp_path, *sets, world=2)
    # Two processes that normalise together see two images, and still far fewer than fit.
    assert "would see few images" in refused(tmp_path, *sets, "run.sync_bn=true", world=2)
    two = small_recipe(tmp_path, "optim.batch_size=2", "run.sync_bn=true")
    assert divide(two, 5000, 2).size == 1
    assert "over one image is no training" in refused(tmp_path, "optim.batch_size=2", world=2)
    assert refused(tmp_path, "optim.batch_size=8", "run.device_batch=1").endswith("Set run.device_batch to 2 or more.")


def test_the_refusal_comes_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "optim.batch_size=25", "run.device_batch=16", MIXED)
    with pytest.raises(RecipeError, match=r"micro-batches of 5 images .*mix pairs"):
        loop.train(recipe, None, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_detectors_passes_are_refused_where_its_norms_learn(tmp_path: Path) -> None:
    odd = ("optim.batch_size=15", "run.device_batch=2")
    with pytest.raises(RecipeError, match=r"micro-batches of 1 image .*few images.*Set optim\.batch_size to 14 or 16"):
        divide_detection(small_detectors.small_recipe(tmp_path, *odd), 100, 1)
    weights = tmp_path / "weights.pt"
    frozen = (*odd, "model.norm=frozen", f"model.backbone_weights={weights}")
    assert divide_detection(small_detectors.small_recipe(tmp_path, *frozen), 100, 1).size == 1
    # One image at a time is what was asked for here; it has a thousand positions to normalise over.
    asked = small_detectors.small_recipe(tmp_path, "optim.batch_size=15", "run.device_batch=1")
    assert divide_detection(asked, 100, 1).size == 1


def test_reading_processes_have_an_upper_bound(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"run\.workers is 1000000; allowed is at least 0 and at most 256"):
        small_recipe(tmp_path, "run.workers=1000000")
    with pytest.raises(RecipeError, match=r"run\.workers is 257"):
        small_detectors.small_recipe(tmp_path, "run.workers=257")


def test_the_share_of_the_images_that_is_asked_for_is_erased(tmp_path: Path) -> None:
    labels = torch.arange(400) % 4
    for share in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        random.seed(0)
        objective = Objective(small_recipe(tmp_path, f"augment.erase={share}"))
        images, targets = objective.mixed(torch.zeros(400, 3, 32, 32), labels)
        noise = images.ne(0).any(dim=1).flatten(1).sum(dim=1)  # pixels of each image
        assert noise.gt(0).sum().item() / 400 == pytest.approx(share, abs=0.06)
        # timm's rectangles: 2% to a third of the image, up to the rounding of their sides.
        assert all(0.01 < n / 1024 < 0.36 for n in noise[noise > 0].tolist())
        assert torch.equal(targets, labels)
