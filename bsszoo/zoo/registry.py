"""``create``: a network by its name or code, with or without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models import get_arch_pretrained_cfgs
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.errors import WeightsError
from bsszoo.nets import build
from bsszoo.zoo.entry import ModelEntry, entries, entry_of, resolve_code, split_tag
from bsszoo.zoo.weights import fetch, load


def create(
    name_or_code: str | Code,
    *,
    pretrained: bool | str | Path = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    output_stride: int = 32,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    cache_dir: str | Path | None = None,
) -> nn.Module:
    """The timm model of a zoo entry or of any code.

    Args:
        name_or_code: A zoo name, ``name.tag``, a code's text (canonical, or the paper's flat form after the family's
            name) or a ``Code``.
        pretrained: False for fresh weights; True for the tag's or the default ones; a tag; ``hf-hub:org/name[@rev]``;
            ``local-dir:PATH``; or the path of a weights file (torchvision's keys are recognised).
        num_classes: Outputs of the classifier; when the weights have another number, it is freshly initialised.
        in_chans: Channels of the input; weights for 3 are adapted as timm does.
        drop_rate, drop_path_rate, global_pool, output_stride, features_only, out_indices: See ``bsszoo.nets.build``.
        cache_dir: Where fetched files are kept; huggingface_hub's own place by default.

    Raises:
        UnknownNameError: No such name or tag.
        CodeError: An impossible code or argument.
        WeightsError: The weights do not exist, cannot be reached or do not fit; never random ones instead.

    Example:
        >>> model = create("mobilenetv2_130m_autobss", num_classes=10)
        >>> model.default_cfg["input_size"]
        (3, 224, 224)
    """
    code = resolve_code(name_or_code)
    entry = entry_of(code)
    tag = _tag_of(name_or_code)
    if not isinstance(pretrained, (bool, str, Path)) or pretrained == "":
        raise WeightsError(f"pretrained is {pretrained!r}; allowed are True, False, a tag, 'hf-hub:org/name', "
                           "'local-dir:PATH' and the path of a weights file.")
    weights = None if pretrained is False else fetch(pretrained, code, entry, tag, cache_dir=cache_dir)
    config = weights.config if weights else _tag_config(entry, tag)
    model = build(
        code, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate,
        global_pool=global_pool, output_stride=output_stride, features_only=features_only, out_indices=out_indices,
        pretrained_cfg=config,
    )
    if weights:
        load(model, weights, code, num_classes=num_classes, in_chans=in_chans, features_only=features_only)
    return model


def _tag_of(name_or_code: str | Code) -> str | None:
    if not isinstance(name_or_code, str):
        return None
    name, tag = split_tag(name_or_code)
    return tag if name.lower() in entries() else None


def _tag_config(entry: ModelEntry | None, tag: str | None) -> Mapping[str, Any]:
    # As timm: the tag of an untrained network still says for which input its weights would be.
    if entry is None or entry.timm is None or tag is None:
        return {}
    cfg: Any = get_arch_pretrained_cfgs(entry.timm).get(f"{entry.timm}.{tag}")
    return dict(cfg.to_dict()) if cfg is not None else {}
