"""Networks of bsszoo as timm models: by name, by code, and as a feature extractor.

    python examples/use_in_timm.py

Fresh weights: nobody has published weights of the searched networks.
"""

from __future__ import annotations

from typing import Any

import timm
import torch

import bsszoo.nets  # tells timm the networks' names


def main() -> None:
    """Run the example."""
    print("timm.list_models('*autobss*'):", *timm.list_models("*autobss*"))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    by_name = timm.create_model("mobilenetv2_autobss", num_classes=10).eval()
    with torch.no_grad():
        print("by name:", tuple(by_name(images).shape))

    code = bsszoo.Code.parse("mobilenetv2 24 40 64 96 120 240  4 3 2 3 6 2  3 6 6 3 6 6")
    by_code = timm.create_model("bsszoo_code", code=str(code), num_classes=10)
    counted = sum(p.numel() for p in by_code.parameters())
    print(f"by code: {counted:,} parameters built, {bsszoo.codes.code_cost(code, num_classes=10).params:,} counted")

    backbone: Any = timm.create_model("resnet50_autobss", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    with torch.no_grad():
        for level, features in zip(backbone.feature_info.reduction(), backbone(images), strict=True):
            print(f"features at 1/{level}: {tuple(features.shape)}")


if __name__ == "__main__":
    main()
