"""Inherited weights: a network takes over another's function exactly where its shapes allow that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from timm.models.convnext import ConvNeXtBlock
from timm.models.vision_transformer import Block as TransformerBlock
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.families import family_of
from bsszoo.errors import CodeError
from bsszoo.models.build import build
from bsszoo.models.inherit import inherit_weights, is_subnetwork
from bsszoo.spaces.space import Space

# A small code of each family and one that is larger in every entry, with skips between the same stages.
PAIRS = {
    "resnet18": ("resnet18_c32-64-64-128_l1-2-1-1", "resnet18_c64-128-128-256_l2-3-1-2"),
    "resnet50": (
        "resnet50_c128-192-256-512_l1-2-1-1_b16-48-64-128",
        "resnet50_c192-256-384-576_l2-3-2-1_b24-64-96-144",
    ),
    "resnext": (
        "resnext_c128-192-256-512_l1-2-1-1_b16-48-64-128_g4-8-16-32",
        "resnext_c192-256-384-576_l2-3-2-1_b24-64-96-160_g4-8-16-32",
    ),
    "resnext of one group": (
        "resnext_c72-64-96-128_l1-2-1-1_b8-16-24-32_g8-8-8-8",
        "resnext_c96-128-128-160_l2-3-2-1_b16-24-32-48_g8-8-8-8",
    ),
    "seresnet18": ("seresnet18_c32-64-64-128_l1-2-1-1", "seresnet18_c64-128-128-256_l2-3-1-2"),
    "seresnet18 subnetwork": (
        "seresnet18_c32-64-64-128_l1-2-1-1_b16-20-48-128",
        "seresnet18_c64-128-128-256_l2-3-1-2_b24-64-56-200",
    ),
    "seresnet50": (
        "seresnet50_c128-192-256-512_l1-2-1-1_b16-48-64-128",
        "seresnet50_c192-256-384-576_l2-3-2-1_b24-64-96-144",
    ),
    "seresnext": (
        "seresnext_c128-192-256-512_l1-2-1-1_b16-48-64-128_g4-8-16-32",
        "seresnext_c192-256-384-576_l2-3-2-1_b24-64-96-160_g4-8-16-32",
    ),
    "mobilenetv2": (
        "mobilenetv2_c12-16-32-48-80-160_l1-2-2-1-2-1_t3-6-3-3-3-3",
        "mobilenetv2_c16-24-48-72-120-240_l2-3-2-3-2-2_t6-6-3-6-3-6",
    ),
    "efficientnet_b0": (
        "efficientnet_b0_c16-24-48-56-144-160_l1-2-1-2-1-1_t3-6-3-3-6-3",
        "efficientnet_b0_c24-32-64-84-192-240_l2-2-2-3-2-1_t6-6-3-6-6-3",
    ),
    "efficientnet": (
        "efficientnet_c16-28-42-60-68-112_l1-2-1-2-1-1_t3-6-3-3-6-3_stem16_stage2-8x1_head96",
        "efficientnet_c24-32-64-84-136-224_l2-2-2-3-2-1_t6-6-3-6-6-3_stem24_stage2-16x2_head128",
    ),
    "tf_efficientnet_lite": (
        "tf_efficientnet_lite_c16-24-48-56-72-80_l1-2-1-2-1-1_t3-6-3-3-6-3_head96",
        "tf_efficientnet_lite_c24-32-64-84-96-120_l2-2-2-3-2-1_t6-6-3-6-6-3_head128",
    ),
    "semnasnet": (
        "semnasnet_c16-24-48-56-72-80_l1-2-1-2-1-1_t3-6-3-3-6-3_head96",
        "semnasnet_c24-32-64-84-96-120_l2-2-2-3-2-1_t6-6-3-6-6-3_head128",
    ),
    "efficientnetv2": (
        "efficientnetv2_c16-24-40-40-56_l1-2-1-2-1_t2-4-2-4-4_stem12_stage2-12x1_head96",
        "efficientnetv2_c24-32-56-56-72_l2-3-2-2-2_t4-4-4-6-6_stem16_stage2-16x2_head128",
    ),
    "mobilenetv3_large": (
        "mobilenetv3_large_c16-24-48-48-56-80_l1-2-1-1-2-1_t3-4-6-3-3-6_head96",
        "mobilenetv3_large_c24-32-64-64-84-96_l2-2-1-2-3-2_t6-4-6-6-3-6_head128",
    ),
    "mobilenetv3_small subnetwork": (
        "mobilenetv3_small_c16-24-24-48_l1-2-1-2_b24-60-48-90_e24-48-48-60_head96",
        "mobilenetv3_small_c24-32-32-80_l2-3-2-2_b36-80-60-140_e24-80-60-130_head128",
    ),
    "mobilenetv4_conv_small": (
        "mobilenetv4_conv_small_c16-24-32-48_l1-1-3-4_t1-2-2-2_stem16_head96",
        "mobilenetv4_conv_small_c24-32-48-64_l1-1-6-6_t2-3-3-4_stem24_head128",
    ),
    "mobilenetv4_conv_medium": (
        "mobilenetv4_conv_medium_c16-24-32-48_l1-1-5-4_t2-1-2-2_stem16_head96",
        "mobilenetv4_conv_medium_c24-32-48-64_l2-3-9-12_t3-2-3-4_stem24_head128",
    ),
    "mobilenetv4_conv_large subnetwork": (
        "mobilenetv4_conv_large_c16-24-32-48_l1-1-6-5_b20-40-60-90_e20-30-48-60_stem16_head96",
        "mobilenetv4_conv_large_c24-32-48-64_l2-3-8-6_b36-80-60-140_e24-80-60-130_stem24_head128",
    ),
    "ghostnet": (
        "ghostnet_c12-20-40-56-80_l1-2-2-1-2_t2-3-3-4-3_head96",
        "ghostnet_c24-28-64-72-96_l2-3-2-2-3_t3-4-3-6-3_head128",
    ),
    "ghostnet subnetwork": (
        "ghostnet_c12-20-40-56-80_l1-2-4-1-4_b24-60-100-90-120_e24-48-66-60-130_head96",
        "ghostnet_c24-28-65-72-96_l2-3-4-2-5_b36-80-200-140-233_e24-80-120-130-200_head128",
    ),
    "resnet18 subnetwork": (
        "resnet18_c32-64-64-128_l1-2-1-1_b16-20-48-128",
        "resnet18_c64-128-128-256_l2-3-1-2_b24-64-56-200",
    ),
    "mobilenetv2 subnetwork": (
        "mobilenetv2_c12-16-32-48-80-160_l1-2-2-1-2-1_b20-50-60-90-200-8_e20-40-60-90-180-8",
        "mobilenetv2_c16-24-48-72-120-240_l2-3-2-3-2-2_b24-60-60-120-240-90_e24-48-72-100-200-90",
    ),
    "efficientnet_b0 subnetwork": (
        "efficientnet_b0_c16-24-48-56-144-160_l1-2-1-2-1-1_b24-60-48-90-300-200",
        "efficientnet_b0_c24-32-64-84-192-240_l2-2-2-3-2-1_b36-80-60-140-360-210_e24-80-60-130-360-210",
    ),
    "regnetx": ("regnetx_c16-32-48-64_l1-2-2-1_g8-8-16-16", "regnetx_c24-48-64-96_l2-3-2-2_g8-8-16-16"),
    "regnety": ("regnety_c16-32-48-64_l1-2-2-1_g8-8-16-16", "regnety_c24-48-64-96_l2-3-2-2_g8-8-16-16"),
    "convnext_atto": ("convnext_atto_c16-24-32-48_l1-2-2-1_t3-2-4-3", "convnext_atto_c24-32-48-64_l2-3-2-2_t4-4-4-3"),
    "convnext_tiny subnetwork": (
        "convnext_tiny_c16-24-32-48_l1-2-2-1_b40-24-100-64",
        "convnext_tiny_c24-32-48-64_l2-3-2-2_b80-128-150-200",
    ),
    "convnextv2_atto": (
        "convnextv2_atto_c16-24-32-48_l1-2-2-1_t3-2-4-3",
        "convnextv2_atto_c24-32-48-64_l2-3-2-2_t4-4-4-3",
    ),
    "convnextv2_tiny subnetwork": (
        "convnextv2_tiny_c16-24-32-48_l1-2-2-1_b40-24-100-64",
        "convnextv2_tiny_c24-32-48-64_l2-3-2-2_b80-128-150-200",
    ),
    "vit": (
        "vit_patch8_c40-48-64-32_l1-2-2-1_b16-32-24-16_g16-16-8-8_stem32_px64",
        "vit_patch8_c64-48-80-100_l2-3-2-3_b48-32-40-24_g16-16-8-8_stem32_px64",
    ),
}
OF_EACH = pytest.mark.parametrize(("small", "large"), PAIRS.values(), ids=PAIRS)
# Layer normalisations depend on all channels of a stage, so that these change what they give when others come or go.
BATCH_NORMALISED = {name: pair for name, pair in PAIRS.items() if not name.startswith(("convnext", "vit"))}
OF_EACH_BATCH_NORMALISED = pytest.mark.parametrize(("small", "large"), BATCH_NORMALISED.values(), ids=BATCH_NORMALISED)


def trained(text: str, seed: int = 0, **kwargs: int) -> tuple[nn.Module, Code]:
    """A network as after a training: nothing in its normalisation layers is as it began."""
    torch.manual_seed(seed)
    code = Code.parse(text)
    network = build(code, num_classes=7, **kwargs).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, GlobalResponseNorm):
            nn.init.uniform_(module.weight, -0.5, 0.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, ConvNeXtBlock):
            for layer in (module.conv_dw, module.mlp.fc1, module.mlp.fc2):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                nn.init.uniform_(layer.bias, -0.3, 0.3)
            if module.gamma is not None:
                nn.init.uniform_(module.gamma, -0.6, 0.6)
        elif isinstance(module, TransformerBlock):
            for layer in (module.attn.qkv, module.attn.proj, module.mlp.fc1, module.mlp.fc2):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.uniform_(layer.bias, -0.3, 0.3)
    return network, code


def outputs(network: nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network.eval()(images)


def norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize("text", [large for _, large in PAIRS.values()], ids=PAIRS)
def test_a_network_inherits_itself_whole(text: str) -> None:
    source, code = trained(text)
    fresh, _ = trained(text, seed=1)
    inheritance = inherit_weights(fresh, code, source, code)
    assert inheritance.inherited == inheritance.params
    assert inheritance.blocks == inheritance.total_blocks
    for name, value in source.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


@OF_EACH_BATCH_NORMALISED
def test_a_wider_and_deeper_network_begins_with_the_function_it_inherits(small: str, large: str) -> None:
    source, code = trained(small)
    grown, large_code = trained(large, seed=1)
    inheritance = inherit_weights(grown, large_code, source, code)
    assert inheritance.inherited == sum(p.numel() for p in source.parameters())
    assert inheritance.blocks == sum(code.depths) + bool(code.stage2_depth)
    torch.testing.assert_close(outputs(grown), outputs(source), rtol=1e-4, atol=1e-4)


@OF_EACH_BATCH_NORMALISED
def test_a_narrower_and_shallower_network_keeps_the_channels_that_matter(small: str, large: str) -> None:
    source, small_code = trained(small)
    grown, large_code = trained(large, seed=1)
    inherit_weights(grown, large_code, source, small_code)
    # What the small one does not have says nothing; inside the blocks it does not stand at the end.
    mine = norms(source)
    for name, norm in norms(grown).items():
        lacking = torch.arange(norm.num_features) >= (mine[name].num_features if name in mine else 0)
        if name in mine and name.endswith(("bn_dw", "shortcut.1", "shortcut.3")) and "ghost" in large:
            # Pairs of channels stand in two halves.
            half, have = (n.num_features // 2 + n.num_features % 2 for n in (norm, mine[name]))
            lacking = torch.cat([torch.arange(half) >= have] * 2)[: norm.num_features]
            lacking[half + mine[name].num_features - have :] = True
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            with torch.no_grad():
                tensor[lacking] = 0
    squeezes = dict(source.named_modules())
    for name, module in grown.named_modules():
        if name.endswith(("conv_expand", "se.fc2")):
            nn.init.zeros_(module.weight[:, squeezes[name].in_channels if name in squeezes else 0 :])
    before = outputs(grown)
    moved = sum(_reorder(block) for block in grown.modules())
    assert moved or small_code.form == ""  # a basic block whose inner width is its outer one
    torch.testing.assert_close(outputs(grown), before, rtol=1e-4, atol=1e-4)
    pruned, _ = trained(small, seed=2)
    inheritance = inherit_weights(pruned, small_code, grown, large_code)
    assert inheritance.inherited == inheritance.params
    torch.testing.assert_close(outputs(pruned), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["convnext_atto", "convnext_tiny", "convnextv2_atto", "convnextv2_tiny"])
def test_a_convnext_with_more_blocks_begins_with_the_function_it_inherits(family: str) -> None:
    source, code = trained(f"{family}_c16-24-32-48_l1-2-2-1_b40-24-100-64")
    grown, grown_code = trained(f"{family}_c16-24-32-48_l2-3-2-2_b40-24-100-64", seed=1)
    inheritance = inherit_weights(grown, grown_code, source, code)
    assert inheritance.inherited == sum(p.numel() for p in source.parameters())
    assert (inheritance.blocks, inheritance.total_blocks) == (6, 9)
    torch.testing.assert_close(outputs(grown), outputs(source), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["convnext_atto", "convnext_tiny"])
def test_a_convnext_with_wider_mlps_begins_with_the_function_it_inherits_and_gives_them_up_again(family: str) -> None:
    source, code = trained(f"{family}_c16-24-32-48_l1-2-2-1_b40-24-100-64")
    grown, grown_code = trained(f"{family}_c16-24-32-48_l1-2-2-1_b64-80-120-100", seed=1)
    assert inherit_weights(grown, grown_code, source, code).inherited == sum(p.numel() for p in source.parameters())
    before = outputs(source)
    torch.testing.assert_close(outputs(grown), before, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for block in (m for m in grown.modules() if isinstance(m, ConvNeXtBlock)):
            fc1, fc2, have = block.mlp.fc1, block.mlp.fc2, block.mlp.fc1.weight.shape[0]
            inner = dict(zip(grown_code.bottlenecks, code.bottlenecks, strict=True))[have]
            fc1.weight[inner:] = 0
            fc1.bias[inner:] = 0
            order = torch.randperm(have)
            fc1.weight.copy_(fc1.weight[order])
            fc1.bias.copy_(fc1.bias[order])
            fc2.weight.copy_(fc2.weight[:, order])
    pruned, _ = trained(str(code), seed=2)
    assert inherit_weights(pruned, code, grown, grown_code).inherited == sum(p.numel() for p in source.parameters())
    torch.testing.assert_close(outputs(pruned), before, rtol=1e-4, atol=1e-4)


def test_a_vit_with_more_begins_with_the_function_it_inherits_and_gives_it_up_again() -> None:
    (small, large), head = PAIRS["vit"], {48: 16, 32: 16, 40: 8, 24: 8}
    source, code = trained(small)
    grown, grown_code = trained(large, seed=1)
    inheritance = inherit_weights(grown, grown_code, source, code)
    assert inheritance.inherited == sum(p.numel() for p in source.parameters())
    assert (inheritance.blocks, inheritance.total_blocks) == (6, 10)
    before = outputs(source)
    torch.testing.assert_close(outputs(grown), before, rtol=1e-4, atol=1e-4)
    inner = dict(zip(grown_code.bottlenecks, code.bottlenecks, strict=True))
    mlps = dict(zip(grown_code.widths, code.widths, strict=True))
    with torch.no_grad():
        for block in grown.blocks:
            # Heads and channels that only the large one has write nothing, and all change places.
            qkv, proj, wide = block.attn.qkv, block.attn.proj, block.attn.proj.in_features
            heads = torch.arange(wide).reshape(-1, head[wide])
            order = heads[torch.randperm(len(heads))].reshape(-1)
            for tensor in (qkv.weight, qkv.bias):
                by_kind = tensor.view(3, wide, *tensor.shape[1:])
                by_kind[:, inner[wide] :] = 0
                by_kind.copy_(by_kind[:, order])
            proj.weight.copy_(proj.weight[:, order])
            fc1, fc2 = block.mlp.fc1, block.mlp.fc2
            order = torch.randperm(fc1.out_features)
            for tensor in (fc1.weight, fc1.bias):
                tensor[mlps[fc1.out_features] :] = 0
                tensor.copy_(tensor[order])
            fc2.weight.copy_(fc2.weight[:, order])
    torch.testing.assert_close(outputs(grown), before, rtol=1e-4, atol=1e-4)
    pruned, _ = trained(small, seed=2)
    assert inherit_weights(pruned, code, grown, grown_code).inherited == inheritance.inherited
    torch.testing.assert_close(outputs(pruned), before, rtol=1e-4, atol=1e-4)


def test_the_stream_of_a_vit_loses_the_same_channels_everywhere() -> None:
    source, code = trained(PAIRS["vit"][0])
    narrow = replace(code, stem_width=12)
    pruned = build(narrow, num_classes=7)
    width = code.stem_width
    taken = torch.tensor([1, 2, 5, 8, 9, 11, 17, 20, 21, 24, 30, 31])
    weight = torch.full((width,), 0.1)
    weight[taken] = 1.0
    numbers = torch.arange(1.0, width + 1)
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if parameter.ndim > 1 and name not in ("cls_token", "pos_embed"):
                # The channels to keep are written and read by large weights.
                if name.endswith(("proj.weight", "fc2.weight")):
                    parameter.mul_(weight.reshape(-1, *[1] * (parameter.ndim - 1)))
                elif name.endswith(("qkv.weight", "fc1.weight")):
                    parameter.mul_(weight)
            elif parameter.shape[-1] == width and "mlp.fc1" not in name:
                parameter.copy_(numbers.expand_as(parameter))
    inheritance = inherit_weights(pruned, narrow, source, code)
    assert inheritance.inherited == inheritance.params
    for name, parameter in pruned.named_parameters():
        whole = source.get_parameter(name)
        if parameter.ndim == 1 and len(whole) == width and "mlp.fc1" not in name:
            assert torch.equal(parameter, numbers[taken]), name
        elif name in ("cls_token", "pos_embed"):
            assert torch.equal(parameter[0, -1], numbers[taken]), name
        elif name.endswith(("qkv.weight", "fc1.weight", "head.weight")):
            assert torch.equal(parameter, whole[:, taken]), name


def test_a_vit_of_a_smaller_image_inherits_resampled_positions() -> None:
    source, code = trained(PAIRS["vit"][0])
    smaller = replace(code, image_size=32)
    fresh = build(smaller, num_classes=7).eval()
    inherit_weights(fresh, smaller, source, code)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fresh(images), source(images))  # which resamples them itself


def _reorder(block: nn.Module) -> int:
    """Reverse a block's inner channels, which leaves its function as it is."""
    if hasattr(block, "ghost1"):
        return _reorder_pairs(block)
    if hasattr(block, "conv_exp"):
        chain = [("conv_exp", "bn1"), ("conv_pwl", None)]
    elif hasattr(block, "pw_proj"):
        chain = [("pw_exp.conv", "pw_exp.bn"), ("dw_mid.conv", "dw_mid.bn"), ("pw_proj.conv", None)]
        chain = chain if hasattr(block.dw_mid, "conv") else [chain[0], chain[2]]
    elif hasattr(block, "conv_pwl"):
        chain = [("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", None)]
    elif hasattr(block, "conv3") and (hasattr(block.conv3, "conv") or block.conv2.groups > 1):
        return _reorder_groups(block)
    elif hasattr(block, "conv3") or (hasattr(block, "conv2") and block.conv1.out_channels != block.conv2.out_channels):
        chain = [("conv1", "bn1"), ("conv2", None)]
    else:
        return 0
    with torch.no_grad():
        for conv, norm in chain:
            weight = block.get_submodule(conv).weight
            if norm is None:
                weight.copy_(weight.flip(1))
                continue
            weight.copy_(weight.flip(0))
            layer = block.get_submodule(norm)
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.copy_(tensor.flip(0))
        squeeze = getattr(block, "se", None)
        if hasattr(squeeze, "conv_reduce"):
            squeeze.conv_reduce.weight.copy_(squeeze.conv_reduce.weight.flip(1))
            squeeze.conv_expand.weight.copy_(squeeze.conv_expand.weight.flip(0))
            squeeze.conv_expand.bias.copy_(squeeze.conv_expand.bias.flip(0))
    return 1


@torch.no_grad()
def _reorder_pairs(block: nn.Module) -> int:
    """Reverse the inner pairs of a GhostNet's block, but for a last one that has no ghost."""
    width = block.ghost1.out_chs
    half, pairs = (width + 1) // 2, width // 2
    first = torch.arange(half)
    first[:pairs] = first[:pairs].flip(0)
    order = torch.cat([first, first[:pairs] + half])
    modules = [(block.ghost1.primary_conv, first), (block.ghost1.cheap_operation, first)]
    modules += [((block.conv_dw, block.bn_dw), order)] if block.conv_dw is not None else []
    for (conv, norm, *_), places in modules:
        for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(tensor[places])
    if block.se is not None:
        block.se.conv_reduce.weight.copy_(block.se.conv_reduce.weight[:, order])
        block.se.conv_expand.weight.copy_(block.se.conv_expand.weight[order])
        block.se.conv_expand.bias.copy_(block.se.conv_expand.bias[order])
    reads = block.ghost2.primary_conv[0].weight
    reads.copy_(reads[:, order])
    return 1


def _reorder_groups(block: nn.Module) -> int:
    """Reverse the groups of a RegNet's or ResNeXt's block, and the channels inside each."""
    with torch.no_grad():
        for number, axes in ((1, (0,)), (2, (0, 1)), (3, (1,))):
            layer = getattr(block, f"conv{number}")
            conv, bn = (
                (layer, getattr(block, f"bn{number}")) if isinstance(layer, nn.Conv2d) else (layer.conv, layer.bn)
            )
            conv.weight.copy_(conv.weight.flip(axes))
            for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
                if 0 in axes:
                    tensor.copy_(tensor.flip(0))
        if hasattr(block.se, "fc1") and hasattr(block.conv3, "conv"):  # a ResNeXt has it on its output
            block.se.fc1.weight.copy_(block.se.fc1.weight.flip(1))
            block.se.fc2.weight.copy_(block.se.fc2.weight.flip(0))
            block.se.fc2.bias.copy_(block.se.fc2.bias.flip(0))
    return 1


@pytest.mark.parametrize("text", [small for small, _ in PAIRS.values()], ids=PAIRS)
def test_other_classes_and_inputs_are_left_fresh(text: str) -> None:
    source, code = trained(text)
    fresh = build(code, num_classes=3, in_chans=1)
    before = fresh.get_classifier().weight.clone()
    inheritance = inherit_weights(fresh, code, source, code)
    assert torch.equal(fresh.get_classifier().weight, before)
    classifier = sum(p.numel() for p in fresh.get_classifier().parameters())
    assert 0.9 * (inheritance.params - classifier) < inheritance.inherited < inheritance.params - classifier


def test_a_block_inherits_from_one_of_its_form_where_a_stage_has_several() -> None:
    # Of the third stage's six blocks the first has two depthwise convolutions, the last one before its 1x1, four others
    # one between them.
    source, code = trained("mobilenetv4_conv_small_c16-24-32-48_l1-1-6-2_t1-2-2-2_stem16_head96")
    with torch.no_grad():
        for block, factor in ((2, 4.0), (4, 5.0), (5, 9.0)):
            source.blocks[2][block].pw_proj.bn.weight.mul_(factor)
    shallow, part = trained("mobilenetv4_conv_small_c16-24-32-48_l1-1-3-2_t1-2-2-2_stem16_head96", seed=1)
    inheritance = inherit_weights(shallow, part, source, code)
    assert (inheritance.inherited, inheritance.blocks) == (inheritance.params, inheritance.total_blocks)
    for block, of_block in ((0, 0), (1, 2), (2, 4)):
        theirs = source.blocks[2][of_block].state_dict()
        assert all(torch.equal(mine, theirs[key]) for key, mine in shallow.blocks[2][block].state_dict().items())


def test_of_blocks_without_a_shortcut_a_shallower_stage_has_the_first_ones() -> None:
    source, code = trained("mobilenetv4_conv_small_c16-24-32-48_l3-2-1-1_b24-40-60-90_e20-30-60-90_stem16_head96")
    shallow, part = trained(
        "mobilenetv4_conv_small_c12-16-32-48_l2-1-1-1_b16-20-60-90_e12-20-60-90_stem16_head96", seed=1
    )
    inheritance = inherit_weights(shallow, part, source, code)
    assert (inheritance.inherited, inheritance.blocks) == (inheritance.params, inheritance.total_blocks)
    assert torch.isfinite(outputs(shallow)).all()


def test_another_family_has_other_blocks() -> None:
    source, code = trained(PAIRS["mobilenetv2"][0])
    other, other_code = trained(PAIRS["efficientnet_b0"][0])
    with pytest.raises(CodeError, match="same family"):
        inherit_weights(other, other_code, source, code)


@OF_EACH
def test_what_is_left_of_a_network_is_a_subnetwork_of_it_and_not_the_reverse(small: str, large: str) -> None:
    one, whole = Code.parse(small), Code.parse(large)
    assert is_subnetwork(one, whole)
    assert is_subnetwork(whole, whole)
    assert not is_subnetwork(whole, one)
    # Wider or deeper in a single stage, and smaller in all others.
    fixed = {"stem_width": one.stem_width} if family_of(one.family).stem_width is not None else {}
    for i, (entry, most) in enumerate(zip(one.entries[: 2 * len(one.widths)], whole.entries, strict=False)):
        beyond = [*one.entries]
        beyond[i] = most + (entry if i < len(one.widths) else 1)
        assert not is_subnetwork(Code.from_entries(one.family, beyond, form=one.form, **fixed), whole), i


@pytest.mark.parametrize("text", [large for _, large in PAIRS.values()], ids=PAIRS)
def test_every_code_of_a_space_of_subnetworks_is_one(text: str) -> None:
    whole = Code.parse(text)
    if 1 in whole.expansions:
        pytest.skip("has no inner widths to choose")
    space = Space.subnetworks(whole)
    for row in space.sample(40, 0):
        assert is_subnetwork(space.code(row), whole)
