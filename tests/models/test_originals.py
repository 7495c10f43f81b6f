"""Original codes are timm's and torchvision's own networks: same keys, same weights, same logits, same start."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from models.counting import on_meta
from strategies import CONVNEXTS, VITS
from timm.models._efficientnet_blocks import SqueezeExcite

from bsszoo.codes.named import named_entries
from bsszoo.errors import WeightsError
from bsszoo.models.build import build
from bsszoo.models.create import create

ALL = [entry for entry in named_entries().values() if entry.timm]
SHALLOWEST = (
    "resnet26",
    "resnext50_32x4d",
    "seresnet18",
    "seresnext50_32x4d",
    "efficientnet_b2",
    "efficientnet_lite0",
    "tf_efficientnet_lite0",
    "mnasnet_100",
    "semnasnet_100",
    "mnasnet_small",
    "efficientnetv2_rw_t",
    "tf_efficientnetv2_b0",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium",
    "ghostnet_050",
    "ghostnet_100",
    "regnetx_002",
    "regnety_002",
    *CONVNEXTS,
    "deit_tiny_patch16_224",
    "vit_small_patch32_224",
)
#: One of each family, and the shallowest of its others.
ORIGINALS = [e for e in ALL if e.paper is not None or e.name in SHALLOWEST]
IDS = [entry.name for entry in ORIGINALS]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


EACH = [pytest.param(e, id=e.name, marks=[] if e in ORIGINALS else pytest.mark.slow) for e in ALL]
FURTHER = [e for e in ALL if e not in ORIGINALS]


@pytest.mark.parametrize("entry", FURTHER, ids=[entry.name for entry in FURTHER])
def test_further_ones_of_a_family_have_timms_tensors(entry) -> None:
    theirs = timm.create_model(entry.timm, device=torch.device("meta")).state_dict()
    ours = on_meta(entry.code).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("entry", EACH)
def test_timm_weights_load_strictly_and_give_equal_results(entry) -> None:
    torch.manual_seed(0)
    # timm's GhostNets have no stochastic depth.
    rates = {"drop_rate": 0.1} | ({} if entry.code.family == "ghostnet" else {"drop_path_rate": 0.1})
    theirs = timm.create_model(entry.timm, **rates)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.01 * torch.randn_like(p))  # no zero-initialised branch may hide a difference
    ours = build(entry.code, **rates)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    side = entry.code.image_size if entry.code.family in VITS else 64
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))
        torch.manual_seed(1)
        a = ours.train()(x)
        torch.manual_seed(1)
        b = theirs.train()(x)
    assert torch.equal(a, b)
    assert ours.feature_info == theirs.feature_info


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("entry", ORIGINALS, ids=IDS)
def test_dilation_as_timm(entry, output_stride: int) -> None:
    if entry.code.family == "ghostnet":
        pytest.skip("timm's network has no dilation")
    try:
        theirs = timm.create_model(entry.timm, output_stride=output_stride, num_classes=0).eval()
    except TypeError:
        pytest.skip("timm's network takes no output stride")
    ours = build(entry.code, output_stride=output_stride, num_classes=0).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.forward_features(x), theirs.forward_features(x))
    assert ours.feature_info == theirs.feature_info


@pytest.mark.parametrize("entry", ORIGINALS, ids=IDS)
def test_same_start_from_the_same_seed(entry) -> None:
    torch.manual_seed(3)
    theirs = timm.create_model(entry.timm).state_dict()
    torch.manual_seed(3)
    if entry.code.head_width and entry.code.family != "ghostnet":
        SqueezeExcite(8, rd_ratio=1.0)  # timm's builder makes one for a test, and so draws these numbers
    ours = build(entry.code).state_dict()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


def test_torchvision_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.efficientnet_b0(weights=None).state_dict(), tmp_path / "b0.pth")
    for name in ("mobilenetv2", "efficientnet_b1", "efficientnet_b0_autobss"):
        with pytest.raises(WeightsError, match="another network"):
            create(name, pretrained=tmp_path / "b0.pth")


def test_torchvision_weights_of_other_classes_and_without_counters_load(tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    assert create("mobilenetv2", pretrained=tmp_path / "old.pth").get_classifier().out_features == 1000
    assert create("mobilenetv2", pretrained=tmp_path / "old.pth", num_classes=10).get_classifier().out_features == 10
    torch.save({key: value for key, value in state.items() if not key.startswith("classifier")}, tmp_path / "body.pth")
    assert create("mobilenetv2", pretrained=tmp_path / "body.pth", num_classes=0).num_classes == 0
