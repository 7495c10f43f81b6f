"""The detector of a recipe before its training, and the files that are written of it afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from torch import nn

from bsszoo.codes.detector import Detector, detector_cost
from bsszoo.errors import RecipeError, WeightsError
from bsszoo.models.create import create
from bsszoo.models.detector import CONFIG, create_detector, saved_text
from bsszoo.models.names import TORCHVISION, TORCHVISION_CLASSES
from bsszoo.models.saved_config import SECTION
from bsszoo.train.checkpoint import WEIGHTS, Folder, Kinds, best_of
from bsszoo.train.classification.outcome import describe_weights, how_trained, of_files
from bsszoo.train.detection.data import CocoSplit
from bsszoo.train.detection.evaluation import NONE, DetectionFigures, Precision
from bsszoo.train.detection.labels import Labels
from bsszoo.train.detection.recipe import DetectionRecipe
from bsszoo.train.devices import Process
from bsszoo.train.task import Round


@dataclass(frozen=True, slots=True)
class DetectionRow:
    """One line of ``metrics.csv``: the results of some updates.

    COCO's average precisions in percent, of boxes and of masks: over all IoU, at 0.5, at 0.75, of small, medium and
    large objects; -1 where there is none, as COCO writes it.
    """

    summary_kinds: ClassVar[Kinds] = {
        "model": (str,),
        "validated_on": (str,),
        "box_ap": (int, float),
        "box_ap50": (int, float),
        "mask_ap": (int, float, type(None)),
        "mask_ap50": (int, float, type(None)),
        "weights": (str,),
        "val_pictures": (int,),
        "updates": (int,),
        "seed": (int,),
        "best_update": (int,),
        "best_ap": (int, float),
    }

    validation: int  # from 1
    update: int  # updates done
    lr: float  # of the last update
    train_loss: float  # mean since the validation before
    box_ap: float
    box_ap50: float
    box_ap75: float
    box_small: float
    box_medium: float
    box_large: float
    mask_ap: float
    mask_ap50: float
    mask_ap75: float
    mask_small: float
    mask_medium: float
    mask_large: float
    images_per_s: float  # training only
    seconds: float  # training and validation

    @classmethod
    def of(cls, trained: Round, figures: DetectionFigures) -> DetectionRow:
        """The line of a validation."""
        precisions: dict[str, float] = {}
        for kind, precision in (("box", figures.box), ("mask", figures.mask)):
            for entry in fields(Precision):
                value = None if precision is None else getattr(precision, entry.name)
                precisions[f"{kind}_{entry.name}"] = NONE if value is None else value
        return cls(
            validation=trained.number,
            update=trained.update,
            lr=trained.lr,
            train_loss=trained.train_loss,
            images_per_s=trained.images_per_s,
            seconds=trained.seconds,
            **precisions,
        )

    @property
    def score(self) -> float:
        """Mask AP where there are masks, else box AP [%]."""
        return self.box_ap if self.mask_ap < 0 else self.mask_ap

    def text(self, rounds: int) -> str:
        """The line of a validation."""
        masks = "" if self.mask_ap < 0 else f", mask AP {self.mask_ap:.2f}%, AP50 {self.mask_ap50:.2f}%"
        return (
            f"validation {self.validation}/{rounds}, update {self.update}: train loss {self.train_loss:.4f}, "
            f"box AP {self.box_ap:.2f}%, AP50 {self.box_ap50:.2f}%{masks}, {self.images_per_s:,.3g} images/s"
        )


def detector_of(recipe: DetectionRecipe, labels: Labels) -> Detector:
    """The recipe's detector with the outputs that its data needs, and laid out as the weights that it starts from."""
    theirs = recipe.model.pretrained == TORCHVISION and recipe.detector.kind == "retinanet"
    return replace(recipe.detector, num_classes=labels.classes, p6_from="p5" if theirs else "c5")


def settings_of(recipe: DetectionRecipe) -> dict[str, Any]:
    """The settings of a recipe's detector, as ``create_detector`` takes them."""
    part, data = recipe.model, recipe.data
    common = {
        **({"frozen_eps": 0.0} if part.pretrained == TORCHVISION else {}),
        "min_size": data.image_size,
        "max_size": data.max_size,
        "image_mean": list(data.mean),
        "image_std": list(data.std),
        "anchor_size": part.anchor_size,
    }
    if recipe.detector.kind == "maskrcnn":
        return {
            **common,
            "box_batch_size_per_image": part.proposals,
            "box_detections_per_img": part.detections,
            "box_score_thresh": part.least_score,
        }
    return {**common, "detections_per_img": part.detections, "score_thresh": part.least_score}


def start_detector(recipe: DetectionRecipe, labels: Labels, *, fresh: bool) -> nn.Module:
    """The recipe's detector on the CPU; with the weights that training starts from where it is ``fresh``.

    Raises:
        WeightsError: The weights do not exist or do not fit.
    """
    part = recipe.model
    if part.pretrained == TORCHVISION and labels.classes != TORCHVISION_CLASSES:
        raise RecipeError(
            f"model.pretrained is torchvision, whose weights have {TORCHVISION_CLASSES} outputs, and the "
            f"data needs {labels.classes}: with COCO's ids data.label_by=id and model.num_classes="
            f"{TORCHVISION_CLASSES} go with them."
        )
    model = create_detector(
        detector_of(recipe, labels),
        pretrained=(part.pretrained or False) if fresh else False,
        norm=part.norm,
        **settings_of(recipe),
    )
    if fresh and part.backbone_weights is not None:
        _start_backbone(model, recipe.detector, part.backbone_weights)
    return model


def _start_backbone(model: Any, detector: Detector, weights: str) -> None:
    """Load a classifier's weights into a detector's backbone; the classifier's head is left out."""
    state = create(detector.backbone, pretrained=weights).state_dict()
    body = model.backbone.body
    into = getattr(body, "network", body)
    lost = [k for k in into.state_dict() if k not in state and not k.endswith("num_batches_tracked")]
    if lost:
        raise WeightsError(f"{weights} lacks {lost[0]} of the backbone {detector.backbone}.")
    into.load_state_dict({k: v for k, v in state.items() if k in into.state_dict()}, strict=False)


def data_fingerprint(splits: Sequence[CocoSplit]) -> str:
    """The sizes of the splits, and a fingerprint (SHA-256) of the images and objects of each."""
    # Compared with the text in checkpoints, those of earlier versions too.
    parts = [f"{' + '.join(str(len(split)) for split in splits)} pictures"]
    for split in splits:
        fingerprint = hashlib.sha256(repr(split.categories).encode())
        fingerprint.update(split.indices.tobytes() + split.images.digest())
        parts.append(fingerprint.hexdigest()[:12])
    return " ".join(["coco", *parts])


def conclude_detection(
    recipe: DetectionRecipe,
    network: nn.Module,
    folder: Folder,
    rows: Sequence[DetectionRow],
    labels: Labels,
    splits: tuple[CocoSplit, CocoSplit],
    process: Process,
    tested: DetectionFigures | None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the trained detector as a folder that ``bsszoo.create`` loads, and ``summary.json``, which is returned.

    Args:
        recipe: The recipe.
        network: The detector that was validated last.
        folder: The training's folder.
        rows: The validations.
        labels: Which output stands for which category.
        splits: The training and the validation images.
        process: The process that trained it, one of all.
        tested: The figures on the recipe's test split, where it has one.
        notes: Notes on the images, such as annotations that were left out.
    """
    checksum = folder.save_weights(WEIGHTS, network.state_dict())
    detector = detector_of(recipe, labels)
    config = json.loads(
        saved_text(detector, norm=recipe.model.norm, settings=settings_of(recipe), labels=labels.to_dict())
    )
    config[SECTION]["sha256"] = checksum
    folder.write_text(CONFIG, json.dumps(config, indent=2) + "\n")
    cost = detector_cost(detector, recipe.data.image_size)
    data, last = recipe.data, rows[-1]
    best = best_of(rows)
    summary = {
        "model": recipe.model.name,
        "detector": str(detector),
        "code": str(detector.backbone),
        "image_size": data.image_size,
        "num_classes": labels.classes,
        "macs": cost.macs,
        "params": cost.params,
        "box_ap": last.box_ap,
        "box_ap50": last.box_ap50,
        "mask_ap": None if last.mask_ap < 0 else last.mask_ap,
        "mask_ap50": None if last.mask_ap < 0 else last.mask_ap50,
        "train_loss": last.train_loss,
        "best_ap": best.score,
        "best_update": best.update,
        "updates": last.update,
        "weights": describe_weights(recipe.ema),
        "train_pictures": len(splits[0]),
        "val_pictures": len(splits[1]),
        "validated_on": splits[1].name,
        **({} if tested is None else {"test": tested.to_dict(), "tested_on": tested.split}),
        "notes": list(notes),
        **how_trained(recipe.run, process, seconds=sum(r.seconds for r in rows), packages=("pycocotools",)),
        "images_per_s": round(last.images_per_s, 2),
        "last_validation": asdict(last),
        **of_files(folder, checksum),
    }
    folder.write_summary(summary)
    return summary
