"""Weights: where they come from (``fetch``) and how they get into a network (``load``). Never silently random ones."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, load_pretrained, load_state_dict
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.families import family_of
from bsszoo.codes.named import ModelEntry, WeightTag, named_entries
from bsszoo.errors import UnknownNameError, WeightsError, close_matches
from bsszoo.nets import build
from bsszoo.nets.torchvision_keys import from_torchvision, is_torchvision
from bsszoo.zoo.hub_files import WEIGHT_FILES, HubRepository, hub_file
from bsszoo.zoo.saved_config import config_from, same_network

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")


@dataclass(frozen=True, slots=True)
class Weights:
    """A weights file on this machine.

    ``label`` names it for messages; ``config`` holds the entries of timm's ``default_cfg`` that came with it (input
    size, normalisation, ...), empty when nothing did.
    """

    path: Path
    label: str
    config: Mapping[str, Any] = field(default_factory=dict)


def fetch(
    pretrained: bool | str | Path,  # noqa: FBT001 - a source, of which True is the default one
    code: Code,
    entry: ModelEntry | None,
    tag: str | None = None,
    *,
    cache_dir: str | Path | None = None,
) -> Weights:
    """The weights that ``pretrained`` means for a code, fetched from the Hub where they are not here yet.

    Args:
        pretrained: True (the tag, or the default one), a tag, ``hf-hub:org/name[@revision]``, ``local-dir:PATH`` or
            the path of a file or of such a folder.
        code: The network that is to take them.
        entry: The zoo's entry of this code, None for a code of one's own.
        tag: The tag that came with the name (``resnet50.a1_in1k``).
        cache_dir: Where the Hub's files are kept; huggingface_hub's own place by default.

    Raises:
        WeightsError: They do not exist, cannot be reached, or are of another network; the text says what to do.
        UnknownNameError: The entry has no such tag.
    """
    if pretrained is True:
        return _tagged(code, entry, tag, cache_dir)
    source = str(pretrained)
    if source.startswith("hf-hub:"):
        return _from_hub(HubRepository.parse(source.removeprefix("hf-hub:")), code, entry, cache_dir)
    if source.startswith("local-dir:"):
        return _from_folder(Path(source.removeprefix("local-dir:")).expanduser(), code)
    path = Path(source).expanduser()
    if source and path.is_dir():
        return _from_folder(path, code)
    if path.is_file():
        return Weights(path, str(path))
    if isinstance(pretrained, Path) or "/" in source or "\\" in source or source.endswith(_SUFFIXES):
        raise WeightsError(f"There is no weights file {source!r}. Allowed are a file ({', '.join(_SUFFIXES)}), a "
                           "folder with model.safetensors, 'hf-hub:org/name[@revision]', 'local-dir:PATH' or a tag.")
    return _tagged(code, entry, source, cache_dir)


def load(
    model: nn.Module, weights: Weights, code: Code, *, num_classes: int, in_chans: int, features_only: bool = False
) -> None:
    """Load weights into the network of a code strictly, after ``fetch``.

    Only two layers may differ, as in timm: the first convolution is adapted to ``in_chans``, and the classifier is
    left freshly initialised when ``num_classes`` is not the checkpoint's. torchvision's keys are recognised.

    Raises:
        WeightsError: The file cannot be read, or its tensors are not those of the network.
    """
    resnet = family_of(code.family).block != "mbconv"
    first_conv, classifier = ("conv1", "fc") if resnet else ("conv_stem", "classifier")
    own = model.state_dict()
    # A features-only network lacks what stands behind the features; a checkpoint may hold it all the same.
    whole = build(code, device="meta").state_dict() if features_only else own
    state = _read(weights)
    if is_torchvision(state):
        state = from_torchvision(state, whole, classifier=classifier, first_conv=first_conv)

    classes = int(state[key].shape[0]) if (key := f"{classifier}.weight") in state else 0
    if classes == 0 and num_classes > 0 and not features_only:
        raise WeightsError(f"{weights.label} holds no classifier ({key}). Create the network with num_classes=0 and "
                           f"call reset_classifier({num_classes}) for a fresh one.")
    stem = state.get(f"{first_conv}.weight")
    channels = int(stem.shape[1]) if stem is not None and stem.ndim == 4 else 3
    if channels not in (3, in_chans):
        raise WeightsError(f"{weights.label} takes {channels} input channels; only weights for 3 can be adapted to "
                           f"{in_chans}. Create the network with in_chans={channels}.")
    free = {f"{first_conv}.weight"} if channels != in_chans else set()
    if classes != num_classes:
        if num_classes == 1000 and not features_only:
            warnings.warn(f"{weights.label} was trained for {classes} classes: this network's classifier with 1000 is "
                          f"freshly initialised. Pass num_classes={classes} to keep the trained one.", stacklevel=3)
        free |= {f"{classifier}.weight", f"{classifier}.bias"}
    _check_same(state, own, whole, free, weights.label)
    if features_only:
        state, num_classes = {name: tensor for name, tensor in state.items() if name in own}, classes
    source = {
        "state_dict": state, "num_classes": classes, "input_size": (channels, code.image_size, code.image_size),
        "first_conv": first_conv, "classifier": classifier,
    }
    load_pretrained(model, pretrained_cfg=source, num_classes=num_classes, in_chans=in_chans, strict=True)


def classes_of(weights: Weights, code: Code) -> int:
    """The number of classes that weights were trained for; 0 where they hold no classifier."""
    classifier = "classifier" if family_of(code.family).block == "mbconv" else "fc"
    state = _read(weights)
    found = state.get(f"{classifier}.weight", state.get("classifier.1.weight"))  # the latter is torchvision's
    return 0 if found is None else int(found.shape[0])


# -- where they come from ---------------------------------------------------------------------------------------


def _tagged(code: Code, entry: ModelEntry | None, tag: str | None, cache_dir: str | Path | None) -> Weights:
    if entry is None:
        raise WeightsError(f"No weights are known for the code {code}: it is not one of the zoo's. "
                           f"{_what_to_do(code)}")
    if entry.timm is not None:
        return _from_timm(entry, tag, cache_dir)
    if not entry.tags:
        raise WeightsError(f"{entry.name} names no Hub repository with weights. {_what_to_do(code)}")
    own = {t.tag: t for t in entry.tags}
    if tag is not None and tag not in own:
        raise UnknownNameError(f"{entry.name} has no weights tagged {tag!r}.{close_matches(tag, own)}")
    chosen = own[tag] if tag else entry.tags[0]
    return _from_hub(HubRepository(chosen.repository), code, entry, cache_dir, chosen)


def _from_timm(entry: ModelEntry, tag: str | None, cache_dir: str | Path | None) -> Weights:
    known = {name.partition(".")[2]: cfg for name, cfg in get_arch_pretrained_cfgs(entry.architecture).items()}
    if tag is not None and tag not in known:
        raise UnknownNameError(f"{entry.name} has no weights tagged {tag!r}.{close_matches(tag, known)}")
    cfg: Any = known[tag] if tag else get_pretrained_cfg(entry.architecture)
    names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else WEIGHT_FILES
    repository = HubRepository.parse(cfg.hf_hub_id)
    path = hub_file(repository, names, cache_dir=cache_dir, advice=_what_to_do(entry.code, original=False))
    _check_sum(path, next((t.sha256 for t in entry.tags if t.tag == cfg.tag), None), repository.label)
    return Weights(path, repository.label, cfg.to_dict())


def _from_hub(
    repository: HubRepository, code: Code, entry: ModelEntry | None, cache_dir: str | Path | None,
    tag: WeightTag | None = None,
) -> Weights:
    advice = _what_to_do(code, original=entry is None or entry.timm is None)
    if tag is not None and not tag.published and entry is not None:
        advice = f"Nobody has published weights of {entry.name} there so far. {advice}"
    path = hub_file(repository, WEIGHT_FILES, cache_dir=cache_dir, advice=advice)
    saved = hub_file(repository, ("config.json",), cache_dir=cache_dir, advice=advice, missing_ok=True)
    _check_sum(path, tag.sha256 if tag else None, repository.label)
    config = config_from(saved, code, repository.label) if saved else {}
    return Weights(path, repository.label, {**config, "hf_hub_id": repository.text})


def _from_folder(folder: Path, code: Code) -> Weights:
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise WeightsError(f"There are no weights in {str(folder)!r}: it holds none of {', '.join(WEIGHT_FILES)}. "
                           "timm.models.save_for_hf(model, folder, safe_serialization=True) writes such a folder.")
    saved = folder / "config.json"
    label = f"local-dir:{folder}"
    return Weights(found, label, config_from(saved, code, label) if saved.is_file() else {})


def _what_to_do(code: Code, *, original: bool = True) -> str:
    text = ("What you can do: train the network and pass its checkpoint, pretrained='PATH/model.safetensors'; pass "
            "another source, pretrained='hf-hub:ORG/NAME' or 'local-dir:FOLDER'")
    published = [e for e in named_entries().values() if e.published]
    start = next((e.name for e in published if e.code.family == code.family and not same_network(e.code, code)), None)
    if original and start:
        text += f"; or start from the original, bsszoo.create({start!r}, pretrained=True)"
    return f"{text}. pretrained=False gives random weights."


# -- into the network -------------------------------------------------------------------------------------------


def _read(weights: Weights) -> dict[str, torch.Tensor]:
    try:
        state = load_state_dict(str(weights.path), weights_only=True)
    except Exception as error:  # whatever the unpickler or safetensors raise on a broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"Cannot read {weights.label} as weights ({reason}). Allowed are safetensors files and "
                           "PyTorch files that hold tensors only (torch.load with weights_only=True).") from error
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{weights.label} holds no state dict (names with tensors). Save model.state_dict().")
    return state


def _check_sum(path: Path, expected: str | None, label: str) -> None:
    if expected is None:
        return
    with path.open("rb") as file:
        found = _sha256(file)
    if found != expected.lower():
        raise WeightsError(f"The weights of {label} are not those that the zoo recorded: sha256 {found}, expected "
                           f"{expected}. The download is broken or the repository changed; delete {path} and retry.")


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _check_same(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], whole: Mapping[str, torch.Tensor],
    free: set[str], label: str,
) -> None:
    """A ``WeightsError`` unless ``state`` has all of ``own`` and nothing outside ``whole``, but for the ``free``."""
    shapes = [k for k in own if k in state and k not in free and own[k].shape != state[k].shape]
    missing = [k for k in own if k not in state and k not in free and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in whole and k not in free]
    parts = []
    if shapes:
        key = shapes[0]
        parts.append(f"{len(shapes)} of other shapes ({key} {list(state[key].shape)}, here {list(own[key].shape)})")
    parts += [f"{len(keys)} {what} ({keys[0]})" for what, keys in (("missing", missing), ("unknown", extra)) if keys]
    if parts:
        raise WeightsError(f"{label} holds the weights of another network; tensors: {'; '.join(parts)}. Build the "
                           "code that they were trained for.")
