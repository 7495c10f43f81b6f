"""Table 1 of the AutoBSS appendix: how the paper trains each family on ImageNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PaperTraining:
    """A row of Table 1; shared by all: SGD, batch 1024, cosine schedule, label smoothing 0.1."""

    weight_decay: float
    lr: float
    epochs: int
    autoaugment: bool


#: The rows, by family.
TABLE_1: Final = {
    "resnet18": PaperTraining(4e-5, 0.4, 120, autoaugment=False),
    "resnet50": PaperTraining(1e-4, 0.7, 120, autoaugment=False),
    "mobilenetv2": PaperTraining(2e-5, 0.7, 120, autoaugment=False),
    "efficientnet_b0": PaperTraining(2e-5, 0.7, 350, autoaugment=True),
    "efficientnet_b1": PaperTraining(2e-5, 0.7, 350, autoaugment=True),
}
