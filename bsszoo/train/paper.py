"""The paper's recipe of a family (appendix B.1, Table 1), with our choices where the paper is silent."""

from __future__ import annotations

import math

from bsszoo.codes.paper_training import TABLE_1
from bsszoo.train.recipe import AugmentPart, DataPart, LossPart, ModelPart, OptimPart, Recipe, SchedulePart


def paper_recipe(family: str, *, num_classes: int, data: DataPart) -> Recipe:
    """The paper's recipe of a family on other data: Table 1, and our choices as in ``recipes/imagenet``.

    Args:
        family: A family's name.
        num_classes: Classes of the data. With other than ImageNet's 1000 the classifier of MobileNetV2 and EfficientNet
            begins with weights as large as with 1000, where timm would begin with larger ones the fewer there are.
        data: The data section.
    """
    row = TABLE_1[family]
    efficientnet = family.startswith("efficientnet")
    return Recipe(
        model=ModelPart(family, num_classes=num_classes, drop_rate=0.2 if efficientnet else 0.0,
                        drop_path_rate=0.2 if efficientnet else 0.0,
                        head_init_scale=1.0 if family.startswith("resnet") else math.sqrt(num_classes / 1000)),
        optim=OptimPart(lr=row.lr, weight_decay=row.weight_decay),
        schedule=SchedulePart(epochs=row.epochs, warmup_epochs=5.0, warmup_from=0.25),
        data=data, augment=AugmentPart(auto_augment="original" if row.autoaugment else None),
        loss=LossPart(label_smoothing=0.1),
    )
