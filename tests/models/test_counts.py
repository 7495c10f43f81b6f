"""The layer list that drives the cost is the built network: three independent counts, and layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from models.counting import attention_products, count_by_hooks, count_by_thop, on_meta
from strategies import codes, some_by_default
from timm.layers import set_fused_attn, use_fused_attn
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bsszoo.codes import FAMILIES, Code, code_cost, layers_of
from bsszoo.codes.named import named_entries
from bsszoo.models.build import build, recount
from bsszoo.spaces import Space

NAMED = list(named_entries().values())


def assert_network_is_the_layer_list(code: Code, net: nn.Module, **arguments: int) -> None:
    built = [(name, m) for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    every = layers_of(code, **arguments)
    vectors = {vector.name: vector.shape for layer in every for vector in layer.vectors}
    listed = [layer for layer in every if layer.role != "norm"]
    assert [name for name, _ in built] == [layer.name for layer in listed]
    for (name, module), layer in zip(built, listed, strict=True):
        if isinstance(module, nn.Linear):
            actual = (module.in_features, module.out_features, 1, 1, 1, module.bias is not None)
            assert layer.flat or layer.role == "classifier"
        else:
            assert module.kernel_size[0] == module.kernel_size[1]
            assert module.stride[0] == module.stride[1]
            assert not layer.flat
            assert layer.kernel == 1 or layer.padded == (module.padding[0] > 0 or isinstance(module, Conv2dSame))
            actual = (
                module.in_channels,
                module.out_channels,
                module.kernel_size[0],
                module.stride[0],
                module.groups,
                module.bias is not None,
            )
        groups = layer.groups
        if layer.scale:
            assert net.get_parameter(layer.scale).shape == (layer.out_width,)
        assert actual == (layer.in_width, layer.out_width, layer.kernel, layer.stride, groups, layer.bias), name
    norms = [m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(norms) == sorted(layer.out_width for layer in listed if layer.norm)
    of_layers = {f"{layer.name}.{kind}" for layer in listed for kind in ("weight", "bias")}
    rest = {n: tuple(p.shape) for n, p in net.named_parameters() if n not in of_layers}
    assert vectors == ({} if norms else rest)


def assert_three_counts_agree(code: Code, net: nn.Module, size: int) -> None:
    cost = code_cost(code, size)
    assert sum(p.numel() for p in net.parameters()) == cost.params
    counted = count_by_hooks(net, size)
    assert (counted.macs, counted.activations) == (cost.macs, cost.activations)
    assert count_by_thop(net, size) + attention_products(code, size) == cost.macs


@pytest.mark.parametrize("entry", NAMED, ids=lambda entry: entry.name)
def test_every_row_of_the_paper(entry) -> None:
    net = on_meta(entry.code)
    assert_network_is_the_layer_list(entry.code, net)
    assert_three_counts_agree(entry.code, net, entry.code.image_size)


@pytest.mark.parametrize("size", [32, 63, 75, 101, 127])
@pytest.mark.parametrize("name", ["convnext_atto", "convnext_tiny", "convnextv2_atto", "convnextv2_tiny"])
def test_convnexts_of_timm_at_odd_sizes(name: str, size: int) -> None:
    """Their downsampling reads no pixel beyond the edge, where the other families' rounds odd sides up."""
    assert_three_counts_agree(named_entries()[name].code, timm.create_model(name, device="meta").eval(), size)


@settings(max_examples=25)
@given(code=codes(max_width=300, max_depth=3))
def test_any_code(code: Code) -> None:
    net = on_meta(code)
    assert_network_is_the_layer_list(code, net)
    # Not smaller: a 7x7 stem and five strides on a few pixels are legal, but say nothing about real use.
    assert_three_counts_agree(code, net, max(32, code.image_size))


@pytest.mark.parametrize("scale", some_by_default([1.0, 0.6], [1.0]))
@pytest.mark.parametrize("family", FAMILIES)
def test_codes_of_the_spaces(family: str, scale: float) -> None:
    """Random codes, and the two corners, of each family's space and of its scaled grid."""
    space = Space.of(family).scaled(scale) if scale != 1 else Space.of(family)
    drawn = [space.code(row) for row in space.sample(1, np.random.default_rng(7))]
    for code in (space.smallest, *drawn):
        net = on_meta(code)
        assert_network_is_the_layer_list(code, net)
        assert_three_counts_agree(code, net, code.image_size)
    largest = on_meta(space.largest)
    assert sum(p.numel() for p in largest.parameters()) == code_cost(space.largest).params


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_base_patch32_224"])
def test_vits_of_timm_as_torch_counts_them(name: str) -> None:
    """torch counts the products of attention that is not fused; a multiply-add is two of its operations."""
    fused = use_fused_attn()
    set_fused_attn(False)
    try:
        net = timm.create_model(name, device=torch.device("meta")).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.empty(1, 3, 224, 224, device="meta"))
    finally:
        set_fused_attn(fused)
    cost = code_cost(named_entries()[name].code)
    assert counter.get_total_flops() == 2 * cost.macs
    assert sum(p.numel() for p in net.parameters()) == cost.params


def test_a_vit_runs_at_other_sizes_with_the_positions_of_its_own() -> None:
    code = Code.parse("vit_patch8_c40-56-80-40_l1-2-1-1_b32-48-32-8_g16-16-8-8_stem24_px64")
    net = build(code).eval()
    for size in (48, 72):
        cost = code_cost(code, size)
        assert cost.params == sum(p.numel() for p in net.parameters()) == code_cost(code).params
        assert cost.macs == recount(code, size)[0]
        assert net(torch.zeros(1, 3, size, size)).shape == (1, 1000)


@pytest.mark.parametrize(("num_classes", "in_chans"), [(10, 3), (0, 3), (1000, 1), (7, 5)])
@pytest.mark.parametrize("name", ["resnet18_autobss", "efficientnet_b0_autobss", "convnext_atto", "convnextv2_tiny"])
def test_other_classes_and_channels(name: str, num_classes: int, in_chans: int) -> None:
    code = named_entries()[name].code
    net = on_meta(code, num_classes=num_classes, in_chans=in_chans)
    cost = code_cost(code, 96, num_classes=num_classes, in_chans=in_chans)
    assert sum(p.numel() for p in net.parameters()) == cost.params
    counted = count_by_hooks(net, 96, in_chans)
    assert (counted.macs, counted.activations) == (cost.macs, cost.activations)
    assert count_by_thop(net, 96, in_chans) == cost.macs


def test_odd_widths_are_exact() -> None:
    """The widths that timm would round: 84 and 420 of EfficientNet-B0 AutoBSS, and a gate of 28 // 4 = 7."""
    net = on_meta(named_entries()["efficientnet_b0_autobss"].code)
    block = net.blocks[1][1]
    assert (block.conv_pw.out_channels, block.conv_dw.groups, block.se.conv_reduce.out_channels) == (84, 84, 7)
    assert net.blocks[4][1].conv_pw.out_channels == 420
