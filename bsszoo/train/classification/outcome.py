"""The network of a recipe before its training, and the files that are written of it afterwards."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from timm.models._hub import save_config_for_hf
from torch import nn

from bsszoo.codes.cost import code_cost
from bsszoo.models.create import create
from bsszoo.models.names import resolve_code
from bsszoo.models.saved_config import SECTION
from bsszoo.train.checkpoint import WEIGHTS, EpochRow, Folder, best_of
from bsszoo.train.classification.data import ImageSplit, Split, class_names
from bsszoo.train.classification.evaluation import Accuracy
from bsszoo.train.classification.recipe import EmaPart, Recipe, RunPart
from bsszoo.train.devices import Process
from bsszoo.version import __version__


def start_network(recipe: Recipe, *, fresh: bool) -> nn.Module:
    """The recipe's network on the CPU; with the weights that training starts from where it is ``fresh``."""
    part = recipe.model
    network: Any = create(
        part.name,
        num_classes=part.num_classes,
        in_chans=part.in_chans,
        drop_rate=part.drop_rate,
        drop_path_rate=part.drop_path_rate,
        pretrained=(part.pretrained or False) if fresh else False,
    )
    if fresh and part.pretrained is None:
        with torch.no_grad():
            network.get_classifier().weight.mul_(part.head_init_scale)
    made: nn.Module = network
    return made


def data_fingerprint(recipe: Recipe, splits: tuple[Split, Split]) -> str:
    """The sizes of the splits, and a fingerprint (SHA-256) of the labels, indices and classes of each."""
    # Compared with the text in checkpoints, those of earlier versions too.
    parts = [f"{len(splits[0])} + {len(splits[1])} pictures"]
    for split in splits:
        if isinstance(split, ImageSplit):
            classes = list(split.source.classes or [])
            fingerprint = hashlib.sha256(
                split.labels.tobytes() + split.indices.tobytes() + repr(classes).encode()
            ).hexdigest()
            parts.append(fingerprint[:12])
    return " ".join([recipe.data.dataset, *parts])


def conclude(
    recipe: Recipe,
    network: nn.Module,
    folder: Folder,
    rows: Sequence[EpochRow],
    splits: tuple[Split, Split],
    process: Process,
    tested: Accuracy | None = None,
    *,
    test: Split | None = None,
    trained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the trained network as timm's folder and ``summary.json``, which is returned.

    Args:
        recipe: The recipe.
        network: The network that was validated last.
        folder: The training's folder.
        rows: The epochs.
        splits: The training and the validation images.
        process: The process that trained it, one of all.
        tested: The accuracy on the recipe's test split, where it has one.
        test: That split.
        trained: The summary's entries on trained networks: whose weights were inherited, and who taught.
    """
    checksum = folder.save_weights(WEIGHTS, network.state_dict())
    write_config(recipe, network, folder, splits[0], checksum)
    code = resolve_code(recipe.model.name)
    cost = code_cost(code, recipe.data.image_size, num_classes=recipe.model.num_classes, in_chans=recipe.model.in_chans)
    last, best = rows[-1], best_of(rows)
    data = recipe.data
    summary = {
        "model": recipe.model.name,
        "code": str(code),
        "image_size": data.image_size,
        "num_classes": recipe.model.num_classes,
        "macs": cost.macs,
        "params": cost.params,
        "top1": last.top1,
        "top5": last.top5,
        "val_loss": last.val_loss,
        "train_loss": last.train_loss,
        "best_top1": best.top1,
        "best_epoch": best.epoch,
        "epochs": last.epoch,
        "weights": describe_weights(recipe.ema),
        "dataset": data.dataset,
        "train_pictures": len(splits[0]),
        "val_pictures": len(splits[1]),
        "validated_on": splits[1].split,
        **(
            {}
            if tested is None or test is None
            else {
                "test_top1": tested.top1,
                "test_top5": tested.top5,
                "test_loss": tested.loss,
                "test_pictures": tested.images,
                "tested_on": test.split,
            }
        ),
        **(trained or {}),
        **how_trained(recipe.run, process, seconds=sum(r.seconds for r in rows), packages=("timm",)),
        "images_per_s": round(last.images_per_s, 1),
        "last_epoch": asdict(last),
        **of_files(folder, checksum),
    }
    folder.write_summary(summary)
    return summary


def of_files(folder: Folder, checksum: str) -> dict[str, Any]:
    """A summary's entries on the weights' files: their SHA-256, and notes."""
    return {"sha256": checksum, "best_sha256": folder.best, **({"files": folder.notes} if folder.notes else {})}


def write_config(recipe: Recipe, network: Any, folder: Folder, train: Split, checksum: str) -> None:
    """Write ``config.json``: how timm and bsszoo rebuild the network, its input, and its weights' SHA-256."""
    data = recipe.data
    interpolation = "bilinear" if data.interpolation == "random" else data.interpolation
    config: dict[str, Any] = {}
    classes = class_names(train)
    if classes is not None:
        # timm reads as many names as there are outputs.
        spare = range(len(classes), recipe.model.num_classes)
        config["label_names"] = [*classes, *(f"class {i}, not trained" for i in spare)]
    # The names of what the weights were trained on before are not of these classes.
    remaining = {k: v for k, v in network.pretrained_cfg.items() if not k.startswith("label_")}
    network.pretrained_cfg = {**remaining, "tag": "", "license": None}
    with folder.writing("config.json") as scratch:
        save_config_for_hf(
            network,
            str(scratch),
            model_config=config,
            data_config={
                "input_size": (recipe.model.in_chans, data.image_size, data.image_size),
                "mean": data.mean,
                "std": data.std,
                "interpolation": interpolation,
                "crop_pct": data.crop_pct,
            },
        )
        made = json.loads(scratch.read_text(encoding="utf-8"))
        made[SECTION] = {**made.get(SECTION, {}), "version": __version__, "sha256": checksum}
        scratch.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def describe_weights(ema: EmaPart) -> str:
    """Which weights are saved at the end."""
    return "moving average" if ema.decay is not None else "last update"


def how_trained(run: RunPart, process: Process, *, seconds: float, packages: Sequence[str]) -> dict[str, Any]:
    """The entries of every training's summary: seed, seconds, device, precision, versions.

    Args:
        run: The recipe's section.
        process: The process that trained it, one of all.
        seconds: Of training and validating.
        packages: What the result depends on besides torch, torchvision and numpy.
    """
    return {
        "seed": run.seed,
        "seconds": round(seconds, 3),
        "device": describe_device(process),
        "processes": process.world,
        "precision": run.precision,
        "versions": {
            "bsszoo": __version__,
            "python": platform.python_version(),
            **{n: version(n) for n in ("torch", "torchvision", *packages, "numpy")},
        },
    }


def describe_device(process: Process) -> str:
    """The device's name on screen."""
    if process.device.type == "cuda":
        return torch.cuda.get_device_name(process.device)
    return (
        f"{process.device.type}, {torch.get_num_threads()} threads"
        if process.device.type == "cpu"
        else (process.device.type)
    )
