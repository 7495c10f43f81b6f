"""Detectors on codes: the paper's figures exactly, torchvision's outputs from torchvision's weights, odd images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from forward_count import detector_cost as counted_by_formula
from safetensors.torch import save_file
from torch import nn

import bsszoo
from bsszoo.codes.detector import Detector, detector_cost, detector_layers
from bsszoo.errors import CodeError, UnknownNameError, WeightsError
from bsszoo.models.detector import build_detector, create_detector
from bsszoo.models.names import DETECTORS, find_detector

pytestmark = pytest.mark.usefixtures("seeded")

SMALL = "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24"
MBCONV = "mobilenetv2_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2"
#: A feature of the fixed second stage, and one in front of the convolution behind the blocks.
V3 = "mobilenetv3_small_c20-28-28-84_l1-2-1-1_b12-30-60-90_stem10_stage2-6x2_head40"
V2 = "tf_efficientnetv2_c12-20-28-28-40_l1-2-1-2-1_t1-3-3-1-2_stem10_stage2-10x2_head40"
#: No fixed second stage, two convolutions as one block, and stages of several forms of blocks.
V4 = "mobilenetv4_conv_small_c12-20-28-28_l1-1-6-3_t1-3-3-2_stem10_head40"
V4_FUSED = "mobilenetv4_conv_medium_c12-20-28-36_l2-1-7-6_b24-30-50-41_e20-24-60-72_stem10_head40"
RESNEXT = "resnext_c32-32-64-72_l1-2-1-1_b12-8-20-24_g3-4-1-24"
GHOST = "ghostnet_c12-20-28-31-40_l1-2-3-2-4_t3-1-3-6-2_stem10_stage2-6x2_head40"
CONVNEXTS = (
    "convnext_tiny_c12-20-28-40_l1-2-1-1_t2-4-3-1",
    "convnextv2_atto_c12-20-28-40_l1-2-1-1_b20-40-8-100_stem16",
)
ORIGINAL = "resnet50_c256-512-1024-2048_l3-4-6-3_b64-128-256-512_px800"


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("maskrcnn_resnet50", "117.071B", "44.455M"),
        ("maskrcnn_resnet50_autobss", "116.869B", "49.207M"),
        ("retinanet_resnet50", "146.246B", "37.969M"),
        ("retinanet_resnet50_autobss", "146.095B", "41.313M"),
        ("retinanet_resnet50_autobss_printed", "168.490B", "43.555M"),
    ],
)
def test_the_papers_figures(name: str, macs: str, params: str) -> None:
    cost = bsszoo.cost(name)
    assert (f"{cost.macs / 1e9:.3f}B", f"{cost.params / 1e6:.3f}M") == (macs, params)
    detector = find_detector(name)
    assert detector is not None
    code = detector.backbone
    assert (cost.macs, cost.params) == counted_by_formula(
        code.widths, code.depths, code.bottlenecks, retina=detector.kind == "retinanet", stride_in=code.stride_in
    )


def hook_count(model: nn.Module, size: int) -> tuple[int, int]:
    """MACs and outputs of backbone, pyramid and the heads that run at every position, counted on the built network."""
    counted = [0, 0]

    def hook(module: Any, _: object, output: torch.Tensor) -> None:
        counted[0] += output.numel() * module.weight[0].numel()
        counted[1] += output.numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook)
    made: Any = model.eval()
    with torch.no_grad():
        features = list(made.backbone(torch.zeros(1, 3, size, size)).values())
        (made.rpn.head if hasattr(made, "rpn") else made.head)(features)
    return counted[0], counted[1]


@pytest.mark.parametrize("kind", ["maskrcnn", "retinanet"])
@pytest.mark.parametrize(
    "code", [SMALL, f"{SMALL}_stride1x1", MBCONV, V2, V3, V4, V4_FUSED, GHOST, RESNEXT, f"se{RESNEXT}", *CONVNEXTS]
)
@pytest.mark.parametrize("size", [96, 131])
def test_the_formula_counts_what_is_built(kind: str, code: str, size: int) -> None:
    detector = find_detector(f"{kind}_{code}")
    assert detector is not None
    model = build_detector(detector)
    cost = detector_cost(detector, size)
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert (cost.macs, cost.activations) == hook_count(model, size)
    modules = dict(model.named_modules())
    for layer in detector_layers(detector, size):
        weight = modules[layer.name].weight
        assert weight.numel() == layer.in_width * layer.out_width * layer.kernel**2, layer.name


@pytest.mark.parametrize("kind", ["maskrcnn", "retinanet"])
def test_with_torchvisions_weights_the_outputs_are_torchvisions(kind: str) -> None:
    theirs = getattr(torchvision.models.detection, f"{kind}_resnet50_fpn")(
        weights=None, weights_backbone=None, min_size=160, max_size=240
    )
    parsed = find_detector(f"{kind}_{ORIGINAL}")
    assert parsed is not None
    ours = build_detector(
        Detector(parsed.kind, parsed.backbone, 91, "p5" if kind == "retinanet" else "c5"), min_size=160, max_size=240
    )
    ours.load_state_dict(theirs.state_dict())
    images = [torch.rand(3, 120, 180), torch.rand(3, 160, 100)]
    for model in (ours, theirs):
        head = model if kind == "retinanet" else model.roi_heads
        head.score_thresh = 0.0  # of random weights nothing is left else
        head.detections_per_img = 20  # each has a mask, which costs more than all the rest
        model.eval()
    with torch.no_grad():
        for a, b in zip(ours(images), theirs(images), strict=True):
            assert len(a["boxes"]) == 20
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", ["maskrcnn", "retinanet"])
@pytest.mark.parametrize("code", [SMALL, MBCONV, V3, V4, GHOST, CONVNEXTS[0]])
def test_images_of_any_sizes_with_no_objects_tiny_ones_and_a_thousand(kind: str, code: str) -> None:
    model = create_detector(f"{kind}_fpn32_{code}", num_classes=5, min_size=64, max_size=128)
    many = torch.rand(1000, 2) * 50
    boxes = [torch.zeros(0, 4), torch.tensor([[10.0, 10.0, 11.0, 11.0]]), torch.cat([many, many + 8], 1)]
    images = [torch.rand(3, 40, 90), torch.rand(3, 64, 64), torch.rand(3, 70, 60)]
    targets = [{"boxes": b, "labels": torch.ones(len(b), dtype=torch.int64)} for b in boxes]
    if kind == "maskrcnn":
        for target, image in zip(targets, images, strict=True):
            target["masks"] = torch.ones(len(target["boxes"]), *image.shape[1:], dtype=torch.uint8)
    losses = model.train()(images, targets)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        predictions = model.eval()(images)
    for one, image in zip(predictions, images, strict=True):
        height, width = image.shape[1:]
        if len(one["boxes"]):
            assert one["boxes"].min() >= 0
            assert one["boxes"][:, 2].max() <= width
            assert one["boxes"][:, 3].max() <= height


def test_frozen_and_synchronised_normalisation() -> None:
    frozen = create_detector(f"maskrcnn_{SMALL}", norm="frozen")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.backbone.modules())
    sync = create_detector(f"retinanet_{SMALL}", norm="sync")
    assert any(isinstance(m, nn.SyncBatchNorm) for m in sync.backbone.modules())
    with pytest.raises(CodeError, match="ResNet backbones only"):
        create_detector(f"maskrcnn_{MBCONV}", norm="frozen")
    with pytest.raises(CodeError, match="norm is 'group'"):
        create_detector(f"maskrcnn_{SMALL}", norm="group")  # type: ignore[arg-type]


def test_a_file_of_its_own_weights(tmp_path: Path) -> None:
    model = create_detector(f"retinanet_{SMALL}", num_classes=3)
    path = tmp_path / "net.safetensors"
    save_file(model.state_dict(), path)
    again = bsszoo.create(f"retinanet_{SMALL}", num_classes=3, pretrained=path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(WeightsError, match="weights of another network"):
        bsszoo.create(f"retinanet_{SMALL}", num_classes=4, pretrained=path)
    with pytest.raises(WeightsError, match="no weights file"):
        bsszoo.create(f"retinanet_{SMALL}", pretrained="nowhere.pth")
    with pytest.raises(WeightsError, match="Nobody has published"):
        bsszoo.create("maskrcnn_resnet50", pretrained=True)
    with pytest.raises(WeightsError, match="stride on the 3x3"):
        bsszoo.create("maskrcnn_resnet50", pretrained="torchvision")


def test_names() -> None:
    assert all(find_detector(name) is not None for name in DETECTORS)
    backbone = find_detector("maskrcnn_resnet50_autobss")
    assert backbone is not None
    assert str(backbone.backbone) == "resnet50_c192-512-512-1024_l9-3-6-10_b24-192-256-384_px800_stride1x1"
    retina = find_detector("retinanet_resnet50_autobss")
    assert retina is not None
    assert retina.backbone.bottlenecks[1] == 96
    assert find_detector("resnet50") is None
    assert find_detector("maskrcnn") is None
    with pytest.raises(UnknownNameError, match="resnet51"):
        find_detector("maskrcnn_resnet51")
    with pytest.raises(CodeError, match="does not take in_chans"):
        bsszoo.create("maskrcnn_resnet50", in_chans=1)
    with pytest.raises(CodeError, match="MaskRCNN does not take 'nonsense'; it takes "):
        create_detector(f"maskrcnn_{SMALL}", nonsense=3)
    assert bsszoo.cost(f"maskrcnn_{SMALL}", 400).macs < bsszoo.cost(f"maskrcnn_{SMALL}").macs
    assert bsszoo.cost(f"retinanet_{SMALL}", num_classes=3).params < bsszoo.cost(f"retinanet_{SMALL}").params
    with pytest.raises(CodeError, match="num_classes"):
        bsszoo.cost(f"retinanet_{SMALL}", num_classes=0)


@pytest.mark.network
@pytest.mark.parametrize("kind", ["maskrcnn", "retinanet"])
def test_torchvisions_published_weights(kind: str) -> None:
    theirs = getattr(torchvision.models.detection, f"{kind}_resnet50_fpn")(weights="COCO_V1").eval()
    ours = bsszoo.create(f"{kind}_{ORIGINAL}", pretrained="torchvision").eval()
    image = [torch.rand(3, 300, 400)]
    with torch.no_grad():
        a, b = ours(image)[0], theirs(image)[0]
    assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2"])
def test_the_backbone_is_torchvisions_on_the_other_residual_networks_that_it_has(name: str) -> None:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    detector = find_detector(f"maskrcnn_{name}")
    assert detector is not None
    ours = build_detector(detector).backbone.eval()
    theirs = resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, other in zip(ours(images).values(), theirs(images).values(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
