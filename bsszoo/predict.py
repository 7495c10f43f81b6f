"""``predict``: the outputs of a classifier or detector for images, drawn and as values."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from bsszoo.errors import RunError, SettingsError
from bsszoo.files import whole_file, write_whole
from bsszoo.images import MODES, converted, image_files, read_image
from bsszoo.models.build import input_config
from bsszoo.models.create import create
from bsszoo.models.names import TORCHVISION
from bsszoo.models.resolve import resolve
from bsszoo.train.detection.evaluation import MASK_THRESHOLD, runs_of
from bsszoo.train.detection.labels import Labels
from bsszoo.train.detection.opening import Opened, open_detector
from bsszoo.train.detection.samples import to_float
from bsszoo.train.devices import device_of

#: Least score of a detection that is drawn, and most labels of a classifier.
LEAST_SCORE: Final = 0.5
TOP: Final = 5


@dataclass(frozen=True, eq=False)
class DetectedObject:
    """An object in an image: corners of its box [px], label, score, and its pixels [h, w] or None.

    ``index`` is the label's index among the network's outputs.
    """

    box: tuple[float, float, float, float]
    index: int
    label: str
    score: float
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Prediction:
    """The output of a network for an image.

    ``labels`` are a classifier's most probable ones with their probabilities, ``objects`` a detector's, best score
    first; the other is None.
    """

    file: Path
    image: Image.Image
    labels: tuple[tuple[str, float], ...] | None = None
    objects: tuple[DetectedObject, ...] | None = None
    #: Of a detector without an object of the least score: (label, score) of the best one, and the least score.
    missed: tuple[str, float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: boxes as [left, top, right, bottom], masks as COCO's runs, the output's index."""
        out: dict[str, Any] = {"file": str(self.file), "width": self.image.width, "height": self.image.height}
        if self.labels is not None:
            out["labels"] = [{"label": name, "probability": round(p, 6)} for name, p in self.labels]
        if self.objects is not None:
            out["objects"] = [
                {"label": o.label, "output": o.index, "score": round(o.score, 6), "box": [round(v, 2) for v in o.box]}
                | ({} if o.mask is None else {"mask": _runs(o.mask)})
                for o in self.objects
            ]
        return out

    def __str__(self) -> str:
        if self.labels is not None:
            return ", ".join(f"{name} {100 * p:.1f}%" for name, p in self.labels)
        scores: dict[str, list[float]] = {}
        for detected in self.objects or ():
            scores.setdefault(detected.label, []).append(100 * detected.score)
        parts = [
            f"{name} {max(s):.0f}%" if len(s) == 1 else f"{len(s)} x {name} {max(s):.0f}% to {min(s):.0f}%"
            for name, s in scores.items()
        ]
        if not parts and self.missed is not None:
            label, best, least = self.missed
            return f"nothing of {100 * least:.0f}% or more; the surest is {label} {100 * best:.0f}% (--least-score)"
        return ", ".join(parts) or "no objects"


def _runs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    coded = runs_of(mask[None])[0]
    return {"size": coded["size"], "counts": coded["counts"].decode("ascii")}


def predict(
    what: str,
    images: Sequence[str | Path],
    *,
    weights: str | None = None,
    top: int = TOP,
    least_score: float = LEAST_SCORE,
    device: str | None = None,
) -> Iterator[Prediction]:
    """The output of a network for each image, one after the other.

    Args:
        what: A name, a code's text, ``hf-hub:org/name``, or the folder of a training.
        images: Files or folders of images.
        weights: Of a name or a code, as ``bsszoo.create`` takes them; of a detector a file, a training's folder or
            ``torchvision``. By default the published ones, or the training's.
        top: Labels of a classifier.
        least_score: Least score of an object.
        device: As in ``train``.

    Raises:
        SettingsError: ``top`` or ``least_score`` is out of range, or there is no such folder.
        DataError: An image does not exist or cannot be read.
        WeightsError, UnknownNameError, CodeError: As ``bsszoo.create``.
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise SettingsError(f"--top is {top!r}; it takes a whole number from 1.")
    if not 0 <= least_score < 1:
        raise SettingsError(f"--least-score is {least_score!r}; it takes a number from 0 and below 1.")
    files = image_files(images, most=None)
    torch_device = device_of(device)
    if resolve(what).detector is not None:
        opened = open_detector(what, weights)
        labels, model = _labels_of(opened, weights), opened.model.to(torch_device).eval()
        return (_objects(model, labels, file, least_score, torch_device) for file in files)
    network = create(what, pretrained=weights or True).eval().to(torch_device)
    return _classified(network, files, top, torch_device)


@torch.inference_mode()
def _objects(model: nn.Module, labels: Labels, file: Path, least: float, device: torch.device) -> Prediction:
    image = converted(read_image(file), "RGB", str(file))
    pixels = torch.from_numpy(np.array(image).transpose(2, 0, 1))
    output = {name: value.cpu() for name, value in model([to_float(pixels, device)])[0].items()}
    masks = output.get("masks")
    objects = []
    for i, (box, label, score) in enumerate(
        zip(output["boxes"].tolist(), output["labels"].tolist(), output["scores"].tolist(), strict=True)
    ):
        if score >= least:
            mask = None if masks is None else (masks[i, 0] > MASK_THRESHOLD).numpy()
            objects.append(DetectedObject((box[0], box[1], box[2], box[3]), label, labels.names[label], score, mask))
    missed = None
    if not objects and len(output["scores"]):
        first = int(output["scores"].argmax())
        missed = labels.names[int(output["labels"][first])], float(output["scores"][first]), least
    return Prediction(file, image, objects=tuple(objects), missed=missed)


def _labels_of(opened: Opened, weights: str | None) -> Labels:
    if opened.labels is not None:
        return opened.labels
    classes = opened.detector.num_classes
    names = _torchvision_names() if weights == TORCHVISION else tuple(f"class {i}" for i in range(classes))
    return Labels(tuple(range(classes)), names)


def _torchvision_names() -> tuple[str, ...]:
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    return tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def _classified(network: Any, files: Sequence[Path], top: int, device: torch.device) -> Iterator[Prediction]:
    from timm.data import create_transform

    config = input_config(network)
    transform = create_transform(**config, is_training=False)
    names = label_names(network)
    mode = MODES.get(network.in_chans)
    if mode is None:
        raise SettingsError(f"The network takes {network.in_chans} channels, and images have 1, 3 or 4.")
    for file in files:
        image = read_image(file)
        with torch.inference_mode():
            chances = network(transform(converted(image, mode, str(file)))[None].to(device))[0].float().softmax(0).cpu()
        best = chances.topk(min(top, len(chances)))
        labels = tuple((names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True))
        yield Prediction(file, converted(image, "RGB", str(file)), labels=labels)


def label_names(network: Any) -> tuple[str, ...]:
    """The names of a classifier's outputs: those that came with its weights, ImageNet's, or numbers."""
    classes = int(network.num_classes)
    config = network.pretrained_cfg or {}
    names = config.get("label_names")
    if names and len(names) == classes:
        return tuple(map(str, names))
    if classes == 1000:
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return tuple(info.index_to_description(i) for i in range(classes))
    return tuple(f"class {i}" for i in range(classes))


# A prediction drawn on its image: boxes, masks and labels, or the bars of the first labels below it


Colour = tuple[int, int, int]
#: Images with a shorter side below it are enlarged, so that text on them can be read [px].
LEAST_SIDE: Final = 480
_MASK: Final = 0.45  # share of the colour over an object
_GOLDEN: Final = 0.6180339887498949
_INK: Final = (20, 22, 26)
_PAPER: Final = (255, 255, 255)


def draw(prediction: Prediction) -> Image.Image:
    """The image with its prediction drawn on it."""
    scale = max(1, -(-LEAST_SIDE // min(prediction.image.size)))
    size = (prediction.image.width * scale, prediction.image.height * scale)
    image = prediction.image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.NEAREST)
    if prediction.objects is not None:
        return _with_objects(image, prediction.objects, scale)
    return _with_labels(image, prediction.labels or ())


def colour_of(index: int) -> Colour:
    """The colour of a label by its index, the same in every image; neighbouring indices have hues far apart."""
    r, g, b = colorsys.hls_to_rgb((0.58 + index * _GOLDEN) % 1, 0.42, 0.8)
    return round(255 * r), round(255 * g), round(255 * b)


def _with_objects(image: Image.Image, objects: tuple[DetectedObject, ...], scale: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32).copy()
    for detected in reversed(objects):  # the surest on top
        if detected.mask is not None:
            covered = detected.mask.repeat(scale, axis=0).repeat(scale, axis=1)
            pixels[covered] = (1 - _MASK) * pixels[covered] + _MASK * np.array(colour_of(detected.index))
    made = Image.fromarray(pixels.round().astype(np.uint8))
    pen = ImageDraw.Draw(made)
    line = max(2, min(made.size) // 240)
    font = _font(max(13, min(made.size) // 36))
    for detected in reversed(objects):
        pen.rectangle([v * scale for v in detected.box], outline=colour_of(detected.index), width=line)
    for detected in reversed(objects):
        _tag(pen, detected, scale, font, made.size)
    return made


def _tag(
    pen: ImageDraw.ImageDraw, detected: DetectedObject, scale: int, font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> None:
    text = f"{detected.label} {100 * detected.score:.0f}%"
    text = " ".join(text.split())  # on one line
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 8, bottom - top + 6
    # Above the box, or in it where there is no room; always inside the image.
    x = min(max(detected.box[0] * scale, 0), max(size[0] - wide, 0))
    y = detected.box[1] * scale - high
    y = y if y >= 0 else detected.box[1] * scale
    pen.rectangle([x, y, x + wide, y + high], fill=colour_of(detected.index))
    pen.text((x + 4 - left, y + 3 - top), text, fill=_PAPER, font=font)


def _with_labels(image: Image.Image, labels: tuple[tuple[str, float], ...]) -> Image.Image:
    size = max(15, image.width // 34)
    font, row = _font(size), size * 2
    made = Image.new("RGB", (image.width, image.height + row * len(labels) + size), _PAPER)
    made.paste(image)
    pen = ImageDraw.Draw(made)
    for number, (name, chance) in enumerate(labels):
        y = image.height + size // 2 + number * row
        share = f"{100 * chance:.1f}%"
        room = image.width - 3 * size - pen.textlength(share, font=font)
        pen.text((size, y), _shortened(name, room, pen, font), fill=_INK, font=font)
        pen.text((image.width - size - pen.textlength(share, font=font), y), share, fill=_INK, font=font)
        full = image.width - 2 * size
        bar = y + round(size * 1.4)
        pen.rectangle([size, bar, size + full, bar + size // 5], fill=(226, 229, 234))
        if chance * full >= 1:
            pen.rectangle([size, bar, size + chance * full, bar + size // 5], fill=colour_of(0))
    return made


def _shortened(text: str, room: float, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    text = " ".join(text.split())  # on one line
    while len(text) > 1 and pen.textlength(text, font=font) > room:
        text = text.rstrip("…")[:-1] + "…"
    return text


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib carries one with the letters of most languages.
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


# Predictions as files: a PNG for each image, and all of them as values


#: The values of all predictions, beside their images.
VALUES: Final = "predictions.json"


def write_predictions(predictions: Iterable[Prediction], out: Path) -> Iterator[Prediction]:
    """Draw each prediction into a folder and yield it; at the end write the values of all.

    Images of the same name become ``NAME.png``, ``NAME_2.png``, .. Files of an earlier call are replaced.

    Raises:
        RunError: The folder cannot be written.
    """
    values = []
    names: set[str] = set()
    try:
        for prediction in predictions:
            out.mkdir(parents=True, exist_ok=True)
            name = next(
                n
                for i in range(len(names) + 1)
                if (n := f"{prediction.file.stem}{f'_{i + 1}' if i else ''}.png") not in names
            )
            names.add(name)
            with whole_file(out / name) as scratch:
                draw(prediction).save(scratch, format="PNG")
            values.append(prediction.to_dict() | {"drawn": name})
            yield prediction
    except OSError as error:
        raise RunError(
            f"The folder {out} cannot be written: {error.strerror or error}. Give another with --out."
        ) from None
    finally:
        # Also where a later image could not be read, or on Ctrl-C.
        if values:
            write_whole(out / VALUES, json.dumps(values, indent=2) + "\n")
