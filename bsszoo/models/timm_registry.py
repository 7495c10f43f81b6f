"""The registration with timm: ``timm.create_model("resnet50_autobss")`` and the generic ``bsszoo_code``.

timm finds a module's weight configurations in its ``default_cfgs`` and its models in its namespace, so both stand
here, made from the zoo's entries. timm's own names are left alone: an original code is timm's model already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs, register_model
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.named import ModelEntry, named_entries
from bsszoo.errors import CodeError
from bsszoo.models.build import GENERIC, build_as_timm, config_of

# timm appends each name that it registers.
__all__ = [GENERIC]


def _searched() -> dict[str, ModelEntry]:
    return {name: entry for name, entry in named_entries().items() if entry.timm is None}


def _default_cfgs() -> Any:
    cfgs: dict[str, Any] = {}
    for name, entry in _searched().items():
        base = config_of(entry.code)
        if not entry.tags:
            cfgs[name] = base
        for tag in entry.tags:
            # Without a source timm answers pretrained=True at once, instead of asking a Hub where nothing is.
            cfgs[f"{name}.{tag.tag}"] = {**base, **({"hf_hub_id": tag.repository} if tag.published else {})}
    return generate_default_cfgs(cfgs)


default_cfgs = _default_cfgs()


def bsszoo_code(
    pretrained: bool = False,  # noqa: FBT001, FBT002 - timm's interface
    *,
    code: str | Mapping[str, Any],
    **kwargs: Any,
) -> nn.Module:
    """The model of any code, given as its text or as the dict of ``Code.to_dict``.

    Both forms are JSON, so the code travels in the ``model_args`` of a checkpoint's ``config.json``.

    Raises:
        CodeError: ``code`` is neither, or describes an impossible network.
    """
    if isinstance(code, Code):
        raise CodeError("code is given as text or as a dict here, so that it can be saved with the weights: "
                        "pass str(code) or code.to_dict().")
    made = Code.parse(code) if isinstance(code, str) else Code.from_dict(code)
    # A configuration from a checkpoint, or from the caller, comes first; the code's own fills in the rest.
    kwargs["pretrained_cfg"] = {**config_of(made), "architecture": GENERIC, **_as_dict(kwargs.get("pretrained_cfg"))}
    return build_as_timm(made, GENERIC, pretrained=pretrained, **kwargs)


def _as_dict(cfg: Any) -> dict[str, Any]:
    if cfg is None:
        return {}
    if isinstance(cfg, str):
        raise CodeError(f"{GENERIC} has no weights tagged {cfg!r}: a code of its own has none published.")
    given = dict(cfg) if isinstance(cfg, Mapping) else dict(cfg.to_dict())
    # timm's training script asks for a name's configuration before the network is built. For this name, which stands
    # for any code, it gets timm's bare default, which says nothing and must not hide the code's own input size.
    default: Any = PretrainedCfg()
    bare = default.to_dict()
    return {} if all(bare.get(key) == value for key, value in given.items() if key != "architecture") else given


def _register(entry: ModelEntry) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - timm's interface
        return build_as_timm(entry.code, entry.name, pretrained=pretrained, **kwargs)

    create.__name__ = create.__qualname__ = entry.name
    place = f" ({entry.paper.place} of the AutoBSS paper)" if entry.paper is not None else ""
    create.__doc__ = f"{entry.title}{place}."
    globals()[entry.name] = register_model(create)


register_model(bsszoo_code)
for _entry in _searched().values():
    _register(_entry)
