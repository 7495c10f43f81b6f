"""What people do with a timm model works with a built one, for every kind of block and odd widths."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
import torch
from models.counting import SMALL, small
from timm.data import resolve_data_config
from torch import nn

from bsszoo.codes import FAMILIES, Code, stages_of
from bsszoo.errors import CodeError
from bsszoo.models.build import build
from bsszoo.spaces import Space

pytestmark = pytest.mark.usefixtures("seeded")

KINDS = list(SMALL)
#: Networks with a convolution behind the pooling, and one more in front of it than the features have.
POOLED_FIRST = ("mobilenetv3", "mobilenetv4")
# timm's GhostNets have neither dilation nor stochastic depth.
DILATED = [kind for kind in KINDS if not kind.startswith("ghostnet")]


def images(n: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(n, channels, 64, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_head_of_features(kind: str) -> None:
    net = build(small(kind), num_classes=10).eval()
    x = images()
    with torch.no_grad():
        features = net.forward_features(x)
        # A ViT's are those of 8x8 patches and of the class token.
        assert features.shape == ((2, 65, net.num_features) if kind == "vit" else (2, net.num_features, 2, 2))
        assert net.forward_head(features, pre_logits=True).shape == (2, net.head_hidden_size)
        assert torch.equal(net(x), net.forward_head(features))
        assert net(x).shape == (2, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_can_be_read_and_reset(kind: str) -> None:
    net = build(small(kind))
    name = net.default_cfg["classifier"]
    assert net.get_classifier() is net.get_submodule(name)
    assert net.get_classifier().out_features == 1000
    net.reset_classifier(7)
    assert net(images()).shape == (2, 7)
    net.reset_classifier(0)
    assert net(images()).shape == (2, net.head_hidden_size)
    # timm's convolution behind the pooling cannot change with it, and its ConvNeXts normalise what is pooled.
    last = kind.startswith((*POOLED_FIRST, "ghostnet"))
    pool = "max" if kind.startswith(("convnext", "vit")) else "avg" if last else "catavgmax"
    net.reset_classifier(3, global_pool=pool)
    assert net(images()).shape == (2, 3)
    net.reset_classifier(0, global_pool="")
    assert net(images()).ndim == (3 if kind == "vit" else 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("in_chans", "num_classes"), [(1, 10), (5, 0)])
def test_other_channels_and_classes(kind: str, in_chans: int, num_classes: int) -> None:
    net = build(small(kind), in_chans=in_chans, num_classes=num_classes).eval()
    assert net(images(channels=in_chans)).shape == (2, num_classes or net.head_hidden_size)


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_features_only_gives_the_intermediates(kind: str, output_stride: int) -> None:
    if kind not in DILATED and output_stride != 32:
        pytest.skip("has no dilation")
    code = small(kind)
    if kind == "vit" and output_stride != 32:
        with pytest.raises(CodeError, match="no stride to turn into dilation"):
            build(code, output_stride=output_stride, features_only=True)
        return
    whole = build(code, output_stride=output_stride).eval()
    net = build(code, output_stride=output_stride, features_only=True).eval()
    # The keys are those of the whole network, so one checkpoint serves both.
    assert set(net.state_dict()) < set(whole.state_dict())
    net.load_state_dict({k: v for k, v in whole.state_dict().items() if k in net.state_dict()})
    x = images()
    with torch.no_grad():
        features = net(x)
        indices = [depth - 1 for depth in accumulate(code.depths)] if kind == "vit" else None
        _, expected = whole.forward_intermediates(x, indices=indices)
        if kind.startswith(POOLED_FIRST):  # the whole network's last ones are behind one more convolution
            assert torch.equal(whole.blocks[-1](features[-1]), expected.pop())
            expected.append(features[-1])
        if kind.startswith("ghostnet"):  # the whole network's are those of the first block at each stride
            expected, x_ = [], whole.act1(whole.bn1(whole.conv_stem(x)))
            for module in whole.blocks[:9]:
                x_ = module(x_)
                expected.append(x_)
            expected = expected[::2]
    assert [f.shape[1] for f in features] == net.feature_info.channels()
    strides = FAMILIES[code.family].feature_strides
    assert net.feature_info.reduction() == [min(r, output_stride) for r in strides]
    assert [64 // f.shape[-1] for f in features] == net.feature_info.reduction()
    for ours, theirs in zip(features, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_out_indices_choose_among_the_features(kind: str) -> None:
    code = small(kind)
    torch.manual_seed(1)
    every = build(code, features_only=True).eval()
    torch.manual_seed(1)
    chosen = build(code, features_only=True, out_indices=(1, 3)).eval()
    assert chosen.feature_info.channels() == [every.feature_info.channels()[i] for i in (1, 3)]
    x = images()
    with torch.no_grad():
        chosen.load_state_dict({k: v for k, v in every.state_dict().items() if k in chosen.state_dict()})
        assert all(torch.equal(a, every(x)[i]) for a, i in zip(chosen(x), (1, 3), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in DILATED if kind != "vit"])
def test_weights_fit_at_every_output_stride(kind: str) -> None:
    """Equal neighbouring widths are where a projection or a skip could come and go with the stride."""
    code = small(kind)
    state = build(code).state_dict()
    for output_stride in (16, 8):
        net = build(code, output_stride=output_stride).eval()
        net.load_state_dict(state, strict=True)
        assert net.forward_features(images()).shape[-1] == 64 // output_stride


def test_dilation_keeps_what_each_weight_sees() -> None:
    """Every output that both networks have is the same number: dilation only computes the ones in between."""
    for kind in DILATED:
        if kind.startswith(("convnext", "se", "gates", "fused", "same padding", "vit")):
            # timm pads the downsampling of dilated ConvNeXts; TensorFlow's padding depends on the stride; and
            # squeeze-and-excitation reads the mean over all positions, those in between too: test_originals.py
            # compares these with timm.
            continue
        code = small(kind)
        net, dilated = build(code, num_classes=0).eval(), build(code, num_classes=0, output_stride=8).eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
        dilated.load_state_dict(net.state_dict())
        x = images(1)
        with torch.no_grad():
            torch.testing.assert_close(
                dilated.forward_features(x)[:, :, ::4, ::4], net.forward_features(x), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_gives_the_same_gradients(kind: str) -> None:
    net = build(small(kind), num_classes=4).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)  # timm starts branches at zero, where gradients vanish
    x = images()

    def gradients() -> list[torch.Tensor]:
        net.zero_grad()
        net(x).square().mean().backward()
        return [p.grad.clone() for p in net.parameters()]

    plain = gradients()
    net.set_grad_checkpointing(True)
    assert all(stage.grad_checkpointing for stage in net.stages) if hasattr(net, "stages") else net.grad_checkpointing
    for a, b in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(a, b)
    assert sum(bool(g.abs().max() > 0) for g in plain) > 0.9 * len(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_files_hold_the_same_network(kind: str) -> None:
    net = build(small(kind), num_classes=6).eval()
    x = images()
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    read = build(small(kind), num_classes=6).eval()
    read.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        expected = net(x)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), read):
            assert torch.equal(other(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: str) -> None:
    net = build(small(kind), num_classes=2, drop_rate=0.1).train()
    x, y = images(8), torch.tensor([0, 1] * 4)
    x[::2] += 2.0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.005, momentum=0.9)
    losses = []
    for _ in range(16):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.5 * losses[0]


@pytest.mark.parametrize("kind", DILATED)
def test_drop_path_rises_to_the_rate_and_acts_in_training_only(kind: str) -> None:
    net = build(small(kind), drop_path_rate=0.3, num_classes=5)
    rates = [m.drop_prob for m in net.modules() if type(m).__name__ == "DropPath"]
    blocks = sum(
        len(stage.first.parts()) * stage.depth if kind.startswith("mobilenetv4") else stage.depth
        for stage in stages_of(small(kind))
        if stage.first.stacked or (kind.startswith(POOLED_FIRST) and stage.first.kind == "head_conv")
    )
    # The first block's rate is 0; a ViT's have two branches.
    assert len(rates) == (2 if kind == "vit" else 1) * (blocks - 1)
    assert rates == sorted(rates)
    to_the_last = kind == "caffe" or kind.startswith(("resn", "seresn", "convnext", "vit"))
    assert rates[-1] == pytest.approx(0.3 if to_the_last else 0.3 * (blocks - 1) / blocks)
    # A branch that starts at zero shows no drop.
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if getattr(module, "gamma", None) is not None:
            nn.init.ones_(module.gamma)
    x = images(48)
    with torch.no_grad():
        assert not torch.equal(net.train()(x), net(x))
        assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize("kind", KINDS)
def test_default_cfg_says_how_to_feed_it(kind: str) -> None:
    code = replace(small(kind), image_size=240)
    net = build(code)
    data = resolve_data_config(model=net)
    assert data["input_size"] == (3, 240, 240)
    assert data["mean"] == (0.485, 0.456, 0.406)
    assert data["crop_pct"] == 0.882
    assert isinstance(net.get_submodule(net.default_cfg["first_conv"]), nn.Conv2d)
    assert isinstance(net.get_submodule(net.default_cfg["classifier"]), nn.Linear)
    with torch.no_grad():
        features = net.eval().forward_features(torch.randn(1, 3, 240, 240))
    size = net.default_cfg["pool_size"]
    assert features.shape[1] == size[0] * size[1] + 1 if kind == "vit" else features.shape[-2:] == size


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_parameters_cover_the_network(kind: str) -> None:
    """What layer-wise learning rates stand on."""
    from timm.models import group_parameters

    net = build(small(kind))
    groups = group_parameters(net, net.group_matcher())
    assert sum(map(len, groups.values())) == len(list(net.parameters()))
    assert len(groups) > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_of_each_space_run(family: str) -> None:
    """Forward and backward of the smallest code of the space and of a random one at half its width."""
    space = Space.of(family)
    for code in (space.smallest, space.scaled(0.25).code(space.scaled(0.25).sample(1, 11)[0])):
        net = build(code, num_classes=3).train()
        net(images()).sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_what_a_vit_has_not_is_refused() -> None:
    code = small("vit")
    for settings, words in (
        ({"output_stride": 16}, "no stride to turn into dilation"),
        ({"global_pool": "catavgmax"}, "no pooling 'catavgmax'"),
    ):
        with pytest.raises(CodeError, match=words):
            build(code, **settings)
    with pytest.raises(CodeError, match="smaller than a patch of 8x8 px"):
        build(replace(code, image_size=7))
    assert build(code, global_pool="avg", num_classes=3)(images()).shape == (2, 3)


def test_a_network_of_single_channels_builds_and_runs() -> None:
    code = Code("efficientnet_b0", (1,) * 6, (1,) * 6, expansions=(1,) * 6, stem_width=1, stage2_width=1)
    assert build(code, num_classes=2).eval()(images()).shape == (2, 2)


def test_meta_device_and_dtype() -> None:
    net = build(small("efficientnet"), device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.float16)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": -1}, "num_classes is -1"),
        ({"in_chans": 0}, "in_chans is 0"),
        ({"drop_rate": 1.5}, "drop_rate is 1.5"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1"),
        ({"output_stride": 4}, "allowed are 8, 16 and 32"),
        ({"out_indices": (1,)}, "features_only=True"),
    ],
)
def test_impossible_arguments_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(CodeError, match=words):
        build(small("resnet18"), **arguments)


def test_same_seed_same_network() -> None:
    code = Space.of("mobilenetv2").code(Space.of("mobilenetv2").sample(1, np.random.default_rng(0))[0])
    torch.manual_seed(5)
    one = build(code).state_dict()
    torch.manual_seed(5)
    other = build(code).state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)
