"""Weights from a file into a network: read, checked against the network, loaded strictly."""

from __future__ import annotations

import argparse
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import load_pretrained
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.cost import code_cost
from bsszoo.codes.families import family_of
from bsszoo.errors import WeightsError
from bsszoo.models.build import build
from bsszoo.models.hub_files import first_line, forget
from bsszoo.models.recognise import Recognised, is_scale, recognise, renamed, sizes_in, timm_names
from bsszoo.models.weights import Weights
from bsszoo.texts import one_line

State = Mapping[str, torch.Tensor]

# Buffers of a network, which are no parameters.
_BUFFERS: Final = ("running_mean", "running_var", "num_batches_tracked")
# Parameters by which a network may exceed a file that lacks its last layers: 80 MB, which is no harm to build.
_SLACK: Final = 20_000_000


def read_state(weights: Weights) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by timm's names, whichever of timm, torchvision and bsszoo wrote it.

    Of a checkpoint the averaged weights (EMA) where it has them. An unreadable file is removed from the Hub's cache, so
    that the next call fetches it again.

    Raises:
        WeightsError: It is no safetensors file and no PyTorch file of tensors only, or is cut off.
    """
    try:
        state = _tensors(weights.path)
    except Exception as error:  # whatever the unpickler or safetensors raise on a broken file
        reason = _reason(error)
        again = ""
        if weights.cached:
            forget(weights.path)
            again = " It was removed from the cache: the next call fetches it again."
        raise WeightsError(
            f"Cannot read {weights.label} as weights ({reason}). Allowed are whole safetensors files "
            f"and PyTorch files that hold tensors only (torch.load with weights_only=True).{again}"
        ) from error
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{weights.label} holds no state dict (names with tensors). Save model.state_dict().")
    return _renamed(state)


def _reason(error: Exception) -> str:
    """Why a file cannot be read; the unpickler's own texts advise to run what the file holds."""
    text = str(error).strip()
    if isinstance(error, (OSError, SafetensorError)):
        return (text or type(error).__name__).splitlines()[0]
    if isinstance(error, pickle.UnpicklingError) and (held := re.search(r"GLOBAL ([\w.]+)", text)):
        return f"it holds Python objects, {held[1]}, as torch.save(model) writes them: save model.state_dict()"
    return "it is no PyTorch file, or is damaged"


def _tensors(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    # Training scripts save their options, an argparse.Namespace, beside the tensors.
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(checkpoint, dict):
        for key in ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model"):
            if isinstance(checkpoint.get(key), dict):
                return checkpoint[key]
    return checkpoint


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = timm_names({name: tensor.shape for name, tensor in state.items() if isinstance(name, str)})
    return {
        names[name]: tensor.flatten() if is_scale(name, tensor.shape) else tensor
        for name, tensor in state.items()
        if name in names
    }


def recognise_file(path: Path) -> Recognised:
    """The network whose weights a file holds, read off their shapes; of safetensors off the header alone.

    Raises:
        WeightsError: The file cannot be read, or holds no network of the families.
    """
    label = str(path)
    return recognise(_shapes(path, label), label)


def _shapes(path: Path, label: str) -> dict[str, Sequence[int]]:
    """The shapes of a weights file's tensors by timm's names."""
    if path.suffix == ".safetensors":
        return renamed(_header(path, label))
    return {name: tuple(tensor.shape) for name, tensor in read_state(Weights(path, label)).items()}


def _header(path: Path, label: str) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file by name."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # safetensors' own error, which is a plain Exception
        raise WeightsError(
            f"Cannot read {label} as weights ({first_line(error)}): it is no whole safetensors file."
        ) from error


def check_file(path: Path, code: Code, label: str) -> tuple[int, int]:
    """The classes and input channels of a code's network whose tensors a file holds; 0 for a layer that is not there.

    Positions may be those of another image size, for which ``load`` resamples them.

    Raises:
        WeightsError: It holds others; a safetensors file is judged by its header alone.
    """
    shapes = _shapes(path, label)
    check_count(shapes, code, label)
    state: State = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    classes, channels = sizes_of(state, code)
    expected = build(code, num_classes=classes, in_chans=channels or 3, device="meta").state_dict()
    if family_of(code.family).sized:
        state = {name: _resized(tensor, expected.get(name)) for name, tensor in state.items()}
    check_same(state, expected, expected, set(), label)
    return classes, channels


def check_count(shapes: Mapping[str, Sequence[int]], code: Code, label: str) -> None:
    """A ``WeightsError`` where a code's network is far larger than its weights.

    Counted from the code, before anything is built: widths of thousands beside a small file would otherwise fill the
    memory before the first shape is compared.
    """
    classes, channels = sizes_in(shapes, code)
    stored = sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_BUFFERS))
    expected = code_cost(code, num_classes=classes, in_chans=channels or 3).params
    if expected > 2 * stored + _SLACK or sum(code.depths) > len(shapes):
        raise WeightsError(
            f"{label} holds the weights of another network: {stored:,} parameters in {len(shapes):,} "
            f"tensors, and {code} has {expected:,} in {sum(code.depths):,} blocks. Build the code that "
            "they were trained for."
        )


def sizes_of(state: State, code: Code) -> tuple[int, int]:
    """The classes and input channels that weights of a code were trained with; 0 for a layer that is not there."""
    return sizes_in({name: tensor.shape for name, tensor in state.items()}, code)


def classes_of(weights: Weights, code: Code) -> int:
    """The number of classes that weights were trained for; 0 where they hold no classifier."""
    return sizes_of(read_state(weights), code)[0]


def load(
    model: nn.Module,
    state: State,
    label: str,
    code: Code,
    *,
    num_classes: int,
    in_chans: int,
    features_only: bool = False,
) -> None:
    """Load weights into the network of a code strictly.

    Only two layers may differ, as in timm: the first convolution is adapted to ``in_chans``, and the classifier is
    left freshly initialised when ``num_classes`` is not the checkpoint's. Positions of another image size are
    resampled, as by timm.

    Args:
        model: The network, with the following two arguments.
        state: The tensors by name.
        label: Where they are from, for messages.
        code: The network's code.
        num_classes, in_chans: Outputs of its classifier and channels of its input.
        features_only: Whether it is a features-only network.

    Raises:
        WeightsError: The tensors are not those of the network.
    """
    first_conv, classifier = _ends(code)
    expected = model.state_dict()
    # A features-only network lacks the layers behind the features; a checkpoint may still hold them.
    allowed = build(code, device="meta").state_dict() if features_only else expected
    # Checkpoints older than PyTorch 0.4.1 have no counters; they are used only by momentum=None.
    state = {**{name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}, **state}
    if family_of(code.family).sized:
        state = {name: _resized(tensor, expected.get(name)) for name, tensor in state.items()}
    classes, channels = sizes_of(state, code)
    if classes == 0 and num_classes > 0 and not features_only:
        raise WeightsError(
            f"{label} holds no classifier ({classifier}.weight). Create the network with num_classes=0 "
            f"and call reset_classifier({num_classes}) for a fresh one."
        )
    channels = channels or 3
    if channels not in (3, in_chans):
        raise WeightsError(
            f"{label} takes {channels} input channels; only weights for 3 can be adapted to "
            f"{in_chans}. Create the network with in_chans={channels}."
        )
    free = {f"{first_conv}.weight"} if channels != in_chans else set()
    if classes != num_classes:
        free |= {f"{classifier}.weight", f"{classifier}.bias"}
    check_same(state, expected, allowed, free, label)
    check_values(state, expected, label)
    if features_only:
        state, num_classes = {name: tensor for name, tensor in state.items() if name in expected}, classes
    source = {
        "state_dict": state,
        "num_classes": classes,
        "input_size": (channels, code.image_size, code.image_size),
        "first_conv": first_conv,
        "classifier": classifier,
    }
    load_pretrained(model, pretrained_cfg=source, num_classes=num_classes, in_chans=in_chans, strict=True)


def _resized(tensor: torch.Tensor, wanted: torch.Tensor | None) -> torch.Tensor:
    """Positions [1, n, c] resampled to as many as are wanted, one of which is the class token's; others as they are."""
    if wanted is None or tensor.dim() != 3 or tensor.shape == wanted.shape or tensor.shape[2] != wanted.shape[2]:
        return tensor
    sides = [math.isqrt(max(0, one.shape[1] - 1)) for one in (tensor, wanted)]
    if any(side == 0 or side**2 + 1 != one.shape[1] for side, one in zip(sides, (tensor, wanted), strict=True)):
        return tensor
    resized: torch.Tensor = resample_abs_pos_embed(tensor, [sides[1], sides[1]])
    return resized


def _ends(code: Code) -> tuple[str, str]:
    """The names of a network's first convolution and of its classifier."""
    family = family_of(code.family)
    return family.first_conv, family.classifier


def check_same(state: State, expected: State, allowed: State, free: set[str], label: str) -> None:
    """A ``WeightsError`` unless ``state`` has all of ``expected`` and nothing outside ``allowed``, but for ``free``."""
    shapes = [k for k in expected if k in state and k not in free and expected[k].shape != state[k].shape]
    missing = [k for k in expected if k not in state and k not in free and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in allowed and k not in free]
    parts = []
    if shapes:
        key = shapes[0]
        parts.append(
            f"{len(shapes)} of other shapes ({key} {list(state[key].shape)}, here {list(expected[key].shape)})"
        )
    parts += [f"{len(keys)} {what} ({keys[0]})" for what, keys in (("missing", missing), ("unknown", extra)) if keys]
    if parts:
        raise WeightsError(
            f"{label} holds the weights of another network; tensors: {'; '.join(parts)}. Build the "
            "code that they were trained for."
        )


def check_values(state: State, expected: State, label: str) -> None:
    """A ``WeightsError`` where a tensor has another kind of number, or values that are not finite."""
    for name in expected:
        if name in state:
            _check_value(name, state[name], expected[name], label)


def _check_value(name: str, tensor: torch.Tensor, expected: torch.Tensor, label: str) -> None:
    kind, wanted = _kind(tensor), _kind(expected)
    if kind != wanted:
        raise WeightsError(
            f"{label} holds {one_line(name)} as {str(tensor.dtype).removeprefix('torch.')}, where "
            f"{wanted} numbers are needed: they are not weights of this network. Save "
            "model.state_dict() of the trained network."
        )
    if kind != "floating-point":
        return
    # As they will be used: a float64 beyond float32's range becomes infinite.
    wrong = int((~torch.isfinite(tensor.to(expected.dtype))).sum())
    if wrong:
        raise WeightsError(
            f"{label} holds {wrong:,} values of {tensor.numel():,} in {one_line(name)} that are no "
            "finite numbers (NaN or infinite). Its training has diverged or the file is damaged: take "
            "an earlier checkpoint, or train again with a lower learning rate."
        )


def _kind(tensor: torch.Tensor) -> str:
    if tensor.is_floating_point():
        return "floating-point"
    return "complex" if tensor.is_complex() else "boolean" if tensor.dtype is torch.bool else "whole"
