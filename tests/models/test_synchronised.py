"""Synchronised normalisation gives what the network gave: in evaluation it needs no other process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bsszoo
from bsszoo.models.build import synchronised

CODES = (
    "resnet18_c8-8-16-16_l1-1-1-1",
    "resnet50_c32-32-64-72_l1-2-1-1_b12-8-20-24",
    "mobilenetv2_c12-20-28-28-40-84_l1-2-1-1-1-1_t3-1-3-6-2-3_stem10_stage2-6x2",
    "efficientnet_b0_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_stem8_stage2-8x1",
)


@pytest.mark.parametrize("code", CODES)
def test_outputs_and_state_are_as_before(code: str) -> None:
    torch.manual_seed(0)
    network = bsszoo.create(code, num_classes=4)
    network.train()(torch.randn(4, 3, 64, 64))  # statistics that are not those of the start
    images = torch.randn(2, 3, 64, 64)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    with torch.inference_mode():
        before = network.eval()(images)
        made = synchronised(network).eval()
        assert torch.allclose(made(images), before, atol=1e-5)
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in made.modules()) == norms
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.modules())
    assert made.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in made.state_dict().items())
