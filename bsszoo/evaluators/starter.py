"""``starter_recipe``: a recipe to begin with, for a network and a folder of images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from bsszoo.codes.families import family_of
from bsszoo.errors import DataError
from bsszoo.evaluators.inherited import data_part, fine_tuning_recipe
from bsszoo.evaluators.registry import Request
from bsszoo.evaluators.training import fitting_recipe
from bsszoo.models.names import is_detector
from bsszoo.models.resolve import resolve
from bsszoo.options import TrainingOptions, refuse_dataset
from bsszoo.train.classification.data import Stream, has_split, open_split
from bsszoo.train.classification.paper import imagenet_recipe
from bsszoo.train.classification.recipe import Recipe, assigned, recipe_text, with_values
from bsszoo.train.detection.paper import coco_recipe
from bsszoo.train.detection.recipe import DetectionRecipe

_HOW: Final = """\
# bsszoo train FILE --data {data} --out runs/NAME
# --set KEY=VALUE changes a value of one training, such as --set optim.lr=0.05; docs/train.md says what each is.
"""


def starter_recipe(
    network: str, data: str | Path | None = None, *, dataset: str | None = None, assignments: Sequence[str] = ()
) -> str:
    """The text of a recipe for a network, with every key, and where its values are from.

    Args:
        network: A name, a code's text or a detector; with images also a network with weights, which is fine-tuned.
        data: The folder of the images; None for ImageNet, or COCO.
        dataset: How it is read.
        assignments: ``key.key=value`` texts.

    Raises:
        UnknownNameError, CodeError, WeightsError, RecipeError, DataError: The network, a value or the images cannot be
            used.
        SettingsError: A detector with a dataset, whose images are in COCO's format.
    """
    made: Recipe | DetectionRecipe
    if is_detector(network):
        refuse_dataset(dataset)
        made, source = coco_recipe(network), "The paper's settings on COCO, for other images a first guess"
    elif data is None and dataset is None:
        family = family_of(resolve(network).code.family)
        made, source = imagenet_recipe(network), f"On ImageNet: {family.title} by {family.training.source}"
    else:
        made, source = _of_images(network, data, dataset)
    made = assigned(made, assignments)
    return f"# {source}.\n{_HOW.format(data=data or 'DIR')}\n{_text(made)}"


def _of_images(network: str, data: str | Path | None, dataset: str | None) -> tuple[Recipe, str]:
    """A recipe that fits the images of a folder."""
    found = resolve(network)
    code = found.classifier
    part = data_part(found, Request(found, TrainingOptions(data=data, dataset=dataset), Path()))
    split = open_split(part, data, training=True, num_classes=sys.maxsize)
    if isinstance(split, Stream):
        raise DataError(f"{part.dataset} is read in a fixed order, and does not say how many classes it has.")
    if has_split(part, data, part.val_split):
        part = part.replaced(holdout=0.0)
    classes = int(split.labels.max()) + 1
    of = f"{len(split):,} images of {classes} classes"
    if found.source is None:
        made = with_values(fitting_recipe(code.family, data, dataset), model={"name": network}, data=part.model_dump())
        return made, f"A training from scratch on {of}"
    made = fine_tuning_recipe(found, part, len(split), classes)
    return with_values(made, model={"pretrained": found.source}), f"A fine-tuning of {found.recognised} on {of}"


def _text(recipe: Recipe | DetectionRecipe) -> str:
    """A recipe as YAML, a line for each key."""
    lines = []
    for section, values in yaml.safe_load(recipe_text(recipe)).items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {_flow(value)}" for key, value in values.items()] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _flow(value: object) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).removesuffix("...\n").strip()
