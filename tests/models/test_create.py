"""``bsszoo.create``: names, codes, and weights from files and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

import bsszoo
from bsszoo.errors import CodeError, UnknownNameError, WeightsError
from bsszoo.models.create import create
from bsszoo.models.names import entries, find

pytestmark = pytest.mark.usefixtures("seeded")

TINY = "mobilenetv2_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2"
RESNET = "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24"


def images(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 64, 64)


def trained(code: str, **arguments: Any) -> nn.Module:
    """A network whose normalisation is no longer as at the start, so that a missed buffer shows."""
    net = create(code, **arguments)
    for name, tensor in net.state_dict().items():
        if "running_mean" in name:
            tensor.normal_(0, 0.1)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5)
    return net.eval()


@torch.no_grad()
def same(a: nn.Module, b: nn.Module, channels: int = 3) -> bool:
    x = images(channels)
    return torch.equal(a.eval()(x), b.eval()(x))


#: Of a family's published networks the one of the fewest multiply-adds, and those of the paper.
RUN = {e.code.family: e.name for e in sorted(entries().values(), key=lambda e: -e.cost.macs)}.values()
PAPERS = [n for n, e in entries().items() if e.paper is not None and "resnet50_r" not in n and "maskrcnn" not in n]


@pytest.mark.parametrize("name", sorted({*RUN, *PAPERS}))
def test_every_entry_runs(name: str) -> None:
    rates = {} if name.startswith("ghostnet") else {"drop_path_rate": 0.1}  # timm's have no stochastic depth
    net = create(name, num_classes=10, drop_rate=0.1, **rates).eval()
    with torch.no_grad():
        assert net(images()).shape == (2, 10)
    assert net.default_cfg["architecture"] == find(name).architecture


@pytest.mark.parametrize("name", ["resnet50_rand", "resnet50_maskrcnn_autobss", "resnet50_retinanet_autobss"])
def test_detector_backbones_give_features(name: str) -> None:
    net = create(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    assert net.feature_info.channels() == list(find(name).code.widths)
    with torch.no_grad():
        assert [f.shape[-1] for f in net(torch.randn(1, 3, 64, 64))] == [16, 8, 4, 2]


def test_names_tags_codes_and_text() -> None:
    flat = "mobilenetv2{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}"
    for form in (flat, "mobilenetv2_autobss", "mobilenetv2_autobss.in1k", find("mobilenetv2_autobss").code):
        net = bsszoo.create(form)
        assert sum(p.numel() for p in net.parameters()) == 3_922_400
        assert net.default_cfg["architecture"] == "mobilenetv2_autobss"
    assert create(TINY).default_cfg["architecture"] == "bsszoo_code"


def test_a_tag_brings_its_input() -> None:
    cfg = create("efficientnet_b1.ra4_e3600_r240_in1k").default_cfg
    assert (cfg["mean"], cfg["crop_pct"], cfg["input_size"]) == ((0.5, 0.5, 0.5), 0.9, (3, 240, 240))
    assert create("efficientnet_b1").default_cfg["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("code", [TINY, RESNET])
def test_a_file(code: str, suffix: str, tmp_path: Path) -> None:
    net = trained(code, num_classes=7)
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": net.state_dict(), "epoch": 3}, path)
    else:
        save_file(net.state_dict(), path)
    assert same(create(code, pretrained=path, num_classes=7), net)
    assert same(create(code, pretrained=str(path), num_classes=7, output_stride=32), net)


def test_a_folder_and_its_configuration(tmp_path: Path) -> None:
    net = trained(TINY, num_classes=7)
    net.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    save_for_hf(net, str(tmp_path), safe_serialization=True)
    for source in (f"local-dir:{tmp_path}", tmp_path, str(tmp_path)):
        read = create(TINY, pretrained=source, num_classes=7)
        assert same(read, net)
        assert read.default_cfg["mean"] == (0.1, 0.2, 0.3)
    # Another image size has the same weights; another code has not.
    assert same(create(f"{TINY}_px96", pretrained=tmp_path, num_classes=7), net)
    with pytest.raises(WeightsError, match="holds the weights of mobilenetv2_c12"):
        create(TINY.replace("c12-", "c16-"), pretrained=tmp_path)


def test_a_folder_is_a_network_by_itself(tmp_path: Path) -> None:
    net = trained(f"{TINY}_px64", num_classes=7, in_chans=1)
    save_for_hf(net, str(tmp_path), safe_serialization=True)
    read = create(f"local-dir:{tmp_path}", pretrained=True)
    assert same(read, net, channels=1)
    assert read.default_cfg["input_size"] == (1, 64, 64)
    fresh = create(f"local-dir:{tmp_path}", num_classes=5)
    assert not torch.equal(fresh.bn1.running_mean, net.bn1.running_mean)
    assert create(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)(images(1)).shape == (2, 3)
    # Labels belong to the classes that they are of.
    net.pretrained_cfg["label_names"] = tuple("abcdefg")
    save_for_hf(net, str(tmp_path), safe_serialization=True, model_config={"label_names": list("abcdefg")})
    assert create(TINY, pretrained=tmp_path).default_cfg["label_names"] == tuple("abcdefg")
    other = create(TINY, pretrained=tmp_path, num_classes=3).default_cfg
    assert (other.get("label_names"), other["num_classes"]) == (None, 3)
    # By default a network has the classes and channels of its weights, as in timm.
    assert same(create(TINY, pretrained=tmp_path), net, channels=1)
    with pytest.raises(WeightsError, match=r"no network in '.*': it has no config\.json"):
        create(f"local-dir:{tmp_path / 'nothing'}")


def test_a_pickle_in_a_folder_is_refused(tmp_path: Path) -> None:
    torch.save(create(TINY).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin, a pickle, which can run any program"):
        create(TINY, pretrained=tmp_path)


@pytest.mark.parametrize("code", [TINY, RESNET])
def test_other_classes_and_channels_adapt_as_in_timm(code: str, tmp_path: Path) -> None:
    net = trained(code)
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    adapted = create(code, pretrained=path, num_classes=5, in_chans=1).eval()
    # Weights for three channels, summed, see a grey image as the original sees it three times.
    grey = images(1)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted.forward_features(grey), net.forward_features(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4
        )
        assert adapted(grey).shape == (2, 5)
    without = create(code, pretrained=path, num_classes=0).eval()
    x = images()
    with torch.no_grad():
        assert torch.equal(without(x), net.forward_head(net.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("code", [TINY, RESNET])
def test_features_take_the_weights_of_the_whole(code: str, tmp_path: Path) -> None:
    net = trained(code)
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    x = images()
    with torch.no_grad():
        for indices in ((0, 1, 2, 3, 4), (1, 2)):
            features = create(code, pretrained=path, features_only=True, out_indices=indices).eval()
            _, expected = net.forward_intermediates(x, indices=list(indices))
            assert all(torch.equal(a, b) for a, b in zip(features(x), expected, strict=True))
        # What a features-only network saves, another takes.
        save_file({k: v.contiguous() for k, v in features.state_dict().items()}, path)
        again = create(code, pretrained=path, features_only=True, out_indices=(1, 2)).eval()
        assert all(torch.equal(a, b) for a, b in zip(again(x), features(x), strict=True))
    with pytest.raises(WeightsError, match="holds no classifier"):
        create(code, pretrained=path)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("resnet18", "resnet18"), ("mobilenetv2", "mobilenet_v2"), ("efficientnet_b0", "efficientnet_b0")],
)
def test_a_torchvision_file_is_recognised(name: str, theirs: str, tmp_path: Path) -> None:
    net = getattr(torchvision.models, theirs)(weights=None).eval()
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(create(name, pretrained=path).eval()(x), net(x), rtol=1e-4, atol=1e-5)
        features = create(name, pretrained=path, features_only=True).eval()(x)
        whole = create(name, pretrained=path, num_classes=3).eval()
        assert all(torch.equal(a, b) for a, b in zip(features, whole.forward_intermediates(x)[1], strict=True))
    with pytest.raises(WeightsError, match="another network"):
        create(f"{name}_autobss", pretrained=path)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    net = create(TINY)
    path = tmp_path / "net.safetensors"
    state = net.state_dict()

    def refused(changed: dict[str, torch.Tensor], words: str, **arguments: Any) -> None:
        save_file(changed, path)
        with pytest.raises(WeightsError, match=words):
            create(TINY, pretrained=path, **arguments)

    refused({k: v for k, v in state.items() if k != "bn1.bias"}, r"1 missing \(bn1.bias\)")
    # Leniency about the classifier is about nothing else: with other classes it is as strict.
    refused({k: v for k, v in state.items() if k != "bn1.bias"}, r"1 missing \(bn1.bias\)", num_classes=3, in_chans=1)
    refused({**state, "extra.weight": torch.ones(1)}, r"1 unknown \(extra.weight\)", num_classes=3)
    refused({**state, "bn1.bias": torch.ones(3)}, r"1 of other shapes \(bn1.bias \[3\], here \[10\]\)", num_classes=3)
    refused({**state, "extra.weight": torch.ones(1)}, r"1 unknown \(extra.weight\)", features_only=True)
    refused({k: v for k, v in state.items() if "classifier" not in k}, "holds no classifier")
    refused({**state, "conv_stem.weight": torch.ones(10, 4, 3, 3)}, "takes 4 input channels", in_chans=3)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "model_ema"])
def test_a_checkpoint_of_a_training_script_is_read(key: str, tmp_path: Path) -> None:
    network, seen = create(TINY).eval(), images()
    torch.save({"epoch": 3, key: network.state_dict(), "optimizer_state_dict": {"state": {}}}, tmp_path / "net.pth")
    assert torch.equal(create(TINY, pretrained=tmp_path / "net.pth").eval()(seen), network(seen))


def test_a_file_that_holds_no_weights(tmp_path: Path) -> None:
    text = tmp_path / "net.pth"
    text.write_text("hello")
    with pytest.raises(WeightsError, match=r"Cannot read .*it is no PyTorch file, or is damaged") as broken:
        create(TINY, pretrained=text)
    assert "weights_only` set to `False`" not in str(broken.value), "torch's advice would run what is in the file"
    torch.save({"a": 1}, text)
    with pytest.raises(WeightsError, match="no state dict"):
        create(TINY, pretrained=text)
    # A pickled network would run code of its own when it is read.
    torch.save(create(TINY), text)
    with pytest.raises(WeightsError, match=r"holds Python objects, .*: save model\.state_dict\(\)\)\. .*tensors only"):
        create(TINY, pretrained=text)
    with pytest.raises(WeightsError, match="no weights in"):
        create(TINY, pretrained=f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("[")
    save_file(create(TINY).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"config\.json .* is broken"):
        create(TINY, pretrained=tmp_path)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (True, WeightsError, "not one of the zoo's"),
        ("in1k", WeightsError, "not one of the zoo's"),
        ("no/such/file.pth", WeightsError, "no weights file 'no/such/file.pth'"),
        ("missing.safetensors", WeightsError, "no weights file"),
        (Path("missing"), WeightsError, "no weights file"),
        ("local-dir:no/such/folder", WeightsError, "no weights in 'no/such/folder'"),
        ("hf-hub:a/b/c", WeightsError, "names no Hub repository"),
        ("hf-hub:", WeightsError, "names no Hub repository"),
        ("", WeightsError, "pretrained is ''"),
        (3, WeightsError, "pretrained is 3"),
        (None, WeightsError, "pretrained is None"),
    ],
)
def test_sources_that_are_none(source: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        create(TINY, pretrained=source)


def test_entries_without_weights_say_what_to_do() -> None:
    with pytest.raises(WeightsError, match=r"names no Hub repository.*bsszoo.create\('resnet50', pretrained=True\)"):
        create("resnet50_retinanet_autobss_printed", pretrained=True)
    with pytest.raises(UnknownNameError, match=r"no weights tagged 'in21k'\. Did you mean 'in1k'"):
        create("mobilenetv2_autobss", pretrained="in21k")
    with pytest.raises(UnknownNameError, match="no weights tagged 'in21k'"):
        create("mobilenetv2_autobss.in21k")


def test_wrong_arguments() -> None:
    with pytest.raises(UnknownNameError, match="no model 'resnet49'"):
        create("resnet49")
    with pytest.raises(CodeError, match="num_classes is -3"):
        create("resnet18", num_classes=-3)
