"""``predict``: what a network, classifier or detector, says of some pictures, drawn and as values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from bsszoo.detection.evaluation import MASK_THRESHOLD, runs_of
from bsszoo.detection.labels import Labels
from bsszoo.detection.opening import Opened, is_detection, open_detector
from bsszoo.detection.samples import to_float
from bsszoo.errors import SettingsError
from bsszoo.images import MODES, converted, image_files, read_image
from bsszoo.models.create import create
from bsszoo.models.detectors import TORCHVISION
from bsszoo.models.pictures import input_config
from bsszoo.train.devices import device_of

#: Least score of a detection that is drawn, and most labels of a classifier.
LEAST_SCORE: Final = 0.5
TOP: Final = 5


@dataclass(frozen=True, eq=False)
class Found:
    """An object that a detector found: corners of its box [px], label, score, and its pixels [h, w] or None.

    ``number`` is the label's place among the network's outputs.
    """

    box: tuple[float, float, float, float]
    number: int
    label: str
    score: float
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of a picture.

    ``labels`` are a classifier's first ones with their probabilities, ``objects`` what a detector found, the surest
    first; the other one is None.
    """

    file: Path
    image: Image.Image
    labels: tuple[tuple[str, float], ...] | None = None
    objects: tuple[Found, ...] | None = None
    #: Of a detector that found nothing sure enough: the surest (label, score), and the least score asked for.
    missed: tuple[str, float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: boxes as [left, top, right, bottom], masks as COCO's runs, the output's number."""
        out: dict[str, Any] = {"file": str(self.file), "width": self.image.width, "height": self.image.height}
        if self.labels is not None:
            out["labels"] = [{"label": name, "probability": round(p, 6)} for name, p in self.labels]
        if self.objects is not None:
            out["objects"] = [
                {"label": o.label, "output": o.number, "score": round(o.score, 6), "box": [round(v, 2) for v in o.box]}
                | ({} if o.mask is None else {"mask": _runs(o.mask)})
                for o in self.objects
            ]
        return out

    def __str__(self) -> str:
        if self.labels is not None:
            return ", ".join(f"{name} {100 * p:.1f}%" for name, p in self.labels)
        scores: dict[str, list[float]] = {}
        for found in self.objects or ():
            scores.setdefault(found.label, []).append(100 * found.score)
        said = [
            f"{name} {max(own):.0f}%" if len(own) == 1 else f"{len(own)} x {name} {max(own):.0f}% to {min(own):.0f}%"
            for name, own in scores.items()
        ]
        if not said and self.missed is not None:
            label, best, least = self.missed
            return f"nothing of {100 * least:.0f}% or more; the surest is {label} {100 * best:.0f}% (--least-score)"
        return ", ".join(said) or "nothing found"


def _runs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    coded = runs_of(mask[None])[0]
    return {"size": coded["size"], "counts": coded["counts"].decode("ascii")}


def predict(
    what: str,
    pictures: Sequence[str | Path],
    *,
    weights: str | None = None,
    top: int = TOP,
    least_score: float = LEAST_SCORE,
    device: str | None = None,
) -> Iterator[Prediction]:
    """What a network says of each picture, one after the other.

    Args:
        what: A name, a code's text, ``hf-hub:org/name``, or the folder of a training.
        pictures: Files or folders of pictures.
        weights: Of a name or a code, as ``bsszoo.create`` takes them; of a detector a file, a training's folder or
            ``torchvision``. Published ones, or a training's own, by default.
        top: Labels of a classifier.
        least_score: Least score of an object.
        device: As in ``train``.

    Raises:
        SettingsError: ``top`` or ``least_score`` make no sense, or there is no such folder.
        DataError: There is no such picture, or it cannot be read.
        WeightsError, UnknownNameError, CodeError: As ``bsszoo.create``.
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise SettingsError(f"--top is {top!r}; it takes a whole number from 1.")
    if not 0 <= least_score < 1:
        raise SettingsError(f"--least-score is {least_score!r}; it takes a number from 0 and below 1.")
    files = image_files(pictures, most=None)
    place = device_of(device)
    if is_detection(what):
        opened = open_detector(what, weights)
        labels, model = _labels_of(opened, weights), opened.model.to(place).eval()
        return (_objects(model, labels, file, least_score, place) for file in files)
    network = create(what, pretrained=weights or True).eval().to(place)
    return _classified(network, files, top, place)


@torch.inference_mode()
def _objects(model: nn.Module, labels: Labels, file: Path, least: float, place: torch.device) -> Prediction:
    image = converted(read_image(file), "RGB", str(file))
    pixels = torch.from_numpy(np.array(image).transpose(2, 0, 1))
    output = {name: value.cpu() for name, value in model([to_float(pixels, place)])[0].items()}
    masks = output.get("masks")
    found = []
    for i, (box, label, score) in enumerate(
        zip(output["boxes"].tolist(), output["labels"].tolist(), output["scores"].tolist(), strict=True)
    ):
        if score >= least:
            mask = None if masks is None else (masks[i, 0] > MASK_THRESHOLD).numpy()
            found.append(Found((box[0], box[1], box[2], box[3]), label, labels.names[label], score, mask))
    missed = None
    if not found and len(output["scores"]):
        first = int(output["scores"].argmax())
        missed = labels.names[int(output["labels"][first])], float(output["scores"][first]), least
    return Prediction(file, image, objects=tuple(found), missed=missed)


def _labels_of(opened: Opened, weights: str | None) -> Labels:
    if opened.labels is not None:
        return opened.labels
    classes = opened.detector.num_classes
    names = _torchvision_names() if weights == TORCHVISION else tuple(f"class {i}" for i in range(classes))
    return Labels(tuple(range(classes)), names)


def _torchvision_names() -> tuple[str, ...]:
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    return tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def _classified(network: Any, files: Sequence[Path], top: int, place: torch.device) -> Iterator[Prediction]:
    from timm.data import create_transform

    config = input_config(network)
    transform = create_transform(**config, is_training=False)
    names = label_names(network)
    mode = MODES.get(network.in_chans)
    if mode is None:
        raise SettingsError(f"The network takes {network.in_chans} channels, and pictures have 1, 3 or 4.")
    for file in files:
        image = read_image(file)
        with torch.inference_mode():
            chances = network(transform(converted(image, mode, str(file)))[None].to(place))[0].float().softmax(0).cpu()
        best = chances.topk(min(top, len(chances)))
        said = tuple((names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True))
        yield Prediction(file, converted(image, "RGB", str(file)), labels=said)


def label_names(network: Any) -> tuple[str, ...]:
    """What the outputs of a classifier stand for: the names that came with its weights, ImageNet's, or numbers."""
    classes = int(network.num_classes)
    config = network.pretrained_cfg or {}
    given = config.get("label_names")
    if given and len(given) == classes:
        return tuple(map(str, given))
    if classes == 1000:
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return tuple(info.index_to_description(i) for i in range(classes))
    return tuple(f"class {i}" for i in range(classes))
