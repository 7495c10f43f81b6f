"""``config.json`` beside saved weights, as timm writes it: the network, its classes and its input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from timm.models import PretrainedCfg

from bsszoo.codes.code import Code
from bsszoo.codes.named import named_entries
from bsszoo.errors import BssZooError, WeightsError
from bsszoo.texts import one_line, parse_json

#: The section of a config.json that only bsszoo reads; timm ignores it.
SECTION = "bsszoo"
# Sources of weights and the architecture come from the caller; our networks take inputs of any size.
_NOT_TAKEN = (
    "url",
    "file",
    "state_dict",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "architecture",
    "custom_load",
    "first_conv",
    "classifier",
    "fixed_input_size",
)
# Keys that timm writes beside the configuration, and that take precedence over it.
_OUTER: Final = ("num_classes", "label_names", "label_descriptions")
# The largest file that is read: names of 100,000 classes with their descriptions fit in.
_MOST_BYTES: Final = 1 << 24
_MOST_CLASSES, _MOST_CHANNELS, _MOST_SIDE = 1_000_000, 1024, 4096
# Numbers in one input: 3 x 4096 x 4096 and some more, 268 MB.
_MOST_INPUT: Final = 1 << 26


def config_from(path: Path, code: Code, label: str) -> dict[str, Any]:
    """The entries of timm's ``default_cfg`` in a ``config.json``: input size, normalisation, classes, labels.

    Raises:
        WeightsError: The file is broken, or says that the weights are of another code.
    """
    data = _read(path, label)
    config = {**data.get("pretrained_cfg", {})}
    saved = _saved_code(data)
    if saved is not None and not same_network(saved, code):
        raise WeightsError(
            f"{label} holds the weights of {saved}, not of {code}. Build the code that they were "
            "trained for, or pass other weights."
        )
    config |= {key: data[key] for key in _OUTER if key in data}
    allowed = {f.name for f in fields(PretrainedCfg)} - set(_NOT_TAKEN)
    return {
        key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key in allowed and v is not None
    }


def sizes_in(path: Path, label: str) -> tuple[int, int]:
    """The classes and the input channels that a ``config.json`` names; 1000 and 3 where it names none."""
    data = _read(path, label)
    size = data.get("pretrained_cfg", {}).get("input_size")
    classes = data.get("num_classes")
    return 1000 if classes is None else int(classes), 3 if size is None else int(size[0])


def checksum_in(path: Path, label: str) -> str | None:
    """The SHA-256 of the weights that ``bsszoo push`` wrote into a ``config.json``; None without."""
    section = _read(path, label).get(SECTION)
    checksum = section.get("sha256") if isinstance(section, Mapping) else None
    return checksum if isinstance(checksum, str) else None


def code_in(path: Path, label: str) -> Code:
    """The code that a ``config.json`` names, at the image size that it names.

    Raises:
        WeightsError: The file is broken, names no code, or an impossible one.
    """
    data = _read(path, label)
    try:
        saved = _saved_code(data, strict=True)
        section = data.get(SECTION)
        if isinstance(section, Mapping) and "detector" in section:
            raise WeightsError(
                f"{label} holds a detector, {one_line(section['detector'])}, and this takes classifiers. "
                "bsszoo.create, `bsszoo validate` and `bsszoo predict` take it from its training's "
                "folder."
            )
        if saved is None:
            raise WeightsError(
                f"The config.json of {label} names no block stacking style code (architecture "
                f"{one_line(data.get('architecture'))!r}): it is of another library's network. "
                f"timm.create_model({label!r}) may know it."
            )
        size = data.get("pretrained_cfg", {}).get("input_size")
        return replace(saved, image_size=size[1]) if size is not None and size[1] == size[2] else saved
    except WeightsError:
        raise
    except BssZooError as error:
        raise WeightsError(f"The config.json of {label} names an impossible code: {one_line(error, 400)}") from error


def _read(path: Path, label: str) -> dict[str, Any]:
    """The content of a ``config.json``, with its values checked to be of the right kinds."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, and at most {_MOST_BYTES:,} are read")
        data = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data.get("pretrained_cfg", {}), dict):
            raise ValueError("it is no configuration of timm's")
        _check(data.get("pretrained_cfg", {}))
        outer = {key: data[key] for key in _OUTER if key in data}
        _check(outer)
        merged = {**data.get("pretrained_cfg", {}), **outer}
        names, classes = merged.get("label_names"), merged.get("num_classes")
        if names is not None and classes is not None and len(names) != classes:
            raise ValueError(f"it has {len(names):,} label_names for {classes:,} classes")
    except (ValueError, OSError) as error:
        raise WeightsError(
            f"The config.json of {label} is broken: {one_line(error)}. Rewrite it with "
            "timm.models.save_for_hf, or pass the weights file alone."
        ) from error
    return data


def _check(config: Mapping[str, Any]) -> None:
    """A ``ValueError`` that names an entry which timm's networks and image transforms do not take."""
    for key, value in config.items():
        fits, wanted = _KINDS.get(key, (_anything, ""))
        if value is not None and not fits(value):
            raise ValueError(f"its {key} is {one_line(repr(value), 80)}, and {wanted} is allowed")


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _is_input(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and _whole(value[0], 1, _MOST_CHANNELS)
        and all(_whole(side, 1, _MOST_SIDE) for side in value[1:])
        and math.prod(value) <= _MOST_INPUT
    )


def _is_pool(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_whole(side, 1, _MOST_SIDE) for side in value)


def _are_channels(value: object) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= _MOST_CHANNELS and all(_number(v, -1e6, 1e6) for v in value)


def _are_deviations(value: object) -> bool:
    return _are_channels(value) and isinstance(value, list) and all(v > 0 for v in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _anything(_: object) -> bool:
    return True


_INPUT: Final = (_is_input, f"three whole numbers (channels to {_MOST_CHANNELS}, sides to {_MOST_SIDE} px)")
_CROP: Final = (lambda value: _number(value, 0.01, 100), "a share of the image")
_TEXT: Final = (lambda value: isinstance(value, str), "a text")
_TEXTS: Final = (lambda value: isinstance(value, str) or _are_texts(value), "a text or a list of texts")
_FLAG: Final = (lambda value: isinstance(value, bool), "true or false")
_KINDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "num_classes": (lambda value: _whole(value, 0, _MOST_CLASSES), f"a whole number from 0 to {_MOST_CLASSES:,}"),
    "label_offset": (lambda value: _whole(value, 0, _MOST_CLASSES), "a whole number from 0"),
    "label_names": (_are_texts, "a list of texts"),
    "label_descriptions": (
        lambda value: isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
        "an object of texts",
    ),
    "input_size": _INPUT,
    "test_input_size": _INPUT,
    "min_input_size": _INPUT,
    "pool_size": (_is_pool, "two whole numbers"),
    "test_pool_size": (_is_pool, "two whole numbers"),
    "mean": (_are_channels, "a list of numbers, one a channel"),
    "std": (_are_deviations, "a list of numbers above 0, one a channel"),
    "crop_pct": _CROP,
    "test_crop_pct": _CROP,
    "interpolation": (
        lambda value: value in ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming", "random"),
        "bilinear, bicubic, nearest, lanczos, box, hamming or random",
    ),
    "crop_mode": (lambda value: value in ("center", "squash", "border"), "center, squash or border"),
    "fixed_input_size": _FLAG,
    "notes": _TEXTS,
    "tag": _TEXT,
    "license": _TEXT,
    "origin_url": _TEXT,
    "paper_name": _TEXT,
    "paper_ids": _TEXTS,
}


def same_network(one: Code, other: Code) -> bool:
    """True when two codes have the same weights: they may differ in the image size only."""
    return replace(one, image_size=other.image_size) == other


def _saved_code(data: Mapping[str, Any], *, strict: bool = False) -> Code | None:
    """The code that the file names, or None: other networks with fitting tensors are allowed (torchvision's, ours)."""
    arguments, section = data.get("model_args"), data.get(SECTION)
    saved = arguments.get("code") if isinstance(arguments, Mapping) else None
    if saved is None and isinstance(section, Mapping):
        # Networks that timm builds alone have their code outside the arguments that timm takes.
        saved = section.get("code")
    try:
        if isinstance(saved, str):
            return Code.parse(saved)
        if isinstance(saved, Mapping):
            return Code.from_dict(saved)
    except BssZooError:
        if strict:
            raise
        return None
    if isinstance(arguments, Mapping) and {"layers", "channels", "block_args"} & arguments.keys():
        return None  # a network that differs from the one that its architecture's name means
    by_architecture = {entry.architecture: entry.code for entry in named_entries().values()}
    return by_architecture.get(str(data.get("architecture")))
