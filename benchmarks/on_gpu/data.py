"""The images of the parts: Fashion-MNIST or what stands in for it, JPEG files and objects in COCO's format."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from on_gpu.steps import ROOT, Rows, Setting, cores

#: Images of a toy: for training and for the test.
TOY: Final = (640, 200)
#: Images of shapes that are drawn where there is nothing else.
DRAWN: Final = (20_000, 4_000)
FASHION: Final = "torch/fashion_mnist"
NAMES: Final = (("train", "train"), ("t10k", "test"))

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def fashion(setting: Setting, rows: Rows) -> Path:
    """Fashion-MNIST as torchvision lays it out; digits or drawn shapes in its files where it is not there."""
    out = setting.work / "fashion"
    raw = out / "FashionMNIST" / "raw"
    told = raw / "what.txt"
    if not told.is_file():
        shutil.rmtree(raw, ignore_errors=True)
        raw.mkdir(parents=True)
        parts, what = _images(setting)
        for (name, _), (images, labels), most in zip(NAMES, parts, TOY, strict=True):
            chosen = slice(most if setting.toy else None)
            _write_idx(raw / f"{name}-images-idx3-ubyte", images[chosen])
            _write_idx(raw / f"{name}-labels-idx1-ubyte", labels[chosen])
        told.write_text(what, encoding="utf-8")
    what = told.read_text(encoding="utf-8")
    if what:
        rows.note(what)
    return out


def _images(setting: Setting) -> tuple[tuple[Labelled, Labelled], str]:
    """Training and test images, grey and of 28 px, and a sentence where they are not Fashion-MNIST's."""
    if all(list(setting.fashion.glob(f"{name}-*-ubyte*")) for name, _ in NAMES):
        return (_fashion(setting.fashion, "train"), _fashion(setting.fashion, "t10k")), ""
    lack = "Fashion-MNIST was not there (--fashion): "
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return (_shapes(0, DRAWN[0]), _shapes(1, DRAWN[1])), f"{lack}drawn shapes of ten classes stand in for it."
    images, labels = load_digits(return_X_y=True)
    # 8 px and 17 levels as 28 px of a frame and 256 levels.
    large = np.kron((images.reshape(-1, 8, 8) * 15.9375).astype(np.uint8), np.ones((3, 3), np.uint8))
    large = np.pad(large, ((0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(0).permutation(len(large))
    held, rest = order[:360], order[360:]
    named = labels.astype(np.uint8)
    text = f"{lack}scikit-learn's digits, {len(rest):,} and {len(held)} of them, stand in for it."
    return ((large[rest], named[rest]), (large[held], named[held])), text


def _fashion(folder: Path, name: str) -> Labelled:
    images, labels = (_read_idx(folder, f"{name}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    return images, labels


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    packed = folder / f"{name}.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.is_file() else (folder / name).read_bytes()
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(tuple(int(n) for n in shape))


def _write_idx(file: Path, values: NDArray[np.uint8]) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    file.write_bytes(head + np.ascontiguousarray(values).tobytes())


def _shapes(seed: int, number: int) -> Labelled:
    from compression import shapes

    images, labels = shapes(np.random.default_rng(seed), number)
    grey = images.astype(np.float64).mean(3).astype(np.uint8)
    return grey[:, 2:30, 2:30], labels.astype(np.uint8)


def jpegs(setting: Setting, *, files: int, links: int, size: tuple[int, int]) -> Path:
    """A folder of JPEG files with noise over gradients, each under several names: as many images, on less disk.

    Args:
        setting: Where.
        files: Files.
        links: Names of each.
        size: Width and height [px].
    """
    out = setting.work / f"jpegs_{files}x{links}_{size[0]}x{size[1]}"
    if not (out / "done").is_file():
        shutil.rmtree(out, ignore_errors=True)
        with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
            list(pool.map(_write_jpeg, *zip(*((out, i, links, size) for i in range(files)), strict=True), chunksize=16))
        for place in (out / "train").iterdir():
            held = out / "validation" / place.name
            held.mkdir(parents=True)
            os.link(next(place.iterdir()), held / "0.jpg")
        (out / "done").touch()
    return out


def _write_jpeg(folder: Path, number: int, links: int, size: tuple[int, int]) -> None:
    from PIL import Image

    rng, (width, height) = np.random.default_rng(number), size
    slope = np.linspace(0, 160, height)[:, None, None] * rng.random(3)
    coarse = rng.integers(0, 96, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    noise = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    pixels = np.clip(slope + noise + rng.integers(0, 24, (height, width, 3)), 0, 255).astype(np.uint8)
    place = folder / "train" / f"class{number % 10}"
    place.mkdir(parents=True, exist_ok=True)
    first = place / f"{number:06}_0.jpg"
    Image.fromarray(pixels).save(first, quality=90)
    for link in range(1, links):
        os.link(first, place / f"{number:06}_{link}.jpg")


def coco(setting: Setting, *, train: int, val: int, times: int) -> Path:
    """The drawn shapes of ``examples/detection/shapes_coco.py``, larger by a whole number, in COCO's format."""
    out = setting.work / f"coco_{train}_{val}_{times}"
    if not (out / "done").is_file():
        shutil.rmtree(out, ignore_errors=True)
        shapes = _shapes_coco()
        for split, pictures, seed in (("train", train, 0), ("val", val, 1)):
            shapes.write_split(out, split, pictures, seed)
            _enlarge(out, split, times, shapes)
        (out / "done").touch()
    return out


def _shapes_coco() -> Any:
    import importlib.util

    file = ROOT / "examples" / "detection" / "shapes_coco.py"
    spec = importlib.util.spec_from_file_location("shapes_coco", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _enlarge(root: Path, split: str, times: int, shapes: Any) -> None:
    from PIL import Image
    from pycocotools import mask as coder

    file = root / "annotations" / f"instances_{split}.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    for image in data["images"]:
        place = root / split / image["file_name"]
        image |= {"width": times * image["width"], "height": times * image["height"]}
        with Image.open(place) as small:
            large = small.resize((image["width"], image["height"]), Image.Resampling.BICUBIC)
        large.save(place, quality=92)
    for one in data["annotations"]:
        outline = one["segmentation"]
        if isinstance(outline, list):
            one["segmentation"] = [[times * value for value in polygon] for polygon in outline]
        else:
            small_mask = coder.decode(coder.frPyObjects(outline, *outline["size"]))
            one["segmentation"] = shapes.runs(np.kron(small_mask, np.ones((times, times), np.uint8)).astype(bool))
        one |= {"bbox": [times * value for value in one["bbox"]], "area": times**2 * one["area"]}
    file.write_text(json.dumps(data), encoding="utf-8")
