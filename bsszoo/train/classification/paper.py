"""The paper's recipes (appendix B.1, Table 1), with our choices where it is silent; recipes/README.md lists both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bsszoo.codes.families import family_of
from bsszoo.codes.families.base import Training
from bsszoo.train.classification.recipe import (
    AugmentPart,
    DataPart,
    EmaPart,
    LossPart,
    ModelPart,
    OptimPart,
    Recipe,
    SchedulePart,
    assigned,
    read_recipe,
    with_values,
)

#: In place of a recipe's file: the paper's ImageNet recipe of the network that follows.
PREFIX: Final = "paper:"


def paper_recipe(family: str, *, num_classes: int, data: DataPart, training: Training | None = None) -> Recipe:
    """The paper's recipe of a family on other data: Table 1, and our choices as in ``recipes/imagenet``.

    Families of which the paper has none are trained by the settings of ``family_of(family).training``, which says where
    they are from.

    Args:
        family: A family's name.
        num_classes: Classes of the data. With other than ImageNet's 1000 the classifier of MobileNetV2 and EfficientNet
            begins with weights as large as with 1000, where timm would begin with larger ones the fewer there are.
        data: The data section.
        training: How a network of the family is trained; by default its ``training``.
    """
    row = training or family_of(family).training
    return Recipe(
        model=ModelPart(
            name=family_of(family).original_name,
            num_classes=num_classes,
            drop_rate=row.drop_rate,
            drop_path_rate=row.drop_path_rate,
            head_init_scale=math.sqrt(num_classes / 1000) if row.head_scaled else 1.0,
        ),
        optim=OptimPart(
            lr=row.lr,
            name=row.optimiser,
            batch_size=row.batch_size,
            lr_batch_size=row.batch_size,
            weight_decay=row.weight_decay,
        ),
        schedule=SchedulePart(
            epochs=row.epochs, warmup_epochs=row.warmup_epochs, warmup_from=row.warmup_from, min_lr=row.min_lr
        ),
        data=data,
        augment=AugmentPart(
            auto_augment="original" if row.autoaugment else row.policy,
            erase=row.erase,
            mixup=row.mixup,
            cutmix=row.cutmix,
        ),
        loss=LossPart(label_smoothing=row.label_smoothing),
        ema=EmaPart(decay=row.ema, warmup=row.ema is None),
    )


def imagenet_recipe(network: str) -> Recipe:
    """The paper's recipe of a network on ImageNet, as ``recipes/imagenet`` holds for those of the paper's tables.

    Args:
        network: A zoo name or a code's text.

    Raises:
        UnknownNameError, CodeError: There is no such network.

    Example:
        >>> imagenet_recipe("mobilenetv2_c16-24-32-64-96-160_l1-2-3-4-3-2_t3-6-6-3-6-6").optim.lr
        0.7
    """
    from bsszoo.models.resolve import resolve

    resolved = resolve(network)
    code = resolved.classifier
    row = family_of(code.family).training_of(code)
    data = DataPart(image_size=code.image_size, crop_pct=row.crop_pct, interpolation=row.interpolation)
    made = paper_recipe(code.family, num_classes=1000, data=data, training=row)
    return with_values(
        made,
        model={"name": network if resolved.source is None else str(code)},
        run={"precision": "bfloat16", "channels_last": True, "workers": 8},
    )


def recipe_of(what: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, or of ``paper:NETWORK``: ``imagenet_recipe``; with assignments, as ``read_recipe``.

    Raises:
        RecipeError, UnknownNameError, CodeError: As ``read_recipe`` and ``imagenet_recipe``.
    """
    text = str(what)
    if not text.startswith(PREFIX):
        return read_recipe(what, assignments)
    return assigned(imagenet_recipe(text.removeprefix(PREFIX)), assignments)
