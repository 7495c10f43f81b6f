"""A code as arguments of timm, which build the same network where bsszoo is not installed.

timm rounds widths and ties them to each other, so not every code has such a form. Each is checked: the network that
timm builds from it has the same tensors, name by name and shape by shape, as ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import timm
import torch
from timm.layers.create_act import get_act_layer
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.ghostnet import GhostNet
from torch import nn

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.families import family_of
from bsszoo.codes.families.ghostnet_modules import CodeGhostNet
from bsszoo.codes.families.mobilenetv2 import MBConvNet
from bsszoo.codes.layers import Block
from bsszoo.codes.named import named_entries
from bsszoo.models.build import build

# timm's older name, which its scripts use.
_ACTIVATIONS: Final = {"silu": "swish"}
# timm's words for blocks that are no inverted residual ones.
_KINDS: Final = {"conv": "cn", "fused": "er"}


@dataclass(frozen=True, slots=True)
class TimmArguments:
    """``timm.create_model(architecture, **arguments)`` builds the network; the arguments are JSON."""

    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def script(self, num_classes: int = 1000, in_chans: int = 3) -> str:
        """Python that builds it."""
        arguments = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        arguments += f", num_classes={num_classes}" + (f", in_chans={in_chans}" if in_chans != 3 else "")
        return f'import timm\n\nmodel = timm.create_model("{self.architecture}"{arguments})\n'


@dataclass(frozen=True, slots=True)
class TimmArchDef:
    """timm's ``arch_def`` of a code of inverted residual blocks, and what its ``EfficientNet`` takes beside it.

    timm reads an ``arch_def`` in its own source only, so a repository cannot hold it: it is for a script.
    """

    arch_def: tuple[tuple[str, ...], ...]
    stem: int
    features: int
    activation: str
    padding: str = ""
    norm_eps: float = 1e-5

    def script(self, num_classes: int = 1000, in_chans: int = 3) -> str:
        """Python that builds the network."""
        channels = f", in_chans={in_chans}" if in_chans != 3 else ""
        nn_line = "from torch import nn\n" if self.padding else ""
        style = f"    pad_type={self.padding!r}, norm_layer=partial(nn.BatchNorm2d, eps={self.norm_eps}),\n"
        lines = "".join(f"    {list(stage)!r},\n" for stage in self.arch_def)
        return (
            "from functools import partial\n\n"
            "from timm.layers import get_act_layer\n"
            "from timm.models._efficientnet_builder import decode_arch_def, round_channels\n"
            f"from timm.models.efficientnet import EfficientNet\n{nn_line}\n"
            f"arch_def = [\n{lines}]\n"
            "model = EfficientNet(\n"
            f"    decode_arch_def(arch_def), num_classes={num_classes}{channels}, num_features={self.features}, "
            f"stem_size={self.stem}, fix_stem=True,\n"
            "    round_chs_fn=partial(round_channels, multiplier=None), "
            f"act_layer=get_act_layer({self.activation!r}),\n{style if self.padding else ''})\n"
        )

    def build(self, num_classes: int = 1000, *, device: str = "cpu") -> nn.Module:
        """The network."""
        return EfficientNet(
            decode_arch_def([list(stage) for stage in self.arch_def]),
            num_classes=num_classes,
            num_features=self.features,
            stem_size=self.stem,
            fix_stem=True,
            round_chs_fn=partial(round_channels, multiplier=None),
            act_layer=get_act_layer(self.activation),
            norm_layer=partial(nn.BatchNorm2d, eps=self.norm_eps),
            pad_type=self.padding,
            device=torch.device(device),
        )


@dataclass(frozen=True, slots=True)
class TimmCfgs:
    """timm's ``cfgs`` of a GhostNet code: kernel, inner and output width, squeeze-and-excitation and stride of blocks.

    timm's class takes them, and none of its names does, so a repository cannot hold them: they are for a script.
    """

    cfgs: tuple[tuple[tuple[float, ...], ...], ...]

    def script(self, num_classes: int = 1000, in_chans: int = 3) -> str:
        """Python that builds the network."""
        channels = f", in_chans={in_chans}" if in_chans != 3 else ""
        lines = "".join(f"    {[list(block) for block in module]!r},\n" for module in self.cfgs)
        return (
            "from timm.models.ghostnet import GhostNet\n\n"
            f"cfgs = [\n{lines}]\n"
            f"model = GhostNet(cfgs, num_classes={num_classes}{channels})\n"
        )

    def build(self, num_classes: int = 1000, *, device: str = "cpu") -> nn.Module:
        """The network."""
        cfgs: Any = [[list(block) for block in module] for module in self.cfgs]
        return GhostNet(cfgs, num_classes=num_classes, device=torch.device(device))


def timm_arguments(code: Code) -> TimmArguments | None:
    """How ``timm.create_model`` builds a code's network, or None where no arguments of timm's do.

    Original networks are timm's own. A ResNet-18 code whose stem and first stage have 64 channels is ``resnet18`` with
    other layers and channels; so is a ResNet-50 code whose bottleneck widths are one share of its widths, as
    ``resnet50``, a ResNeXt code that has one number of groups as well, a ConvNeXt code whose inner widths are four
    times its widths, and a ViT code whose blocks are alike and whose attention is as wide as their stream.

    Example:
        >>> timm_arguments(Code.parse("resnet18_c64-96-160-256_l2-3-2-1")).arguments
        {'layers': [2, 3, 2, 1], 'channels': [64, 96, 160, 256]}
    """
    # The image size is no part of most networks.
    sized = family_of(code.family).sized
    originals = (entry for entry in named_entries().values() if entry.timm is not None)
    for entry in originals:
        if (code if sized else replace(code, image_size=entry.code.image_size)) == entry.code:
            return TimmArguments(str(entry.timm))
    arguments = family_of(code.family).timm_arguments(code)
    form = None if arguments is None else TimmArguments(*arguments)
    return form if form is not None and _same(code, partial(_create, form)) else None


def timm_arch_def(code: Code) -> TimmArchDef | None:
    """timm's ``arch_def`` of a code of MobileNetV2, an EfficientNet or a MnasNet, or None where it has none.

    timm's blocks have expanded widths in multiples of 8, so codes with others have none.
    """
    family = family_of(code.family)
    if code.form != "T" or not isinstance(family, MBConvNet):
        return None
    stem, *body, head, _ = stages_of(code)
    arch_def = tuple((_block(stage.first, stage.depth),) for stage in body)
    activation = _ACTIVATIONS.get(family.activation, family.activation)
    form = TimmArchDef(
        arch_def, stem.first.out_width, head.first.out_width, activation, family.padding, family.norm_eps
    )
    return form if _same(code, partial(form.build, device="meta")) else None


def timm_cfgs(code: Code) -> TimmCfgs | None:
    """timm's ``cfgs`` of a GhostNet code, or None where it has none.

    timm's class has a stem of 16 channels, a last convolution of 1280, and widths in multiples of 4; its convolution in
    front of the pooling is as wide as the last block inside.
    """
    if family_of(code.family).network() is not CodeGhostNet:
        return None
    _, *body, last, _, _ = stages_of(code)
    modules: dict[int, list[tuple[float, ...]]] = {i: [] for i in range(int(last.name.rpartition(".")[2]))}
    for block in (block for stage in body for block in stage.blocks()):
        squeeze = 0 if block.squeeze_width is None else 0.25
        row = (block.kernel, block.mid_width, block.out_width, squeeze, block.stride)
        modules[int(block.name.split(".")[1])].append(row)
    form = TimmCfgs(tuple(tuple(module) for module in modules.values()))
    return form if _same(code, partial(form.build, device="meta")) else None


def _block(block: Block[int], depth: int) -> str:
    expansion = block.mid_width // block.in_width
    if block.kind in _KINDS:
        kind, more = _KINDS[block.kind], f"_e{expansion}" + ("_skip" if block.kind == "conv" else "")
        return f"{kind}_r{depth}_k{block.kernel}_s{block.stride}{more}_c{block.out_width}"
    kind = "ds" if expansion == 1 else "ir"
    text = f"{kind}_r{depth}_k{block.kernel}_s{block.stride}"
    text += "" if kind == "ds" else f"_e{expansion}"
    return f"{text}_c{block.out_width}" + ("_se0.25" if block.squeeze_width is not None else "")


def _create(form: TimmArguments) -> nn.Module:
    made: nn.Module = timm.create_model(form.architecture, **form.arguments, device=torch.device("meta"))
    return made


def _same(code: Code, build_timm: Callable[[], nn.Module]) -> bool:
    """Whether timm's network has our tensors; timm raises where it cannot build one."""
    ours = build(code, device="meta").state_dict()
    try:
        theirs = build_timm().state_dict()
    except Exception:  # whatever a constructor of timm's says of widths that it does not take
        return False
    return {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
