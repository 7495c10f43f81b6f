"""What is wrong with a data set is named, with the file; what is right is read as timm and torchvision read it."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from timm.utils.metrics import accuracy as timm_accuracy
from torchvision.datasets import FashionMNIST
from train.small import CODE, small_recipe
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.errors import DataError
from bsszoo.train.batches import evaluation_batches
from bsszoo.train.data import Pictures, Stream, open_split, open_splits
from bsszoo.train.devices import Place
from bsszoo.train.evaluation import evaluate
from bsszoo.train.loop import train
from bsszoo.train.recipe import DataPart

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FOLDER = DataPart(image_size=32)


def make_folder(root: Path, *, classes: int = 3, train: int = 8, val: int = 5) -> Path:
    rng = np.random.default_rng(0)
    for split, number in (("train", train), ("validation", val)):
        for label in range(classes):
            (root / split / f"class{label}").mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"class{label}" / f"{i}.png")
    return root


def test_a_folder_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    make_folder(tmp_path)
    train_split, val = open_splits(FOLDER, tmp_path, num_classes=3)
    assert isinstance(val, Pictures)
    theirs = create_dataset("", str(tmp_path), split="validation")
    assert len(val) == len(theirs) == 15
    assert len(train_split) == 24
    for i in range(len(val)):
        image, label = theirs[i]
        assert np.array_equal(np.asarray(val.picture(i, "RGB")), np.asarray(image))
        assert val.labels[i] == label


def test_accuracy_and_logits_are_those_of_timms_loader(tmp_path: Path) -> None:
    make_folder(tmp_path, val=9)
    recipe = small_recipe(tmp_path)
    recipe = replace(recipe, data=replace(FOLDER, crop_pct=0.9, interpolation="bicubic"),
                     model=replace(recipe.model, num_classes=3))
    model = bsszoo.create(CODE, num_classes=3).eval()
    _, val = open_splits(recipe.data, tmp_path, num_classes=3)
    place = Place(torch.device("cpu"))
    theirs = create_loader(create_dataset("", str(tmp_path), split="validation"), (3, 32, 32), 16, crop_pct=0.9,
                           interpolation="bicubic", num_workers=0, device=torch.device("cpu"), persistent_workers=False)
    hits = 0.0
    with torch.inference_mode():
        for (ours, labels), (images, targets) in zip(evaluation_batches(val, recipe, place), theirs, strict=True):
            assert torch.equal(labels, targets)
            assert torch.equal(model(ours), model(images))
            hits += float(timm_accuracy(model(images), targets, topk=(1,))[0]) * len(targets) / 100
    found = evaluate(model, evaluation_batches(val, recipe, place), place)
    assert found is not None
    assert found.top1 == pytest.approx(100 * hits / 27)
    # Shared by two processes every picture is counted once.
    shares = [evaluate(model, evaluation_batches(val, recipe, Place(place.device, r, 1)), place) for r in (0,)]
    assert shares[0] is not None
    assert shares[0].pictures == 27


@pytest.mark.parametrize(("break_it", "message"), [
    (lambda root: [p.unlink() for p in (root / "train" / "class1").iterdir()], "train/class1 holds no image"),
    (lambda root: ([p.unlink() for p in (root / "validation" / "class1").iterdir()],
                   (root / "validation" / "class1").rmdir()), "no folder of the class 'class1'"),
    (lambda root: (root / "validation" / "other").mkdir(), "other is a class that training does not have"),
    (lambda root: (root / "train" / "class2" / "3.png").write_bytes(b"no image"), "class2/3.png cannot be read"),
    (lambda root: (root / "train" / "class2" / "3.png").write_bytes(b""), "class2/3.png cannot be read"),
    (lambda root: (root / "validation").rename(root / "held"), "has no folder 'validation'; it has held, train"),
])
def test_a_broken_folder_is_named_before_training(tmp_path: Path, break_it: object, message: str) -> None:
    make_folder(tmp_path)
    break_it(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        open_splits(FOLDER, tmp_path, num_classes=3)


def test_a_label_without_an_output_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with pytest.raises(DataError, match=r"class2/.* has the label 2, and the network 2 outputs.*num_classes to 3"):
        open_splits(FOLDER, tmp_path, num_classes=2)


def test_a_file_that_is_cut_off_is_named_when_it_is_reached(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    file = tmp_path / "data" / "train" / "class0" / "2.png"
    file.write_bytes(file.read_bytes()[:600])
    recipe = small_recipe(tmp_path, "data.dataset=folder", "model.num_classes=3", "optim.batch_size=24",
                          "schedule.epochs=1", "schedule.warmup_epochs=0", "run.device_batch=24")
    with pytest.raises(DataError, match=r"class0/2\.png cannot be read"):
        train(recipe, tmp_path / "data", tmp_path / "out", device="cpu")


def test_every_file_is_decoded_before_training_where_that_is_asked_for(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    small_recipe(tmp_path)  # writes small.yaml
    words = ["train", str(tmp_path / "small.yaml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"),
             "--device", "cpu", "--check-files", "--set", "data.dataset=folder", "--set", "optim.batch_size=24"]
    assert CliRunner().invoke(app, [*words, "--set", "schedule.epochs=1"]).exit_code == 0
    file = tmp_path / "data" / "validation" / "class0" / "2.png"
    file.write_bytes(file.read_bytes()[:600])
    broken = CliRunner().invoke(app, [*words[:5], str(tmp_path / "other"), *words[6:]])
    assert isinstance(broken.exception, DataError)
    assert str(file) in str(broken.exception)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dataset", ["synthetic/64", "torch/fashion_mnist"])
def test_a_split_is_the_one_that_is_named(dataset: str, tmp_path: Path) -> None:
    if dataset != "synthetic/64" and not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    path = None if dataset == "synthetic/64" else Path("/usr/share/datasets/fashion-mnist")
    numbers = (64, 16) if dataset == "synthetic/64" else (60_000, 10_000)
    for split, number in (("train", numbers[0]), ("training", numbers[0]), ("validation", numbers[1]),
                          ("test", numbers[1])):
        part = DataPart(dataset=dataset, val_split=split, image_size=32)
        assert len(open_split(part, path, training=False, num_classes=10)) == number
    with pytest.raises(DataError, match="has no split 'foo': it has train"):
        open_split(DataPart(dataset=dataset, val_split="foo"), path, training=False, num_classes=10)
    with pytest.raises(DataError, match="'nothing', which is no known kind of data set"):
        open_split(DataPart(dataset="nothing"), tmp_path, training=True, num_classes=10)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no"):
        open_splits(FOLDER, tmp_path / "nowhere", num_classes=3)
    with pytest.raises(DataError, match="give it with --data"):
        open_splits(FOLDER, None, num_classes=3)


def test_held_out_pictures_are_not_trained_on_and_come_from_every_class() -> None:
    part = replace(FOLDER, dataset="synthetic/500", holdout=0.2, subset=0.5)
    train_split, val = open_splits(part, None, num_classes=5)
    assert isinstance(train_split, Pictures)
    assert isinstance(val, Pictures)
    assert not set(train_split.rows) & set(val.rows)
    assert np.bincount(val.labels).tolist() == [20] * 5
    assert np.bincount(train_split.labels).tolist() == [40] * 5
    # The same ones each time, whatever the seed of the training.
    again = open_splits(part, None, num_classes=5)[1]
    assert isinstance(again, Pictures)
    assert np.array_equal(again.rows, val.rows)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    part = replace(FOLDER, dataset="torch/fashion_mnist")
    train_split, val = open_splits(part, DEBIAN, num_classes=10)
    assert (len(train_split), len(val)) == (60_000, 10_000)
    [root] = (tmp_path / "bsszoo").iterdir()
    theirs = FashionMNIST(str(root), train=False)
    assert isinstance(val, Pictures)
    assert np.array_equal(np.asarray(val.picture(17, "L")), np.asarray(theirs[17][0]))
    assert np.array_equal(val.labels, theirs.targets.numpy())
    with pytest.raises(DataError, match="is four files"):
        open_splits(part, tmp_path, num_classes=10)


def make_shards(root: Path, number: int = 24, *, broken: bool = False) -> Path:
    root.mkdir()
    rng = np.random.default_rng(0)
    info: dict[str, object] = {"splits": {}}
    for split in ("train", "validation"):
        files = [f"{split}-{i}.tar" for i in range(2)]
        for shard, file in enumerate(files):
            with tarfile.open(root / file, "w") as tar:
                for i in range(number // 2):
                    picture = io.BytesIO()
                    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(picture, "PNG")
                    if broken and i == 3:
                        picture.truncate(200)
                    for suffix, content in (("png", picture.getvalue()), ("cls", str((shard + i) % 4).encode())):
                        entry = tarfile.TarInfo(f"{shard}{i:04d}.{suffix}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
        info["splits"][split] = {"name": split, "num_samples": number, "filenames": files,  # type: ignore[index]
                                 "shard_lengths": [number // 2] * 2}
    (root / "_info.json").write_text(json.dumps(info))
    return root


def test_a_webdataset_trains_and_a_broken_sample_in_it_stops(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    root = make_shards(tmp_path / "shards")
    sets = ("data.dataset=wds/small", "optim.batch_size=8", "run.device_batch=8", "schedule.epochs=1",
            "schedule.warmup_epochs=0")
    recipe = small_recipe(tmp_path, *sets)
    splits = open_splits(recipe.data, root, num_classes=4)
    assert all(isinstance(s, Stream) and len(s) == 24 for s in splits)
    summary = train(recipe, root, tmp_path / "out", device="cpu")
    assert summary["val_pictures"] == 24
    with pytest.raises(DataError, match="the network 2 outputs"):
        train(small_recipe(tmp_path, *sets, "model.num_classes=2"), root, tmp_path / "two", device="cpu")
    # timm's reader would warn and go on with fewer pictures.
    with pytest.raises(DataError, match="A sample of wds/small, split 'train' cannot be read"):
        train(recipe, make_shards(tmp_path / "broken", broken=True), tmp_path / "three", device="cpu")


def test_a_hugging_face_data_set_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(6)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split in ("train", "validation"):
        made = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 3}, features=features)
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(str(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"))
    part = replace(FOLDER, dataset=f"hfds/{tmp_path / 'set'}")
    train_split, val = open_splits(part, tmp_path / "cache", num_classes=2)
    assert isinstance(train_split, Pictures)
    assert isinstance(val, Pictures)
    assert train_split.labels.tolist() == [0, 1] * 3
    assert np.array_equal(np.asarray(val.picture(3, "RGB")), np.asarray(images[3]))
