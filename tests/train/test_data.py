"""What is wrong with a data set is named, with the file; what is right is read as timm and torchvision read it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from bsszoo.compression.finish import read_finish
from bsszoo.errors import DataError, RecipeError, SettingsError
from bsszoo.evaluators.training import training_recipe
from bsszoo.export import check_inputs
from bsszoo.models.build import input_config
from bsszoo.predict import predict
from bsszoo.train.callbacks import NoCallback
from bsszoo.train.classification.data import ImageSplit, Stream, open_split, open_splits, open_test, unseen_split
from bsszoo.train.classification.evaluation import evaluate
from bsszoo.train.classification.recipe import DataPart, with_values
from bsszoo.train.classification.samples import evaluation_batches
from bsszoo.train.classification.validate import validate
from bsszoo.train.devices import Process
from bsszoo.train.loop import train

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
    assert isinstance(val, ImageSplit)
    theirs = create_dataset("", str(tmp_path), split="validation")
    assert len(val) == len(theirs) == 15
    assert len(train_split) == 24
    for i in range(len(val)):
        image, label = theirs[i]
        assert np.array_equal(np.asarray(val.image(i, "RGB")), np.asarray(image))
        assert val.labels[i] == label


def test_accuracy_and_logits_are_those_of_timms_loader(tmp_path: Path) -> None:
    make_folder(tmp_path, val=9)
    recipe = small_recipe(tmp_path)
    recipe = with_values(recipe, data=dict(FOLDER, crop_pct=0.9, interpolation="bicubic"), model={"num_classes": 3})
    model = bsszoo.create(CODE, num_classes=3).eval()
    _, val = open_splits(recipe.data, tmp_path, num_classes=3)
    process = Process(torch.device("cpu"))
    theirs = create_loader(
        create_dataset("", str(tmp_path), split="validation"),
        (3, 32, 32),
        16,
        crop_pct=0.9,
        interpolation="bicubic",
        num_workers=0,
        device=torch.device("cpu"),
        persistent_workers=False,
    )
    hits = 0.0
    with torch.inference_mode():
        for (ours, labels), (images, targets) in zip(evaluation_batches(val, recipe, process), theirs, strict=True):
            assert torch.equal(labels, targets)
            assert torch.equal(model(ours), model(images))
            hits += float(timm_accuracy(model(images), targets, topk=(1,))[0]) * len(targets) / 100
    accuracy = evaluate(model, evaluation_batches(val, recipe, process), process)
    assert accuracy is not None
    assert accuracy.top1 == pytest.approx(100 * hits / 27)
    # Shared by two processes every image is counted once.
    shares = [evaluate(model, evaluation_batches(val, recipe, Process(process.device, r, 1)), process) for r in (0,)]
    assert shares[0] is not None
    assert shares[0].images == 27


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: [p.unlink() for p in (root / "train" / "class1").iterdir()], "train/class1 holds no image"),
        (
            lambda root: (
                [p.unlink() for p in (root / "validation" / "class1").iterdir()],
                (root / "validation" / "class1").rmdir(),
            ),
            "no folder of the class 'class1'",
        ),
        (lambda root: (root / "validation" / "other").mkdir(), "The class folder .*other holds no image"),
        (lambda root: (root / "train" / "class2" / "3.png").write_bytes(b"no image"), "class2/3.png cannot be read"),
        (lambda root: (root / "train" / "class2" / "3.png").write_bytes(b""), "class2/3.png cannot be read"),
        (lambda root: (root / "validation").rename(root / "held"), "has no folder 'validation'; it has held, train"),
        (
            lambda root: ((root / "train").rename(root / "cat"), shutil.rmtree(root / "validation")),
            "it has cat, which as PATH/CLASS is one class, and a classifier takes two or more",
        ),
        (lambda root: (root / "validation").rename(root / "test"), "named test are not taken for validation.*holdout"),
        (
            lambda root: (root / "validation" / "class1").rename(root / "validation" / "fox"),
            "has the class 'fox', which training does not have. Its classes are: class0, class1, class2",
        ),
    ],
)
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
    recipe = small_recipe(
        tmp_path,
        "data.dataset=folder",
        "model.num_classes=3",
        "optim.batch_size=24",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
        "run.device_batch=24",
    )
    with pytest.raises(DataError, match=r"class0/2\.png cannot be read"):
        train(recipe, tmp_path / "data", tmp_path / "out", device="cpu")


def test_every_file_is_decoded_before_training_where_that_is_asked_for(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    small_recipe(tmp_path)  # writes small.yaml
    words = [
        "train",
        str(tmp_path / "small.yaml"),
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
        "--check-files",
        "--set",
        "data.dataset=folder",
        "--set",
        "optim.batch_size=24",
    ]
    assert CliRunner().invoke(app, [*words, "--set", "schedule.epochs=1"]).exit_code == 0
    file = tmp_path / "data" / "validation" / "class0" / "2.png"
    file.write_bytes(file.read_bytes()[:600])
    broken = CliRunner().invoke(app, [*words[:5], str(tmp_path / "other"), *words[6:]])
    assert isinstance(broken.exception, DataError)
    assert str(file) in str(broken.exception)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dataset", ["synthetic/64", "torch/fashion_mnist"])
def test_a_split_is_the_one_that_is_named(dataset: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = None if dataset == "synthetic/64" else request.getfixturevalue("clothes")
    numbers = (64, 16) if dataset == "synthetic/64" else (60_000, 10_000)
    for split, number in (
        ("train", numbers[0]),
        ("training", numbers[0]),
        ("validation", numbers[1]),
        ("test", numbers[1]),
    ):
        part = DataPart(dataset=dataset, val_split=split, image_size=32)
        assert len(open_split(part, path, training=False, num_classes=10)) == number
    with pytest.raises(DataError, match="has no split 'foo': it has train"):
        open_split(DataPart(dataset=dataset, val_split="foo"), path, training=False, num_classes=10)
    with pytest.raises(DataError, match="'nothing', which is no kind of data set that is read"):
        open_split(DataPart(dataset="nothing"), tmp_path, training=True, num_classes=10)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no"):
        open_splits(FOLDER, tmp_path / "nowhere", num_classes=3)
    with pytest.raises(DataError, match="give it with --data"):
        open_splits(FOLDER, None, num_classes=3)


def test_held_out_images_are_not_trained_on_and_come_from_every_class() -> None:
    part = FOLDER.replaced(dataset="synthetic/500", holdout=0.2, subset=0.5)
    train_split, val = open_splits(part, None, num_classes=5)
    assert isinstance(train_split, ImageSplit)
    assert isinstance(val, ImageSplit)
    assert not set(train_split.indices) & set(val.indices)
    assert np.bincount(val.labels).tolist() == [20] * 5
    assert np.bincount(train_split.labels).tolist() == [40] * 5
    # The same ones each time, whatever the seed of the training.
    again = open_splits(part, None, num_classes=5)[1]
    assert isinstance(again, ImageSplit)
    assert np.array_equal(again.indices, val.indices)


def test_fashion_mnist_is_torchvisions(clothes: Path, tmp_path: Path) -> None:
    part = FOLDER.replaced(dataset="torch/fashion_mnist")
    train_split, val = open_splits(part, clothes, num_classes=10)
    assert (len(train_split), len(val)) == (60_000, 10_000)
    theirs = FashionMNIST(str(clothes), train=False)
    assert isinstance(val, ImageSplit)
    assert np.array_equal(np.asarray(val.image(17, "L")), np.asarray(theirs[17][0]))
    assert np.array_equal(val.labels, theirs.targets.numpy())
    with pytest.raises(DataError, match="the one that holds FashionMNIST/raw"):
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
                    image = io.BytesIO()
                    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(image, "PNG")
                    if broken and i == 3:
                        image.truncate(200)
                    for suffix, content in (("png", image.getvalue()), ("cls", str((shard + i) % 4).encode())):
                        entry = tarfile.TarInfo(f"{shard}{i:04d}.{suffix}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
        info["splits"][split] = {
            "name": split,
            "num_samples": number,
            "filenames": files,  # type: ignore[index]
            "shard_lengths": [number // 2] * 2,
        }
    (root / "_info.json").write_text(json.dumps(info))
    return root


def test_a_webdataset_trains_and_a_broken_sample_in_it_stops(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    root = make_shards(tmp_path / "shards")
    sets = (
        "data.dataset=wds/small",
        "optim.batch_size=8",
        "run.device_batch=8",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
    )
    recipe = small_recipe(tmp_path, *sets)
    splits = open_splits(recipe.data, root, num_classes=4)
    assert all(isinstance(s, Stream) and len(s) == 24 for s in splits)
    summary = train(recipe, root, tmp_path / "out", device="cpu")
    assert summary["val_pictures"] == 24
    with pytest.raises(DataError, match="the network 2 outputs"):
        train(small_recipe(tmp_path, *sets, "model.num_classes=2"), root, tmp_path / "two", device="cpu")
    # timm's reader would warn and read fewer images.
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
    part = FOLDER.replaced(dataset=f"hfds/{tmp_path / 'set'}")
    train_split, val = open_splits(part, tmp_path / "cache", num_classes=2)
    assert isinstance(train_split, ImageSplit)
    assert isinstance(val, ImageSplit)
    assert train_split.labels.tolist() == [0, 1] * 3
    assert np.array_equal(np.asarray(val.image(3, "RGB")), np.asarray(images[3]))


# -- which split, and which class ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "validation", "eval"])
def test_names_of_validation_are_one_and_the_folder_that_was_read_is_named(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path)
    (tmp_path / "validation").rename(tmp_path / name)
    for wanted in ("val", "valid", "validation", "eval"):
        val = open_split(FOLDER.replaced(val_split=wanted), tmp_path, training=False, num_classes=3)
        assert (val.split, len(val)) == (name, 15)
    with pytest.raises(DataError, match=f"has no folder 'test'; it has .*{name}"):
        open_split(FOLDER.replaced(val_split="test"), tmp_path, training=False, num_classes=3)


def test_a_test_is_on_images_that_nothing_was_chosen_by(tmp_path: Path) -> None:
    make_folder(tmp_path)
    part = FOLDER.replaced(test_split="val")
    splits = open_splits(part, tmp_path, num_classes=3)
    with pytest.raises(DataError, match=r"the recipe validates on the same images \(validation\)"):
        open_test(part, tmp_path, num_classes=3, splits=splits)
    held = part.replaced(holdout=0.2)
    splits = open_splits(held, tmp_path, num_classes=3)
    test = open_test(held, tmp_path, num_classes=3, splits=splits)
    assert test is not None
    assert (splits[1].split, test.split) == ("0.2 of train, held out", "validation")


@pytest.mark.parametrize("size", [16, 640])  # the noise of small images is kept
def test_synthetic_images_depend_on_their_number_alone(size: int) -> None:
    split, _ = open_splits(DataPart(dataset="synthetic/256", image_size=size), None, num_classes=10)
    assert isinstance(split, ImageSplit)
    first = [np.asarray(split.image(i, "RGB")) for i in (0, 64, 1)]
    again = [np.asarray(split.image(i, "RGB")) for i in (1, 64, 0)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    # The same noise below patches of other classes.
    same = (first[0] == first[1]).all(2)
    assert 0.2 < same.mean() < 1
    assert (first[0] == first[2]).all(2).mean() < 0.01


def test_synthetic_splits_are_three() -> None:
    part = DataPart(dataset="synthetic/64", image_size=16)
    seen = [
        np.asarray(split.image(0, "RGB"))
        for name in ("train", "validation", "test")
        if isinstance(
            split := open_split(part.replaced(val_split=name), None, training=False, num_classes=2), ImageSplit
        )
    ]
    assert not any(np.array_equal(a, b) for a, b in ((seen[0], seen[1]), (seen[1], seen[2]), (seen[0], seen[2])))


def test_a_search_is_confirmed_on_the_split_that_there_is(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert unseen_split(FOLDER, tmp_path) == "validation"
    assert unseen_split(FOLDER.replaced(test_split="mine"), tmp_path) == "mine"
    recipe = small_recipe(tmp_path, "data.dataset=folder", "data.holdout=0.2", "data.image_size=32")
    assert read_finish("paper", "resnet18", lambda: recipe, str(tmp_path)).data.holdout == 0
    (tmp_path / "validation").rename(tmp_path / "test")
    assert unseen_split(FOLDER, tmp_path) == "test"
    # The final training validates on held-out images, too, where there is no split for it.
    assert read_finish("paper", "resnet18", lambda: recipe, str(tmp_path)).data.holdout == 0.2
    assert unseen_split(FOLDER.replaced(dataset="synthetic"), None) == "validation"


def test_a_data_set_of_an_unknown_kind_is_no_folder(tmp_path: Path) -> None:
    make_folder(tmp_path)
    # timm takes it for a folder, and its classes would be train and validation.
    with pytest.raises(DataError, match="'tar/mine', which is no kind of data set that is read"):
        open_split(FOLDER.replaced(dataset="tar/mine", train_split="other"), tmp_path, training=True, num_classes=3)


def deep_image(kind: str = "PNG") -> bytes:
    image = io.BytesIO()
    Image.fromarray(np.full((16, 16), 3800, dtype=np.uint16)).save(image, kind)
    return image.getvalue()


def turned_image() -> bytes:
    """An image whose left half is white, once it is turned as its EXIF data say."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[8:] = 255
    exif, image = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(image, "PNG", exif=exif)
    return image.getvalue()


def shards_of(root: Path, content: bytes) -> Path:
    root.mkdir()
    for split in ("train", "validation"):
        with tarfile.open(root / f"{split}-0.tar", "w") as tar:
            for i in range(4):
                for suffix, data in (("png", content), ("cls", b"1")):
                    entry = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    splits = {
        s: {"name": s, "num_samples": 4, "filenames": [f"{s}-0.tar"], "shard_lengths": [4]}
        for s in ("train", "validation")
    }
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


def parquet_of(root: Path, content: bytes) -> DataPart:
    datasets = pytest.importorskip("datasets")
    (root / "data").mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": content, "path": None}] * 4, "label": [0, 1] * 2}, features=features
    )
    for split in ("train", "validation"):
        table.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))
    return FOLDER.replaced(dataset=f"hfds/{root}")


def test_other_kinds_of_data_sets_refuse_deep_images_and_turn_photographs(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    recipe = small_recipe(
        tmp_path,
        "data.dataset=wds/small",
        "data.image_size=16",
        "data.crop_pct=1.0",
        "model.num_classes=2",
        "run.device_batch=4",
        "optim.batch_size=4",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
    )
    with pytest.raises(DataError, match=r"Sample 0 of wds/small, split 'train' has more than 8 bits a channel"):
        train(recipe, shards_of(tmp_path / "deep", deep_image()), tmp_path / "out", device="cpu")
    val = open_split(recipe.data, shards_of(tmp_path / "turned", turned_image()), training=False, num_classes=2)
    [(images, _)] = evaluation_batches(val, recipe, Process(torch.device("cpu")))
    assert bool((images[:, :, :, :8] > images[:, :, :, 8:].flip(3)).all())

    deep = open_split(
        parquet_of(tmp_path / "deep_table", deep_image()), tmp_path / "cache1", training=True, num_classes=2
    )
    assert isinstance(deep, ImageSplit)
    with pytest.raises(DataError, match=r"image 0 of hfds/.*has more than 8 bits a channel"):
        deep.image(0, "RGB")
    turned = open_split(
        parquet_of(tmp_path / "turned_table", turned_image()), tmp_path / "cache2", training=True, num_classes=2
    )
    assert isinstance(turned, ImageSplit)
    assert np.asarray(turned.image(0, "L"))[:, :8].min() == 255


def test_every_command_refuses_a_deep_image(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", train=8)
    network = bsszoo.create(CODE, num_classes=3)
    file = tmp_path / "data" / "train" / "class1" / "deep.png"
    file.write_bytes(deep_image())
    refused = r"deep\.png has more than 8 bits a channel"
    with pytest.raises(DataError, match=refused):
        open_splits(FOLDER, tmp_path / "data", num_classes=3)
    with pytest.raises(DataError, match=refused):
        training_recipe("resnet18", tmp_path / "data", dataset="folder")
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(DataError, match=refused):
        list(predict(CODE, [file], weights=str(tmp_path / "mine.pth")))
    with pytest.raises(DataError, match=refused):
        check_inputs(input_config(network), [file])


# -- validate labels images by the names of their classes -------------------------------------------------------


COLOURS = "resnet18_c8-16-16-32_l1-1-1-1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A training on three colours that knows them all, and its data."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for label, name in enumerate(("ant", "bee", "cat")):
            (root / "data" / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 190
                Image.fromarray(pixels).save(root / "data" / split / name / f"{i}.png")
    recipe = small_recipe(
        root,
        f"model.name={COLOURS}",
        "data.dataset=folder",
        "model.num_classes=3",
        "optim.batch_size=8",
        "run.device_batch=8",
        "schedule.epochs=6",
        "schedule.warmup_epochs=0",
        "augment.auto_augment=null",
        "augment.color_jitter=0.0",
        "model.drop_rate=0.0",
        "model.drop_path_rate=0.0",
    )
    summary = train(recipe, root / "data", root / "run", device="cpu")
    assert summary["top1"] == 100
    return root / "run", root / "data"


def subset(data: Path, root: Path, names: dict[str, str]) -> Path:
    for old, new in names.items():
        shutil.copytree(data / "validation" / old, root / "validation" / new)
    return root


def test_a_missing_class_turns_no_labels(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = trained
    notes: list[str] = []
    some = subset(data, tmp_path / "some", {"bee": "bee", "cat": "cat"})
    accuracy = validate(run, some, device="cpu", on_note=notes.append)
    assert (accuracy.top1, accuracy.images, accuracy.split) == (100, 16, "validation")
    assert notes == [f"{some / 'validation'} has images of 2 of the 3 classes; there are none of ant"]
    again = validate(COLOURS, some, weights=f"local-dir:{run}", device="cpu")
    assert (again.top1, again.images) == (100, 16)
    result = CliRunner().invoke(app, ["validate", str(run), "--data", str(some), "--device", "cpu"])
    assert result.exit_code == 0
    assert "of 16 images (validation)" in result.output
    assert "Note: " in result.output


def test_an_unknown_class_is_refused_and_the_known_ones_are_named(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = trained
    other = subset(data, tmp_path, {"ant": "fly", "bee": "bee", "cat": "cat"})
    with pytest.raises(
        DataError, match=r"has the class 'fly', which training does not have\. Its classes are: ant, bee"
    ):
        validate(run, other, device="cpu")


def test_weights_without_names_say_what_is_assumed_or_are_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = trained
    file = str(run / "model.safetensors")
    notes: list[str] = []
    part = {"image_size": 32}
    accuracy = validate(COLOURS, data, weights=file, device="cpu", settings=part, on_note=notes.append)
    assert accuracy.top1 == 100
    assert any(
        "do not name their classes; assumed is the order of the folders' names: ant, bee, cat" in n for n in notes
    )
    some = subset(data, tmp_path, {"bee": "bee", "cat": "cat"})
    with pytest.raises(DataError, match=r"which class is which output is unknown\. Give it by --labels FILE"):
        validate(COLOURS, some, weights=file, device="cpu", settings=part)
    named = validate(COLOURS, some, weights=file, device="cpu", settings=part, labels=("ant", "bee", "cat"))
    assert (named.top1, named.images) == (100, 16)
    with pytest.raises(SettingsError, match="--labels names 2 classes, 2 different ones; the network has 3 outputs"):
        validate(COLOURS, some, weights=file, device="cpu", labels=("bee", "cat"))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    words = ["validate", COLOURS, "--weights", f"local-dir:{run}", "--data", str(some), "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--labels", str(tmp_path / "classes.txt")])
    assert done.exit_code == 0
    assert "top-1 100.000%" in done.output


def test_how_images_are_read_for_a_bare_weights_file_may_be_said(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = trained
    shutil.copy(run / "model.safetensors", tmp_path / "net.safetensors")
    seen: list[torch.Tensor] = []

    def batches(*arguments: Any) -> Iterator[Any]:
        for images, labels in evaluation_batches(*arguments):
            seen.append(images)
            yield images, labels

    monkeypatch.setattr("bsszoo.train.classification.validate.evaluation_batches", batches)
    words = ["validate", str(tmp_path / "net.safetensors"), "--data", str(data), "--device", "cpu"]
    assert CliRunner().invoke(app, [*words, "--image-size", "48"]).exit_code == 0
    assert seen.pop().shape[2:] == (48, 48)
    # Black images have no class.
    black = ["--set", "data.image_size=32", "--set", "data.mean=0,0,0", "--set", "data.std=1e9,1e9,1e9"]
    assert "top-1 33.333%" in CliRunner().invoke(app, [*words, *black]).output
    assert seen[-1].shape[2:] == (32, 32)
    assert seen[-1].abs().max() < 1e-8
    for wrong in ("optim.lr=1", "data.subset=0.5"):
        other = CliRunner().invoke(app, [*words, "--set", wrong])
        assert isinstance(other.exception, SettingsError)
        assert str(other.exception).startswith("--set takes data.image_size, data.crop_pct, ")
        assert f"got '{wrong}'" in str(other.exception)


def test_a_training_of_version_010_has_the_classes_of_its_training_split(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, data = trained
    old = tmp_path / "old"
    shutil.copytree(run, old)
    config = json.loads((old / "config.json").read_text())
    del config["label_names"]
    (old / "config.json").write_text(json.dumps(config))
    some = subset(data, tmp_path / "some", {"bee": "bee", "cat": "cat"})
    shutil.copytree(data / "train", some / "train")
    notes: list[str] = []
    accuracy = validate(old, some, device="cpu", on_note=notes.append)
    assert (accuracy.top1, accuracy.images) == (100, 16)
    assert notes[0] == ("the weights do not name their classes; taken are those of the training split: ant, bee, cat")


def test_folders_of_imagenets_classes_get_imagenets_labels(tmp_path: Path) -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = ["n02123045", "n01440764"]
    for name in names:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "val" / name / "a.png")
    code = "resnet18_c8-8-8-8_l1-1-1-1"
    network = bsszoo.create(code)
    torch.nn.init.zeros_(network.get_classifier().weight)
    with torch.no_grad():
        network.get_classifier().bias.copy_(torch.arange(1000) == info.label_names().index("n02123045"))
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    notes: list[str] = []
    accuracy = validate(
        code,
        tmp_path,
        weights=str(tmp_path / "mine.pth"),
        device="cpu",
        settings={"image_size": 32},
        on_note=notes.append,
    )
    assert (accuracy.top1, accuracy.images) == (50, 2)
    assert "assumed is the order of ImageNet's ids" in notes[-1]


def test_more_outputs_than_classes_are_said_and_named(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, data = trained
    recipe = small_recipe(
        tmp_path,
        "data.dataset=folder",
        "model.num_classes=5",
        "optim.batch_size=8",
        "run.device_batch=8",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
    )
    callback = Notes()
    train(recipe, data, tmp_path / "run", device="cpu", callback=callback)
    assert callback.notes == ["the network has 5 outputs and the data 3 classes: the others are never trained"]
    names = json.loads((tmp_path / "run" / "config.json").read_text())["label_names"]
    assert names == ["ant", "bee", "cat", "class 3, not trained", "class 4, not trained"]
    assert validate(tmp_path / "run", data, device="cpu").images == 24


def test_a_teacher_of_other_classes_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = trained
    other = tmp_path / "data"
    for split in ("train", "validation"):
        for old, new in (("ant", "ant"), ("bee", "dog"), ("cat", "eel")):
            shutil.copytree(data / split / old, other / split / new)
    recipe = small_recipe(
        tmp_path,
        "data.dataset=folder",
        "model.num_classes=3",
        "optim.batch_size=8",
        "run.device_batch=8",
        f"loss.teacher={COLOURS}",
        f"loss.teacher_weights=local-dir:{run}",
    )
    with pytest.raises(RecipeError, match=r"network of the same classes\. The images have the class 'dog', which is"):
        train(recipe, other, tmp_path / "out", device="cpu")


class Notes(NoCallback):
    """Keeps the notes of a training."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)
