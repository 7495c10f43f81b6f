"""Photographs that were stored turned: a detector gets them as their annotations are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_detectors import small_recipe

from bsszoo.errors import DataError
from bsszoo.images import read_image
from bsszoo.train.detection.data import open_coco
from bsszoo.train.detection.labels import labels_of
from bsszoo.train.detection.recipe import CocoPart
from bsszoo.train.detection.samples import DetectionBatches, divide_detection, read_annotated_image
from bsszoo.train.devices import Process

PART = CocoPart(train_split="train", val_split="train")
WIDTH, HEIGHT = 12, 8
BOX = (2, 1, 5, 3)  # left, top, width, height of the one bright object


def upright() -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    left, top, width, height = BOX
    pixels[top : top + height, left : left + width] = 255
    return pixels


def stored(orientation: int) -> np.ndarray:
    """The pixels that a file with this orientation holds, so that a viewer shows ``upright``; by EXIF's definition.

    It says where the stored rows and columns begin in the upright image.
    """
    viewed = upright()
    turned = {
        1: viewed,
        2: viewed[:, ::-1],
        3: viewed[::-1, ::-1],
        4: viewed[::-1],
        5: viewed.transpose(1, 0, 2),
        6: viewed.transpose(1, 0, 2)[::-1],
        7: viewed.transpose(1, 0, 2)[::-1, ::-1],
        8: viewed.transpose(1, 0, 2)[:, ::-1],
    }
    return np.ascontiguousarray(turned[orientation])


def data_set(root: Path, orientation: int, *, size: tuple[int, int], box: tuple[int, int, int, int]) -> Path:
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    images, annotations = [], []
    for number in range(1, 5):
        Image.fromarray(stored(orientation)).save(root / "train" / f"{number}.png", exif=exif)
        images.append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
        left, top, width, height = box
        outline = [left, top, left + width, top, left + width, top + height, left, top + height]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": list(box),
                "segmentation": [outline],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    (root / "annotations" / "instances_train.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bright"}]})
    )
    return root


def shown_to_a_detector(root: Path, folder: Path) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    recipe = small_recipe(folder, "augment.hflip=0", "data.train_split=train", "data.val_split=train")
    split, _ = open_coco(PART, root, masks=True)
    labels = labels_of("maskrcnn", split.categories, "order", None)
    made = DetectionBatches(
        split, labels, recipe, divide_detection(recipe, len(split), 1), Process(torch.device("cpu")), masks=True
    )
    pixels, target = next(made.between(0, 1))[0]
    return (pixels * 255).round().to(torch.uint8).numpy().transpose(1, 2, 0), target


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_of_the_image_as_it_is_shown(tmp_path: Path, orientation: int) -> None:
    root = data_set(tmp_path / "data", orientation, size=(WIDTH, HEIGHT), box=BOX)
    pixels, target = shown_to_a_detector(root, tmp_path)
    assert np.array_equal(pixels, upright())
    left, top, width, height = BOX
    assert target["boxes"].tolist() == [[left, top, left + width, top + height]]
    # The mask and the box lie on the object's pixels.
    assert np.array_equal(target["masks"][0].numpy(), (upright()[..., 0] == 255).astype(np.uint8))
    # What `bsszoo predict` draws on is the same image.
    assert np.array_equal(np.asarray(read_image(root / "train" / "1.png").convert("RGB")), upright())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_stored_image_where_their_size_fits_that_only(tmp_path: Path, orientation: int) -> None:
    pixels = stored(orientation)
    rows, columns = np.nonzero(pixels[..., 0])
    box = (int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    root = data_set(tmp_path / "data", orientation, size=(HEIGHT, WIDTH), box=box)
    image, target = shown_to_a_detector(root, tmp_path)
    assert np.array_equal(image, pixels)
    assert np.array_equal(target["masks"][0].numpy(), (pixels[..., 0] == 255).astype(np.uint8))


def test_a_size_that_fits_neither_is_refused(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data", 6, size=(WIDTH + 1, HEIGHT), box=BOX)
    split, _ = open_coco(PART, root, masks=True)
    with pytest.raises(DataError, match=r"1\.png has 12 x 8 px, and its annotations say 13 x 8"):
        read_annotated_image(split, split.image(0)[0])


def test_an_image_of_many_bits_or_too_many_pixels_is_named(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data", 1, size=(WIDTH, HEIGHT), box=BOX)
    file = root / "train" / "1.png"
    split, _ = open_coco(PART, root, masks=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint16)).save(file)
    with pytest.raises(DataError, match=r"1\.png has more than 8 bits a channel"):
        read_annotated_image(split, split.image(0)[0])
    shutil.copy(root / "annotations" / "instances_train.json", file)
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        read_annotated_image(split, split.image(0)[0])
