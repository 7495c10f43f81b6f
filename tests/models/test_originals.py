"""Original codes are timm's and torchvision's own networks: same keys, same weights, same logits, same start."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from timm.models._efficientnet_blocks import SqueezeExcite

from bsszoo.codes.named import named_entries
from bsszoo.errors import WeightsError
from bsszoo.models.build import build
from bsszoo.models.torchvision_keys import from_torchvision, is_torchvision

ALL = [entry for entry in named_entries().values() if entry.timm]
#: One of each family, and the shallowest of its others.
ORIGINALS = [e for e in ALL if e.paper is not None or e.name in ("resnet26", "regnetx_002", "regnety_002")]
IDS = [entry.name for entry in ORIGINALS]
TORCHVISION = {"resnet18": "resnet18", "resnet50": "resnet50", "mobilenetv2": "mobilenet_v2",
               "efficientnet_b0": "efficientnet_b0", "efficientnet_b1": "efficientnet_b1"}
PAPER = [entry for entry in ORIGINALS if entry.name in TORCHVISION]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("entry", ALL, ids=[entry.name for entry in ALL])
def test_timm_weights_load_strictly_and_give_equal_results(entry) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(entry.timm, drop_path_rate=0.1, drop_rate=0.1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.01 * torch.randn_like(p))  # no zero-initialised branch may hide a difference
    ours = build(entry.code, drop_path_rate=0.1, drop_rate=0.1)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
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
    theirs = timm.create_model(entry.timm, output_stride=output_stride, num_classes=0).eval()
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
    if entry.code.expansions:
        SqueezeExcite(8, rd_ratio=1.0)  # timm's builder makes one for a test, and so draws these numbers
    ours = build(entry.code).state_dict()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


@pytest.mark.parametrize("entry", PAPER, ids=[entry.name for entry in PAPER])
def test_torchvision_weights_give_equal_logits(entry) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, TORCHVISION[entry.name])(weights=None).eval()
    with torch.no_grad():
        for name, p in theirs.state_dict().items():
            if "running_var" in name:
                p.uniform_(0.5, 1.5)
            elif "running_mean" in name:
                p.normal_(0, 0.1)
    state = theirs.state_dict()
    ours = build(entry.code).eval()
    assert is_torchvision(state) == (not entry.name.startswith("resnet"))
    if is_torchvision(state):
        state = from_torchvision(state, ours.state_dict(), classifier="classifier", first_conv="conv_stem")
    ours.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_torchvision_weights_of_another_network_are_refused() -> None:
    b0 = torchvision.models.efficientnet_b0(weights=None).state_dict()
    for name in ("mobilenetv2", "efficientnet_b1", "efficientnet_b0_autobss"):
        own = build(named_entries()[name].code, device="meta").state_dict()
        with pytest.raises(WeightsError, match="another network"):
            from_torchvision(b0, own, classifier="classifier", first_conv="conv_stem")


def test_torchvision_weights_of_other_classes_and_without_counters_map() -> None:
    own = build(named_entries()["mobilenetv2"].code, num_classes=10, device="meta").state_dict()
    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    mapped = from_torchvision(old, own, classifier="classifier", first_conv="conv_stem")
    assert mapped.keys() == own.keys()
    assert mapped["classifier.weight"].shape == (1000, 1280)
    headless = {key: value for key, value in state.items() if not key.startswith("classifier")}
    mapped = from_torchvision(headless, own, classifier="classifier", first_conv="conv_stem")
    assert own.keys() - mapped.keys() == {"classifier.weight", "classifier.bias"}
