"""``open_detector``: a detector with its weights, labels and recipe, from a training's folder or a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from bsszoo.codes.detector import Detector
from bsszoo.errors import SettingsError, UnknownNameError, WeightsError
from bsszoo.models.detector import CONFIG, SavedDetector, create_detector, saved_detector
from bsszoo.models.names import LOCAL, TORCHVISION, TORCHVISION_CLASSES
from bsszoo.models.resolve import resolve
from bsszoo.models.weights import check_recorded
from bsszoo.train.checkpoint import RECIPE, WEIGHTS
from bsszoo.train.classification.recipe import read_tree_of
from bsszoo.train.detection.labels import NOTHING, Labels
from bsszoo.train.detection.recipe import DetectionRecipe


@dataclass(frozen=True, eq=False)
class Opened:
    """A detector with its weights. ``labels`` and ``recipe`` are None where nothing says which they are."""

    detector: Detector
    model: nn.Module
    labels: Labels | None
    recipe: DetectionRecipe | None


def open_detector(what: str | Path, weights: str | None) -> Opened:
    """The detector that a value stands for.

    Args:
        what: Whatever ``bsszoo.models.resolve`` takes for a detector: its name, or the folder of a training.
        weights: Of a name: a training's folder, a weights file, or ``torchvision``. A file beside a ``config.json`` (a
            training's ``best.safetensors``) is run as that says.

    Raises:
        SettingsError: The folder holds no finished training.
        UnknownNameError, CodeError: There is no such detector.
        WeightsError: A name without weights, or weights of another detector.
    """
    network = resolve(what)
    detector = network.detector
    if detector is None:
        raise UnknownNameError(f"{str(what)!r} names no detector; names are maskrcnn_.. and retinanet_.., then a code.")
    if network.source is not None:
        folder = Path(network.source.removeprefix(LOCAL)).expanduser()
        trained = saved_detector(folder)
        if trained is None or not (folder / WEIGHTS).is_file():
            raise SettingsError(
                f"The training in {folder} is not finished; the same `bsszoo train` command resumes it."
            )
        return _from_folder(trained, folder, folder / WEIGHTS)
    if weights is None:
        raise WeightsError(
            f"Nobody has published weights of {what}. Give a file, a training's folder or torchvision with --weights."
        )
    if weights == TORCHVISION:
        theirs = replace(detector, num_classes=TORCHVISION_CLASSES)
        return Opened(theirs, create_detector(detector, pretrained=weights), _torchvision_labels(), None)
    path = Path(weights.removeprefix(LOCAL)).expanduser()
    beside = path if path.is_dir() else path.parent
    saved = saved_detector(beside)
    if saved is None or not path.exists():
        return Opened(detector, create_detector(detector, pretrained=weights), None, None)
    _check_same(saved, detector, weights)
    return _from_folder(saved, beside, path / WEIGHTS if path.is_dir() else path)


def _torchvision_labels() -> Labels:
    """COCO's categories as the outputs of torchvision's weights: each is at the index of its id."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    none = ("__background__", "N/A")
    return Labels(
        tuple(None if name in none else i for i, name in enumerate(names)),
        tuple(NOTHING if name in none else name for name in names),
    )


def _from_folder(saved: SavedDetector, folder: Path, file: Path) -> Opened:
    if file.name == WEIGHTS and file.is_file():
        check_recorded(file, folder / CONFIG, str(folder))
    model = create_detector(f"{LOCAL}{folder}", pretrained=str(file))
    return Opened(saved.detector, model, Labels.from_dict(saved.labels), _recipe_in(folder))


def _check_same(saved: SavedDetector, named: Detector, weights: str) -> None:
    one, other = (
        replace(d, num_classes=1, p6_from="c5", backbone=replace(d.backbone, image_size=800))
        for d in (saved.detector, named)
    )
    if one != other:
        raise WeightsError(
            f"{weights} holds the weights of {saved.detector}, not of {named}. Name that detector, or "
            "give the folder alone."
        )


def _recipe_in(folder: Path) -> DetectionRecipe | None:
    try:
        return read_tree_of(DetectionRecipe, folder / RECIPE)
    except (ValueError, KeyError):
        return None
