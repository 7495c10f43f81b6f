"""``config.json`` beside saved weights, as timm writes it: what it says about the network and its input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg

from bsszoo.codes.code import Code
from bsszoo.codes.named import named_entries
from bsszoo.errors import CodeError, WeightsError

#: The part of a config.json that is bsszoo's own; timm leaves it alone.
OWN = "bsszoo"
# Where the weights lie is known already, and the architecture is ours to say.
_NOT_TAKEN = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "custom_load",
              "first_conv", "classifier")


def config_from(path: Path, code: Code, label: str) -> dict[str, Any]:
    """The entries of timm's ``default_cfg`` in a ``config.json``: input size, normalisation, classes, labels.

    Raises:
        WeightsError: The file is broken, or says that the weights are of another code.
    """
    data = _read(path, label)
    config = {**data.get("pretrained_cfg", {})}
    saved = _saved_code(data)
    if saved is not None and not same_network(saved, code):
        raise WeightsError(f"{label} holds the weights of {saved}, not of {code}. Build the code that they were "
                           "trained for, or pass other weights.")
    config |= {key: data[key] for key in ("num_classes", "label_names", "label_descriptions") if key in data}
    allowed = {f.name for f in fields(PretrainedCfg)} - set(_NOT_TAKEN)
    return {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key in allowed}


def sizes_in(path: Path, label: str) -> tuple[int, int]:
    """The classes and the input channels that a ``config.json`` names; 1000 and 3 where it names none."""
    data = _read(path, label)
    size = data.get("pretrained_cfg", {}).get("input_size")
    channels = size[0] if isinstance(size, list) and len(size) == 3 else 3
    classes = data.get("num_classes", 1000)
    if not all(isinstance(number, int) and number >= 0 for number in (classes, channels)):
        raise WeightsError(f"The config.json of {label} is broken: num_classes is {classes!r}, input_size {size!r}.")
    return classes, channels


def checksum_in(path: Path, label: str) -> str | None:
    """The SHA-256 of the weights that ``bsszoo push`` wrote into a ``config.json``; None where nobody wrote one."""
    own = _read(path, label).get(OWN)
    found = own.get("sha256") if isinstance(own, Mapping) else None
    return found if isinstance(found, str) else None


def code_in(path: Path, label: str) -> Code:
    """The code that a ``config.json`` names, at the image size that it names.

    Raises:
        WeightsError: The file is broken, names no code, or an impossible one.
    """
    data = _read(path, label)
    try:
        saved = _saved_code(data, strict=True)
    except CodeError as error:
        raise WeightsError(f"The config.json of {label} names an impossible code: {error}") from error
    own = data.get(OWN)
    if isinstance(own, Mapping) and "detector" in own:
        raise WeightsError(f"{label} holds a detector, {own['detector']}, and this takes classifiers. bsszoo.create, "
                           "`bsszoo validate` and `bsszoo predict` take it from its training's folder.")
    if saved is None:
        raise WeightsError(f"The config.json of {label} names no block stacking style code (architecture "
                           f"{data.get('architecture')!r}): it is of another library's network. timm.create_model("
                           f"{label!r}) may know it.")
    size = data.get("pretrained_cfg", {}).get("input_size")
    square = isinstance(size, list) and len(size) == 3 and size[1] == size[2] and isinstance(size[1], int)
    return replace(saved, image_size=size[1]) if square else saved


def _read(path: Path, label: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data.get("pretrained_cfg", {}), dict):
            raise ValueError("it is no configuration of timm's")
    except (ValueError, OSError) as error:
        raise WeightsError(f"The config.json of {label} is broken: {error}. Write it anew with "
                           "timm.models.save_for_hf, or pass the weights file alone.") from error
    return data


def same_network(one: Code, other: Code) -> bool:
    """True when two codes have the same weights: they may differ in the image size only."""
    return replace(one, image_size=other.image_size) == other


def _saved_code(data: Mapping[str, Any], *, strict: bool = False) -> Code | None:
    """The code that the file names, or None: other networks with fitting tensors are allowed (torchvision's, ours)."""
    arguments, own = data.get("model_args"), data.get(OWN)
    saved = arguments.get("code") if isinstance(arguments, Mapping) else None
    if saved is None and isinstance(own, Mapping):
        # Networks that timm builds by itself keep their code apart from the arguments that timm takes.
        saved = own.get("code")
    try:
        if isinstance(saved, str):
            return Code.parse(saved)
        if isinstance(saved, Mapping):
            return Code.from_dict(saved)
    except CodeError:
        if strict:
            raise
        return None
    if isinstance(arguments, Mapping) and {"layers", "channels", "block_args"} & arguments.keys():
        return None  # a network that differs from the one that its architecture's name means
    by_architecture = {entry.architecture: entry.code for entry in named_entries().values()}
    return by_architecture.get(str(data.get("architecture")))
