"""``build``: the timm model of any code; and the registration of these models with timm.

timm takes a module's weight configurations from its ``default_cfgs`` and its models from its namespace, so both are
here, made from the zoo's entries: ``timm.create_model("resnet50_autobss")``, and ``bsszoo_code`` for any other code.
timm's names are not registered again: an original code is timm's model already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.data import resolve_data_config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import convert_sync_batchnorm
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import pretrained_cfg_for_features
from torch import nn

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.cost import ImageSize, check_arguments, checked_size
from bsszoo.codes.families import family_of
from bsszoo.codes.layers import Layer
from bsszoo.codes.named import ModelEntry, entry_of, named_entries
from bsszoo.errors import CodeError, formatted

#: The timm name under which any code can be created: ``timm.create_model(GENERIC, code="...")``.
GENERIC = "bsszoo_code"
# timm appends each name that it registers.
__all__ = [GENERIC, "build", "build_as_timm", "config_of", "input_config", "recount", "synchronised"]

_HEAD: Any = ("num_classes", "global_pool")
_OUTPUT_STRIDES = (8, 16, 32)


def build(
    code: Code,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    output_stride: int = 32,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The timm model of a code, with freshly initialised weights.

    It has what timm models have: ``forward_features``, ``forward_head``, ``forward_intermediates``,
    ``reset_classifier``, ``get_classifier``, ``set_grad_checkpointing``, ``default_cfg``. Its convolutions and linear
    layers are exactly ``layers_of(code)``; original codes have timm's state dict keys.

    Args:
        code: Any code.
        num_classes: Outputs of the classifier; 0 for none.
        in_chans: Channels of the input.
        drop_rate: Probability of dropout before the classifier.
        drop_path_rate: Stochastic depth at the end of the network; it rises linearly with depth.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or empty for none; ``token`` of ViTs. By default the
            family's.
        output_stride: 32, 16 or 8: input px per px of the last features; the weights are the same ones.
        features_only: A model that returns the list of features at strides 2, 4, 8, 16 and 32 instead.
        out_indices: Indices of these features in that list; all by default.
        pretrained_cfg: Entries that replace those of ``config_of(code)`` in the model's ``default_cfg``.
        device, dtype: Where and as what the parameters are made; ``"meta"`` makes none.

    Raises:
        CodeError: An argument that no network can have.

    Example:
        >>> code = Code.parse("mobilenetv2{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}")
        >>> build(code, num_classes=10).get_classifier()
        Linear(in_features=1280, out_features=10, bias=True)
    """
    _check(num_classes, in_chans, drop_rate, drop_path_rate, output_stride)
    entry = entry_of(code)
    architecture = entry.architecture if entry else GENERIC
    arguments: dict[str, Any] = {
        "in_chans": in_chans,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        "output_stride": output_stride,
        "num_classes": num_classes,
        "global_pool": family_of(code.family).global_pool if global_pool is None else global_pool,
    }
    if features_only:
        arguments |= {"features_only": True} | ({} if out_indices is None else {"out_indices": tuple(out_indices)})
    elif out_indices is not None:
        raise CodeError("out_indices chooses among features: give features_only=True with it.")
    arguments |= {key: value for key, value in (("device", device), ("dtype", dtype)) if value is not None}
    cfg = {**config_of(code), "architecture": architecture, **(pretrained_cfg or {})}
    model = build_as_timm(code, architecture, pretrained_cfg=cfg, **arguments)
    # As timm.create_model sets it: how timm.models.save_for_hf and push_to_hf_hub record the network.
    recorded = {"output_stride": output_stride} if output_stride != 32 else {}
    model._model_args = recorded if entry else {"code": code.to_dict(), **recorded}  # type: ignore[assignment]
    return model


def build_as_timm(code: Code, variant: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The model of a code through timm's own builder; keywords as ``timm.create_model`` passes them."""
    family = family_of(code.family)
    stages = stages_of(code, in_chans=kwargs.get("in_chans", 3))
    features_class = family.features() if kwargs.get("features_only") else None
    if features_class is None:
        model: nn.Module = build_model_with_cfg(family.network(), variant, pretrained, stages=stages, **kwargs)
        return model
    kwargs.pop("features_only")
    beside = [layer for stage in stages if not stage.first.in_features for layer in stage.first.layers()]
    features: Any = build_model_with_cfg(
        features_class,
        variant,
        pretrained,
        stages=stages,
        kwargs_filter=_HEAD,
        pretrained_filter_fn=partial(_trunk_only, beside),
        **kwargs,
    )
    features.pretrained_cfg = features.default_cfg = pretrained_cfg_for_features(features.pretrained_cfg)
    made: nn.Module = features
    return made


def config_of(code: Code) -> dict[str, Any]:
    """timm's configuration of a code's network: input size, normalisation, names of its first and last layers.

    The input is the code's, normalised as ImageNet; ``crop_pct`` leaves the 32 px border that timm's ResNets (224 of
    256) and EfficientNet-B1 (240 of 272) leave, of smaller inputs no larger share than of 224 px.
    """
    family = family_of(code.family)
    size = code.image_size
    return {
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": (family.last_side(size),) * 2,
        "crop_pct": round(max(size / (size + 32), 0.875), 3),
        "interpolation": family.interpolation,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": family.first_conv,
        "classifier": family.classifier,
        "license": "apache-2.0",
        "paper_ids": "arXiv:2010.10261",
    }


def input_config(network: nn.Module) -> dict[str, Any]:
    """timm's evaluation input of a network (size, mean, deviation, crop), for the channels that it takes."""
    made: Any = network
    size = made.default_cfg["input_size"][1:]
    config: dict[str, Any] = resolve_data_config({"input_size": (made.in_chans, *size)}, model=made)
    for key in ("mean", "std"):
        if len(config[key]) != made.in_chans:  # of three channels, where the network was built for others
            config[key] = (sum(config[key]) / len(config[key]),) * made.in_chans
    return config


def synchronised(network: nn.Module) -> nn.Module:
    """The network with ``SyncBatchNorm`` for every batch normalisation, weights and outputs as before.

    By timm: torch's own conversion drops the activations that networks of MBConv blocks hold in their normalisation.
    """
    made: nn.Module = convert_sync_batchnorm(network)
    return made


def recount(
    code: Code, image_size: ImageSize | None = None, *, num_classes: int = 1000, in_chans: int = 3
) -> tuple[int, int]:
    """A second count of a code's network: MACs by thop and parameters by torch of the built one.

    Only the built network is counted, not the layer list; the image size is the code's by default. thop knows no
    attention: its two products of all pairs of tokens are counted beside its linear layers.
    thop counts a batch norm at 4 operations an element and an average pooling at its inputs; both are zeroed, since
    the paper's FLOPs count convolutions and linear layers only.
    """
    from thop import profile
    from thop.vision.basic_hooks import count_convNd, count_linear
    from timm.layers import Conv2dSame
    from timm.layers.attention import Attention
    from timm.layers.linear import Linear

    def attention(module: Any, inputs: Any, _output: Any) -> None:
        images, tokens, _ = inputs[0].shape
        linear = module.qkv.weight.numel() + module.proj.weight.numel()
        module.total_ops += torch.DoubleTensor([images * tokens * (linear + 2 * tokens * module.attn_dim)])

    def nothing(module: Any, _inputs: Any, _output: Any) -> None:
        module.total_ops += torch.DoubleTensor([0])

    height, width = checked_size(code.image_size if image_size is None else image_size)
    model = build(code, num_classes=num_classes, in_chans=in_chans).eval()
    params = sum(p.numel() for p in model.parameters())
    how: dict[type[nn.Module], Any] = dict.fromkeys((nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d), nothing)
    # thop knows no classes that inherit from torch's.
    how |= {Conv2dSame: count_convNd, Linear: count_linear, Attention: attention}
    with torch.no_grad():
        macs, _ = profile(model, inputs=(torch.zeros(1, in_chans, height, width),), custom_ops=how, verbose=False)
    return int(macs), params


def _trunk_only(beside: Sequence[Layer[int]], state: dict[str, Any], _: nn.Module) -> dict[str, Any]:
    # Strict loading of the rest: only what the features do not have may be left out.
    left_out = tuple(f"{name}." for layer in beside for name in (layer.name, layer.norm) if name)
    return {key: value for key, value in state.items() if not key.startswith(left_out)}


def _check(num_classes: object, in_chans: object, drop_rate: float, drop_path_rate: float, output_stride: int) -> None:
    check_arguments(num_classes, in_chans)
    for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise CodeError(f"{name} is {formatted(rate)}; allowed is a probability from 0 to below 1.")
    if not isinstance(output_stride, int) or output_stride not in _OUTPUT_STRIDES:
        raise CodeError(f"output_stride is {formatted(output_stride)}; allowed are 8, 16 and 32.")


def _searched() -> dict[str, ModelEntry]:
    return {name: entry for name, entry in named_entries().items() if entry.timm is None}


def _default_cfgs() -> Any:
    cfgs: dict[str, Any] = {}
    for name, entry in _searched().items():
        base = config_of(entry.code)
        if not entry.tags:
            cfgs[name] = base
        for tag in entry.tags:
            # Without a source timm answers pretrained=True at once, without a request for a missing repository.
            cfgs[f"{name}.{tag.tag}"] = {**base, **({"hf_hub_id": tag.repository} if tag.published else {})}
    return generate_default_cfgs(cfgs)


default_cfgs = _default_cfgs()


def bsszoo_code(
    pretrained: bool = False,  # noqa: FBT001, FBT002 - timm's interface
    *,
    code: str | Mapping[str, Any],
    **kwargs: Any,
) -> nn.Module:
    """The model of any code, from its text or the dict of ``Code.to_dict``.

    Both forms are JSON, so the code travels in the ``model_args`` of a checkpoint's ``config.json``.

    Raises:
        CodeError: ``code`` is neither, or describes an impossible network.
    """
    if isinstance(code, Code):
        raise CodeError(
            "code is a text or a dict here, so that it can be saved with the weights: pass str(code) or code.to_dict()."
        )
    made = Code.parse(code) if isinstance(code, str) else Code.from_dict(code)
    # A configuration from a checkpoint, or from the caller, comes first; the code's fills in the rest.
    kwargs["pretrained_cfg"] = {**config_of(made), "architecture": GENERIC, **_as_dict(kwargs.get("pretrained_cfg"))}
    return build_as_timm(made, GENERIC, pretrained=pretrained, **kwargs)


def _as_dict(cfg: Any) -> dict[str, Any]:
    if cfg is None:
        return {}
    if isinstance(cfg, str):
        raise CodeError(f"{GENERIC} has no weights tagged {cfg!r}: none are published for a custom code.")
    entries = dict(cfg) if isinstance(cfg, Mapping) else dict(cfg.to_dict())
    # timm's training script asks for a name's configuration before the network is built. For this name, which stands
    # for any code, it gets timm's bare default, which is empty and must not hide the code's input size.
    default: Any = PretrainedCfg()
    bare = default.to_dict()
    return {} if all(bare.get(key) == value for key, value in entries.items() if key != "architecture") else entries


def _register(entry: ModelEntry) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's interface
        return build_as_timm(entry.code, entry.name, pretrained=pretrained, **kwargs)

    create.__name__ = create.__qualname__ = entry.name
    table = f" ({entry.paper.place} of the AutoBSS paper)" if entry.paper is not None else ""
    create.__doc__ = f"{entry.title}{table}."
    globals()[entry.name] = register_model(create)


register_model(bsszoo_code)
for _entry in _searched().values():
    _register(_entry)
