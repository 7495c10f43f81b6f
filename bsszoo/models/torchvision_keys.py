"""torchvision's state dicts under our (timm's) keys.

torchvision's ResNets have timm's keys already. Its MobileNetV2 and EfficientNets name the same layers differently but
list them in the same order, so the keys are paired one by one, and every pair is checked for kind and shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bsszoo.errors import WeightsError

_MARK = ("features.0.0.weight", "features.0.1.weight")
_COUNTER = "num_batches_tracked"


def is_torchvision(state: Mapping[str, object]) -> bool:
    """True for a state dict with the keys of torchvision's MobileNetV2 or EfficientNets."""
    return all(key in state for key in _MARK)


def from_torchvision(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], *, classifier: str, first_conv: str
) -> dict[str, torch.Tensor]:
    """A torchvision state dict under the keys of ``own``.

    Args:
        state: torchvision's, as ``is_torchvision`` recognises; with or without the classifier.
        own: The state dict of the network that is to take it, for its keys and shapes.
        classifier, first_conv: Module names of the layers whose number of classes and of input channels may differ.

    Raises:
        WeightsError: The layers do not correspond; the text names the first pair that does not.
    """
    given = [key for key in state if not key.endswith(_COUNTER)]
    wanted = [key for key in own if not key.endswith(_COUNTER)]
    if not any(key.startswith("classifier.") for key in given):
        wanted = [key for key in wanted if not key.startswith(f"{classifier}.")]
    out: dict[str, torch.Tensor] = {}
    for theirs, ours in zip(given, wanted, strict=False):
        if _kind(theirs) != _kind(ours) or not _fits(state[theirs], own[ours], ours, classifier, first_conv):
            raise WeightsError(
                f"These torchvision weights are of another network: {theirs} {list(state[theirs].shape)} stands where "
                f"this one has {ours} {list(own[ours].shape)}. Build the code that they were trained for.")
        out[ours] = state[theirs]
        if ours.endswith("running_var"):
            counter = ours.replace("running_var", _COUNTER)
            # Checkpoints older than PyTorch 0.4.1 have no counter; it is used only by momentum=None.
            out[counter] = state.get(theirs.replace("running_var", _COUNTER), torch.zeros_like(own[counter]))
    if len(given) != len(wanted):
        raise WeightsError(f"These torchvision weights are of another network: they hold {len(given)} tensors, "
                           f"this one has {len(wanted)}. Build the code that they were trained for.")
    return out


def _kind(key: str) -> str:
    return key.rpartition(".")[2]


def _fits(theirs: torch.Tensor, ours: torch.Tensor, key: str, classifier: str, first_conv: str) -> bool:
    if key.startswith(f"{classifier}."):
        return theirs.shape[1:] == ours.shape[1:]
    if key == f"{first_conv}.weight":
        return theirs.shape[0] == ours.shape[0] and theirs.shape[2:] == ours.shape[2:]
    return theirs.shape == ours.shape
