"""Pictures of predictions: what stands in them is what the network says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from train.small import CODE
from typer.testing import CliRunner

import bsszoo
from bsszoo.cli.main import app
from bsszoo.errors import DataError, SettingsError, UnknownNameError, WeightsError
from bsszoo.images import image_files
from bsszoo.models.detector import saved_text
from bsszoo.models.names import find_detector
from bsszoo.predict import LEAST_SIDE, DetectedObject, Prediction, colour_of, draw, predict, write_predictions
from bsszoo.train.detection.labels import labels_of

NARROW = "maskrcnn_fpn8_resnet18_c8-8-16-16_l1-1-1-1"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(file)
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's folder as a training leaves it, with weights at random."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("detector")
    detector = find_detector(NARROW)
    assert detector is not None
    labels = labels_of("maskrcnn", [(1, "cat"), (5, "dog")], "order", None)
    from dataclasses import replace

    torch.manual_seed(0)
    settings = {"min_size": 64, "max_size": 128, "box_score_thresh": 0.0, "box_detections_per_img": 5}
    model = bsszoo.create(NARROW, num_classes=3)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(
        saved_text(replace(detector, num_classes=3), norm="batch", settings=settings, labels=labels.to_dict())
    )
    return folder


def test_a_classifiers_labels_are_the_largest_outputs(picture: Path, tmp_path: Path) -> None:
    from timm.data import create_transform, resolve_data_config

    torch.manual_seed(0)
    network = bsszoo.create(CODE, num_classes=7).eval()
    file = tmp_path / "weights.pt"
    torch.save(network.state_dict(), file)
    prediction = next(iter(predict(CODE, [picture], weights=str(file), top=3, device="cpu")))
    transform = create_transform(**resolve_data_config(model=network), is_training=False)
    with torch.inference_mode():
        chances = network(transform(Image.open(picture).convert("RGB"))[None])[0].softmax(0)
    best = chances.topk(3)
    assert prediction.labels is not None
    assert [n for n, _ in prediction.labels] == [f"class {i}" for i in best.indices.tolist()]
    assert [p for _, p in prediction.labels] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_a_detectors_objects_are_its_outputs_from_the_least_score_on(picture: Path, trained: Path) -> None:
    model = bsszoo.create(f"local-dir:{trained}", pretrained=True).eval()
    pixels = torch.from_numpy(np.array(Image.open(picture)).transpose(2, 0, 1)).float() / 255
    with torch.inference_mode():
        output = model([pixels])[0]
    whole = next(iter(predict(str(trained), [picture], least_score=0.0, device="cpu"))).objects
    assert whole is not None
    assert len(whole) == len(output["boxes"]) == 5
    assert {o.label for o in whole} <= {"cat", "dog"}
    for detected, box, score, mask in zip(whole, output["boxes"], output["scores"], output["masks"], strict=True):
        assert detected.box == pytest.approx(box.tolist())
        assert detected.score == pytest.approx(float(score))
        assert detected.mask is not None
        assert np.array_equal(detected.mask, (mask[0] > 0.5).numpy())
    middle = sorted(o.score for o in whole)[2]
    some = next(iter(predict(str(trained), [picture], least_score=middle, device="cpu"))).objects
    assert [o.score for o in some or ()] == [o.score for o in whole if o.score >= middle]


def test_boxes_masks_and_tags_are_where_they_belong() -> None:
    image = Image.new("RGB", (600, 500), (10, 10, 10))
    mask = np.zeros((500, 600), dtype=bool)
    mask[200:300, 100:200] = True
    detected = DetectedObject((80.0, 180.0, 320.0, 400.0), 2, "dog", 0.9, mask)
    made = np.asarray(draw(Prediction(Path("x.png"), image, objects=(detected,))))
    assert made.shape == (500, 600, 3)
    colour = np.array(colour_of(2))
    assert np.array_equal(made[400, 300], colour)  # the box's lower edge
    assert np.array_equal(made[250, 80], colour)
    assert np.abs(made[250, 150] - (0.55 * 10 + 0.45 * colour)).max() <= 1  # the mask, half transparent
    assert np.array_equal(made[350, 250], (10, 10, 10))  # inside the box, outside the mask
    assert np.array_equal(made[178, 82], colour)  # the tag above the box
    assert (made[:178, 80:180] == 255).all(axis=2).any()  # its text


def test_small_images_are_enlarged_and_labels_are_below() -> None:
    image = Image.new("RGB", (50, 40), (200, 0, 0))
    made = draw(Prediction(Path("x.png"), image, labels=(("a very long name " * 9, 0.75), ("b", 0.25))))
    assert made.width == 50 * 12
    assert min(made.width, 40 * 12) >= LEAST_SIDE
    pixels = np.asarray(made)
    assert (pixels[: 40 * 12] == (200, 0, 0)).all()
    bars = (pixels[40 * 12 :] == colour_of(0)).all(axis=2).sum(axis=1)
    full = made.width - 2 * max(15, made.width // 34)
    assert sorted({int(v) for v in bars if v})[-1] == pytest.approx(0.75 * full, abs=2)
    assert len({colour_of(i) for i in range(91)}) > 80


def test_the_command_writes_images_and_values(picture: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "more").mkdir()
    Image.open(picture).save(tmp_path / "more" / "noise.jpg")
    done = CliRunner().invoke(
        app,
        [
            "predict",
            str(trained),
            str(picture),
            str(tmp_path / "more"),
            "--out",
            str(out),
            "--least-score",
            "0",
            "--device",
            "cpu",
        ],
    )
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} == {"noise.png", "noise_2.png", "predictions.json"}
    values = json.loads((out / "predictions.json").read_text())
    assert [row["drawn"] for row in values] == ["noise.png", "noise_2.png"]
    assert len(values[0]["objects"]) == 5
    from pycocotools import mask as coder

    mask = next(iter(predict(str(trained), [picture], least_score=0.0, device="cpu"))).objects[0].mask  # type: ignore
    assert np.array_equal(coder.decode(values[0]["objects"][0]["mask"]), mask)
    few = CliRunner().invoke(
        app, ["predict", str(trained), str(picture), "--out", str(out), "--least-score", "0.999", "--device", "cpu"]
    )
    assert "nothing of 100% or more; the surest is" in few.output
    assert "Drawn: 2 images" in done.output


def test_every_image_of_a_folder_is_drawn_and_the_values_are_written_when_one_is_broken(
    trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(70):
        Image.new("RGB", (32, 32)).save(folder / f"{i:02}.png")
    assert len(image_files([folder], most=None)) == 70
    (folder / "03.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"03\.png cannot be read: no image that PIL knows"):
        list(write_predictions(predict(str(trained), [folder], device="cpu"), tmp_path / "out"))
    values = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["drawn"] for row in values] == ["00.png", "01.png", "02.png"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"images": ["gone.jpg"]}, DataError, "There is no image 'gone.jpg'"),
        ({"top": 0}, SettingsError, "--top is 0"),
        ({"least_score": 1.0}, SettingsError, "--least-score is 1.0"),
        ({"what": "maskrcnn_resnet50"}, WeightsError, "Nobody has published weights of maskrcnn_resnet50"),
        ({"what": "nowhere/run"}, UnknownNameError, "There is no file or folder 'nowhere/run'"),
    ],
)
def test_wrong_arguments_are_reported(
    picture: Path, trained: Path, arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    settings = {"what": str(trained), "images": [picture], **arguments}
    with pytest.raises(error, match=words):
        list(predict(**settings))  # type: ignore[arg-type]


def test_labels_of_several_lines_are_drawn_on_one(picture: Path) -> None:
    from bsszoo.predict import Prediction, draw

    with Image.open(picture) as image:
        prediction = Prediction(picture, image.convert("RGB"), labels=(("a\nb\r\nc", 0.7), ("d", 0.3)))
    assert draw(prediction).size[0] % prediction.image.size[0] == 0  # small images are drawn larger
