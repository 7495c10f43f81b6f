"""Inherited weights that are fitted: each layer by least squares to the trained network's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.test_inherit import PAIRS, trained
from strategies import some_by_default
from timm.layers import Conv2dSame
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.models import importance, inherit
from bsszoo.models.build import build
from bsszoo.models.inherit import Reference, inherit_weights
from bsszoo.models.reconstruct import Samples, ridge_fit

#: By default one of each kind of block.
OF_SOME = pytest.mark.parametrize(
    ("small", "large"),
    some_by_default(
        PAIRS.values(),
        [
            pair
            for name, pair in PAIRS.items()
            if name.startswith(("resnet50", "seresnext", "mobilenetv2", "mobilenetv4", "ghostnet", "convnext", "vit"))
        ],
    ),
    ids=PAIRS,
)


def images(number: int, seed: int) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_ridge_regression_is_that_of_an_augmented_least_squares_problem() -> None:
    rng = np.random.default_rng(0)
    X, T, A0 = rng.normal(size=(2, 40, 5)), rng.normal(size=(2, 40, 3)), rng.normal(size=(2, 3, 5))
    A, shift, mean, var = ridge_fit(*map(torch.from_numpy, (X, T, A0)), ridge=0.2)
    for b in range(2):
        centred = X[b] - X[b].mean(0)
        weight = np.sqrt(0.2 * centred.var(0).mean() * len(X[b]))
        wanted = np.linalg.lstsq(
            np.concatenate([centred, weight * np.eye(5)]),
            np.concatenate([T[b] - T[b].mean(0), weight * A0[b].T]),
            rcond=None,
        )[0].T
        np.testing.assert_allclose(A[b], wanted, atol=1e-10)
        np.testing.assert_allclose(shift[b], T[b].mean(0) - wanted @ X[b].mean(0), atol=1e-10)
        np.testing.assert_allclose(mean[b], (X[b] @ wanted.T).mean(0), atol=1e-10)
        np.testing.assert_allclose(var[b], (X[b] @ wanted.T).var(0), atol=1e-10)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2)]
)
def test_patches_are_what_the_convolution_reads(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    x = torch.randn(3, 4, 11, 9)
    samples = Samples(3, rows=50)
    wanted = samples.values(conv(x))
    assert len(wanted) == 50
    patches = samples.patches(x, conv)
    torch.testing.assert_close(patches.flatten(1) @ conv.weight.flatten(1).T, wanted)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (5, 2), (5, 1)])
def test_patches_are_what_a_convolution_of_tensorflow_reads(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = Conv2dSame(4, 6, kernel, stride, bias=False)
    x = torch.randn(3, 4, 11, 10)
    samples = Samples(3, rows=50)
    patches = samples.patches(x, conv)
    torch.testing.assert_close(patches.flatten(1) @ conv.weight.flatten(1).T, samples.values(conv(x)))


def test_half_of_the_sampled_tokens_are_those_in_front() -> None:
    image, row, column = Samples(20, rows=100, tokens=2).of_size(1, 18)
    assert len(image) == 100
    assert not row.any()
    assert (column[:50] < 2).all()
    assert (column[50:] >= 2).all()
    assert len({(int(i), int(c)) for i, c in zip(image[50:], column[50:], strict=True)}) == 50
    assert image.max() < 20
    assert column.max() < 18
    few = Samples(3, rows=100, tokens=1).of_size(1, 5)
    assert {len(part) for part in few} == {7 + 8}
    # Features of pixels are sampled as without tokens.
    pairs = zip(Samples(3, 10, tokens=1).of_size(4, 4), Samples(3, 10).of_size(4, 4), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def error(network: nn.Module, original: nn.Module) -> float:
    """Mean squared difference of the outputs for images that nothing was fitted to, over the outputs' variance."""
    with torch.no_grad():
        wanted = original.eval()(images(64, 9))
        return float(((network.eval()(images(64, 9)) - wanted) ** 2).mean() / wanted.var())


@pytest.mark.parametrize("text", [small for small, _ in PAIRS.values()], ids=PAIRS)
def test_the_whole_network_stays_what_it_is(text: str) -> None:
    original, code = trained(text)
    again, _ = trained(text, seed=1)
    inherit_weights(again, code, original, code, reference=Reference(original, code, images(96, 2)))
    assert error(again, original) < 1e-6


@pytest.mark.parametrize("v2", ["", "v2"])
def test_both_forms_of_a_convnext_come_to_the_same_subnetwork(v2: str) -> None:
    """1x1 convolutions and linear layers on each pixel compute the same, so their channels and fits are the same."""
    convolved, _ = trained(f"convnext{v2}_atto_c24-32-48-64_l2-3-2-2_b80-128-150-200")
    code = Code.parse(f"convnext{v2}_tiny_c24-32-48-64_l2-3-2-2_b80-128-150-200")
    linear = build(code, num_classes=7).eval()
    state = linear.state_dict()
    linear.load_state_dict({k: v.reshape(state[k].shape) for k, v in convolved.state_dict().items()})
    labels, fitted = torch.arange(96) % 7, []
    for network in (convolved, linear):
        family = "atto" if network is convolved else "tiny"
        whole = Code.parse(f"convnext{v2}_{family}_c24-32-48-64_l2-3-2-2_b80-128-150-200")
        part = Code.parse(f"convnext{v2}_{family}_c16-24-32-48_l1-2-2-1_b40-24-100-64")
        made = build(part, num_classes=7)
        inherit_weights(made, part, network, whole, reference=Reference(network, whole, images(96, 2), labels))
        fitted.append(made.eval())
    with torch.no_grad():
        a, b = (network(images(16, 9)) for network in fitted)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@OF_SOME
def test_a_subnetwork_comes_nearer_to_the_network_by_the_fit(small: str, large: str) -> None:
    original, large_code = trained(large)
    code = Code.parse(small)
    before, after = build(code, num_classes=7), build(code, num_classes=7)
    plain = inherit_weights(before, code, original, large_code)
    fitted = inherit_weights(
        after, code, original, large_code, reference=Reference(original, large_code, images(128, 2))
    )
    assert plain == fitted
    assert error(after, original) < 0.7 * error(before, original)


def test_of_a_normalised_convolution_of_pooled_features_only_the_biases_are_fitted() -> None:
    whole, part = (Code.parse(text) for text in PAIRS["mobilenetv4_conv_medium"][::-1])
    original, _ = trained(str(whole))
    plain, fitted = build(part, num_classes=7), build(part, num_classes=7)
    inherit_weights(plain, part, original, whole)
    inherit_weights(fitted, part, original, whole, reference=Reference(original, whole, images(128, 2)))
    assert torch.equal(fitted.norm_head.weight, plain.norm_head.weight)
    assert torch.equal(fitted.norm_head.running_mean, plain.norm_head.running_mean)
    assert not torch.allclose(fitted.norm_head.bias, plain.norm_head.bias)
    before = []
    for network in (original, fitted):
        network.norm_head.register_forward_pre_hook(lambda m, x: before.append((m, x[0])))
        with torch.no_grad():
            network.eval()(images(128, 2))
    (theirs, x), (mine, y) = before
    means = [
        (z.mean((0, 2, 3)) - m.running_mean) * m.weight / torch.sqrt(m.running_var + m.eps) + m.bias
        for m, z in ((theirs, x), (mine, y))
    ]
    torch.testing.assert_close(means[1], means[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "resnet18_c16-24-24-32_l1-2-1-1_b16-24-24-32",
        "resnet50_c32-48-64-64_l1-2-1-1_b16-16-24-32",
        "mobilenetv2_c8-12-16-16-24-24_l1-2-1-1-2-1_b16-40-40-60-80-80_e16-40-40-60-80-80_stem8_stage2-8x1",
    ],
)
def test_channels_that_say_the_same_as_others_are_removed_without_loss(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, code = trained(text)
    wide = Code.from_entries(
        code.family,
        [
            *code.widths,
            *code.depths,
            *(2 * b for b in code.bottlenecks or code.widths),
            *(2 * e for e in code.first_bottlenecks),
        ],
        form="BE" if code.first_bottlenecks else "B",
        stem_width=code.stem_width,
        stage2_width=code.stage2_width,
        stage2_depth=code.stage2_depth,
    )
    # Each inner channel twice, and what reads them halved: the same function in a network twice as wide inside.
    doubled = build(wide, num_classes=7).eval()
    state = {}
    theirs = original.state_dict()
    for name, tensor in doubled.state_dict().items():
        value = theirs[name]
        for axis in (0, 1):
            if axis < value.dim() and value.shape[axis] != tensor.shape[axis]:
                value = torch.cat([value, value], axis) / (1 + axis)
        state[name] = value
    doubled.load_state_dict(state)
    assert error(doubled, original) < 1e-6
    # One of each pair is taken, whatever their importance.
    for module in (inherit, importance):
        monkeypatch.setattr(module, "channel_map", lambda _, size: torch.arange(size))
    small = build(code, num_classes=7)
    reference = Reference(doubled, wide, images(128, 2), ridge=1e-6)
    inherit_weights(small, code, doubled, wide, reference=reference)
    assert error(small, original) < 1e-3
    plain = build(code, num_classes=7)
    inherit_weights(plain, code, doubled, wide)
    assert error(plain, original) > 10 * error(small, original)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("resnet18_c16-24-24-32_l2-1-2-1", "resnet18_c12-32-24-40_l1-3-1-1_b20-16-32-24"),
        ("resnet50_c32-48-64-64_l1-2-1-1_b16-16-24-32", "resnet50_c40-32-64-72_l2-1-1-1_b8-24-16-40"),
        (
            "mobilenetv2_c8-12-16-16-24-24_l1-2-1-1-2-1_b16-40-40-60-80-80_e16-40-40-60-80-80_stem8_stage2-8x1",
            "mobilenetv2_c12-8-16-20-16-24_l2-1-1-2-1-1_b24-32-48-40-96-80_e24-32-48-40-96-80_stem8_stage2-8x1",
        ),
    ],
)
def test_a_network_that_is_larger_in_parts_comes_nearer_by_the_fit(text: str, other: str) -> None:
    original, code = trained(text)
    torch.manual_seed(1)
    mixed = Code.parse(other)
    before, after = build(mixed, num_classes=7), build(mixed, num_classes=7)
    inherit_weights(before, mixed, original, code)
    inherit_weights(after, mixed, original, code, reference=Reference(original, code, images(128, 2)))
    assert error(after, original) < 0.85 * error(before, original)


def test_a_network_that_is_larger_everywhere_stays_the_same_function() -> None:
    original, code = trained("resnet18_c16-24-24-32_l1-1-1-1")
    wider = Code.parse("resnet18_c24-32-32-40_l2-1-2-1_b24-32-40-40")
    torch.manual_seed(1)
    network = build(wider, num_classes=7)
    inherit_weights(network, wider, original, code, reference=Reference(original, code, images(256, 2)))
    assert error(network, original) < 0.02
