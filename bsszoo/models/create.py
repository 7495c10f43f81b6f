"""``create``: a network by its name or code, with or without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models import get_arch_pretrained_cfgs
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.errors import CodeError, WeightsError, formatted
from bsszoo.models.build import build
from bsszoo.models.detector import create_detector
from bsszoo.models.loading import check_count, load, read_state, sizes_of
from bsszoo.models.names import ModelEntry, hub_org
from bsszoo.models.resolve import Network, resolve
from bsszoo.models.weights import fetch


def create(
    name_or_code: str | Path | Code | Network,
    *,
    pretrained: bool | str | Path = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    output_stride: int = 32,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    org: str | None = None,
    cache_dir: str | Path | None = None,
) -> nn.Module:
    """The timm model of a zoo entry, of any code, or of a repository or a folder.

    Args:
        name_or_code: Whatever ``bsszoo.models.resolve`` takes: a zoo name, ``name.tag``, a code's text (canonical, or
            the paper's flat form after the family's name), a ``Code``, a weights file, a training's folder, or
            ``hf-hub:org/name[@revision]`` or ``local-dir:PATH``. With an organisation, also the name of any of its
            repositories. Or a detector's name (``maskrcnn_resnet50``): see ``models.detector.create_detector``.
        pretrained: False for fresh weights; True for the tag's or the default ones, or those of the repository or
            folder; a tag; ``hf-hub:org/name[@revision]``; ``local-dir:PATH``; or the path of a weights file
            (torchvision's keys are recognised). From repositories and folders only safetensors are taken.
        num_classes: Outputs of the classifier, which is freshly initialised when the weights have another number. By
            default as many as the weights have; 1000 without weights.
        in_chans: Channels of the input, by default those of the weights, 3 without; weights for 3 are adapted to
            others as timm does.
        drop_rate, drop_path_rate, global_pool, output_stride, features_only, out_indices: See ``bsszoo.models.build``.
        org: An organisation or user of the Hub where searched networks are looked up, as ``ORG/NAME.TAG``, and every
            name that is not in the zoo, as ``ORG/NAME``; by default that of the environment variable
            ``BSSZOO_HUB_ORG``. Original networks keep timm's weights under timm's tags.
        cache_dir: Where fetched files are stored; huggingface_hub's cache by default.

    Raises:
        UnknownNameError: No such name or tag.
        CodeError: An impossible code or argument.
        WeightsError: The weights do not exist, cannot be reached or do not fit; never random ones instead.

    Example:
        >>> model = create("mobilenetv2_130m_autobss", num_classes=10)
        >>> model.default_cfg["input_size"]
        (3, 224, 224)
    """
    if not isinstance(pretrained, (bool, str, Path)) or pretrained == "":
        raise WeightsError(
            f"pretrained is {formatted(pretrained)}; allowed are True, False, a tag, 'hf-hub:org/name', "
            "'local-dir:PATH' and the path of a weights file."
        )
    org = hub_org(org)
    network = resolve(name_or_code, org=org, cache_dir=cache_dir)
    if network.module is not None:
        raise CodeError(f"create makes a network, and got a built one: {network.code}. Pass that code, or a name.")
    if network.detector is not None:
        # A training's folder has settings that the detector's name does not.
        detector = network.source if network.source is not None else network.detector
        unsupported = {
            "in_chans": in_chans,
            "drop_rate": drop_rate or None,
            "drop_path_rate": drop_path_rate or None,
            "features_only": features_only or None,
            "out_indices": out_indices,
            "org": org,
            "output_stride": None if output_stride == 32 else output_stride,
            "global_pool": None if global_pool == "avg" else global_pool,
        }
        return create_detector(
            detector,
            pretrained=pretrained,
            num_classes=num_classes,
            refused=[name for name, value in unsupported.items() if value is not None],
        )
    code, entry = network.code, network.entry
    source = network.source if pretrained is True and network.source is not None else pretrained
    if source is False:
        network.check_size()
    weights = None if source is False else fetch(source, code, entry, network.tag, org=org, cache_dir=cache_dir)
    state = None if weights is None else read_state(weights)
    classes, channels = (0, 0) if state is None else sizes_of(state, code)
    if weights is not None and state is not None:
        check_count({name: tensor.shape for name, tensor in state.items()}, code, weights.label)
    num_classes = (classes or 1000) if num_classes is None else num_classes
    in_chans = (channels or 3) if in_chans is None else in_chans
    config = (
        (weights.config or (network.config if source == network.source else {}))
        if weights
        else _tag_config(entry, network.tag)
    )
    if classes not in (0, num_classes):
        # A classifier of other classes has other labels, whatever they are.
        config = {key: value for key, value in config.items() if not key.startswith("label_")}
        config["num_classes"] = num_classes
    model = build(
        code,
        num_classes=num_classes,
        in_chans=in_chans,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        global_pool=global_pool,
        output_stride=output_stride,
        features_only=features_only,
        out_indices=out_indices,
        pretrained_cfg=config,
    )
    if weights is not None and state is not None:
        load(model, state, weights.label, code, num_classes=num_classes, in_chans=in_chans, features_only=features_only)
    return model


def _tag_config(entry: ModelEntry | None, tag: str | None) -> Mapping[str, Any]:
    # As timm: the tag of an untrained network still sets the input that its weights have.
    if entry is None or entry.timm is None or tag is None:
        return {}
    cfg: Any = get_arch_pretrained_cfgs(entry.timm).get(f"{entry.timm}.{tag}")
    return dict(cfg.to_dict()) if cfg is not None else {}
