"""``Recipe``: everything that decides what a training gives, as a frozen tree; read from YAML and checked strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field, model_validator

from bsszoo.errors import RecipeError
from bsszoo.train.strict import Section, Tree, as_mapping, load_mapping, override, read_tree

#: Batch for which the paper states its learning rates (appendix B.1, Table 1).
PAPER_BATCH: Final = 1024
#: Mean and deviation of ImageNet's channels; written out so that a recipe can be read without torch.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

# Keys of a recipe's network that were added after version 0.1.0.
_INHERITING: Final = ("inherit", "inherit_weights")


class ModelPart(Section):
    """The network: a name of the zoo or a code's text, and what its training adds to it."""

    name: str
    num_classes: int = Field(1000, ge=1, le=10_000_000)
    in_chans: int = Field(3, ge=1, le=4)
    #: Dropout before the classifier.
    drop_rate: float = Field(0.0, ge=0, lt=1)
    #: Stochastic depth at the end of the network, rising linearly with depth (Huang et al. 2016).
    drop_path_rate: float = Field(0.0, ge=0, lt=1)
    #: What the fresh classifier's weights are multiplied by. timm draws those of MobileNetV2 and EfficientNet from
    #: +-1 / sqrt(num_classes), which for few classes begins with outputs so large that training takes long to start.
    head_init_scale: float = Field(1.0, gt=0)
    #: Weights to start from: a tag, hf-hub:org/name, local-dir:PATH or a file; null for fresh ones.
    pretrained: str | None = None
    #: Another network of the family, whose weights are inherited as far as shapes allow: a name or a code's text; null
    #: for none.
    inherit: str | None = None
    #: That network's weights, as ``pretrained``.
    inherit_weights: str | None = None


class DataPart(Section):
    """Where images come from and how they are cropped in evaluation."""

    #: folder | torch/fashion_mnist | torch/cifar10 | any other of timm's ``create_dataset`` | synthetic.
    dataset: str = "folder"
    train_split: str = "train"
    val_split: str = "validation"
    #: Side of the input [px].
    image_size: int = Field(224, ge=8, le=4096)
    #: Side of the centre crop over the side of the resized image, in evaluation.
    crop_pct: float = Field(0.875, ge=0.1, le=1)
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos", "random"] = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    #: Share of the training images held out, class by class, and validated on instead of ``val_split``.
    holdout: float = Field(0.0, ge=0, lt=1)
    #: A split that is measured once, after the last epoch; null for none.
    test_split: str | None = None
    #: Share of the (rest of the) training images that is used, class by class.
    subset: float = Field(1.0, gt=0, le=1)


class AugmentPart(Section):
    """Random augmentation of training images (timm's ``create_transform`` and ``Mixup``)."""

    #: rrc: random resized crop (Szegedy et al. 2015) | rkrc: resized, then a random crop | rkrr: the two mixed.
    crop_mode: Literal["rrc", "rkrc", "rkrr"] = "rrc"
    #: Least and most share of the image's area in a random resized crop.
    scale: tuple[Annotated[float, Field(gt=0, le=4)], Annotated[float, Field(gt=0, le=4)]] = (0.08, 1.0)
    #: Least and most aspect ratio of it.
    ratio: tuple[Annotated[float, Field(gt=0, le=100)], Annotated[float, Field(gt=0, le=100)]] = (3 / 4, 4 / 3)
    hflip: float = Field(0.5, ge=0, le=1)
    vflip: float = Field(0.0, ge=0, le=1)
    color_jitter: float = Field(0.0, ge=0)
    #: A policy as timm writes it: original, v0, rand-m9-mstd0.5, augmix-m3, ..; null for none.
    auto_augment: str | None = None
    #: Probability that a rectangle of an image is replaced by noise (Zhong et al. 2017).
    erase: float = Field(0.0, ge=0, le=1)
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)


class OptimPart(Section):
    """The optimiser (timm's ``create_optimizer_v2``) and its batch."""

    #: The learning rate at ``lr_batch_size``.
    lr: float = Field(gt=0)
    name: str = "sgd"
    #: Images of one update, over all devices and accumulated micro-batches.
    batch_size: int = Field(PAPER_BATCH, ge=1, le=1_000_000)
    #: Whether a ``batch_size`` other than ``lr_batch_size`` changes the rate in proportion.
    scale_lr: bool = False
    lr_batch_size: int = Field(PAPER_BATCH, ge=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(0.0, ge=0)
    #: Whether the decay also takes the scales and shifts of normalisation layers and the biases.
    decay_norm_and_bias: bool = False
    #: Most norm of the gradient; null for no clipping.
    clip_grad: float | None = Field(None, gt=0)

    @property
    def peak_lr(self) -> float:
        """The learning rate at this recipe's batch."""
        return self.lr * (self.batch_size / self.lr_batch_size if self.scale_lr else 1.0)


class SchedulePart(Section):
    """The learning rate over the updates (timm's ``create_scheduler_v2``), and its length."""

    epochs: int = Field(ge=1, le=1_000_000)
    name: Literal["cosine", "constant", "poly", "tanh"] = "cosine"
    #: Epochs, of ``epochs``, over which the rate rises linearly.
    warmup_epochs: float = Field(0.0, ge=0)
    #: The rate at the first update, as a share of the peak.
    warmup_from: float = Field(0.0, ge=0, le=1)
    min_lr: float = Field(0.0, ge=0)


class LossPart(Section):
    """Cross-entropy, what softens it, and a trained network to learn from."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    #: A network whose outputs are learnt as well (Hinton et al. 2015): a name or a code's text; null for none.
    teacher: str | None = None
    #: The teacher's weights, as ``model.pretrained``.
    teacher_weights: str | None = None
    #: The share of the teacher's part in the loss.
    teacher_share: float = Field(0.5, ge=0, le=1)
    #: What both networks' outputs are divided by in it.
    temperature: float = Field(1.0, gt=0)


class EmaPart(Section):
    """The moving average of the weights (timm's ``ModelEmaV3``), validated and saved instead when there is one."""

    decay: float | None = Field(None, gt=0, lt=1)
    #: Whether the decay rises from zero over the first updates.
    warmup: bool = True


class RunPart(Section):
    """The seed, and how the devices are used: no part of the method, though rounding depends on it."""

    seed: int = Field(0, ge=0, le=2**62)
    #: Most images that a device passes through the network at once; the batch is accumulated from such micro-batches.
    device_batch: int = Field(128, ge=1, le=1_000_000)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    sync_bn: bool = False
    #: Processes that read images, for each device.
    workers: int = Field(4, ge=0, le=256)
    checkpoint_minutes: float = Field(10.0, gt=0)
    tensorboard: bool = False


class Recipe(Section):
    """A whole training.

    Raises:
        RecipeError: Parts that contradict each other.

    Example:
        >>> recipe = Recipe(
        ...     model=ModelPart(name="mobilenetv2"), optim=OptimPart(lr=0.7), schedule=SchedulePart(epochs=120)
        ... )
        >>> recipe.optim.batch_size, recipe.loss.label_smoothing
        (1024, 0.0)
    """

    model: ModelPart
    optim: OptimPart
    schedule: SchedulePart
    data: DataPart = DataPart()
    augment: AugmentPart = AugmentPart()
    loss: LossPart = LossPart()
    ema: EmaPart = EmaPart()
    run: RunPart = RunPart()

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        for low_high, path in ((self.augment.scale, "augment.scale"), (self.augment.ratio, "augment.ratio")):
            if low_high[0] > low_high[1]:
                raise RecipeError(f"{path} is {list(low_high)}; the least comes first.")
        if self.schedule.warmup_epochs >= self.schedule.epochs and self.schedule.warmup_epochs:
            raise RecipeError(
                f"schedule.warmup_epochs is {self.schedule.warmup_epochs:g}; allowed is less than "
                f"schedule.epochs, {self.schedule.epochs}. --epochs N changes both."
            )
        if (self.loss.teacher is None) != (self.loss.teacher_weights is None):
            raise RecipeError("loss.teacher and loss.teacher_weights go together: a network and its trained weights.")
        part = self.model
        if (part.inherit is None) != (part.inherit_weights is None):
            raise RecipeError("model.inherit and model.inherit_weights go together: a network and its trained weights.")
        if part.inherit is not None and part.pretrained is not None:
            raise RecipeError(
                "model.pretrained and model.inherit both say what weights the training starts from: set one of them to "
                "null."
            )
        if len(self.data.mean) != len(self.data.std) or not self.data.mean or min(self.data.std) <= 0:
            raise RecipeError(
                f"data.mean is {list(self.data.mean)} and data.std {list(self.data.std)}; allowed are "
                "as many numbers as each other, the latter above zero."
            )
        return self


def read_recipe(path: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, with ``key.key=value`` assignments that replace its values.

    Raises:
        RecipeError: The file is missing or no recipe; the text names the key and what is allowed.
    """
    return read_tree_of(Recipe, path, assignments)


def read_tree_of(kind: type[Tree], path: str | Path, assignments: Sequence[str] = ()) -> Tree:
    """The recipe of one kind that a YAML file holds; as ``read_recipe``."""
    data = override(load_mapping(recipe_file(path), str(path)), kind, assignments)
    return read_tree(kind, data, source=str(path))


def recipe_file(path: str | Path) -> str:
    """The text of a recipe's file; a ``RecipeError`` where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise RecipeError(
            f"The recipe {path} cannot be read: {why}. The paper's are in recipes/imagenet and "
            "recipes/coco; paper:NAME_OR_CODE is the paper's recipe of any network."
        ) from None


def assigned(recipe: Tree, assignments: Sequence[str]) -> Tree:
    """A recipe with ``key.key=value`` assignments that replace its values; ``RecipeError`` as ``read_recipe``."""
    return read_tree(type(recipe), override(as_mapping(recipe), type(recipe), assignments))


def recipe_text(recipe: Section) -> str:
    """The recipe as YAML that reads as the same; it has every key, those of inherited weights where they are set."""
    mapping = as_mapping(recipe)
    # Texts and fingerprints of recipes are those of version 0.1.0, which did not have these keys.
    mapping["model"] = {k: v for k, v in mapping["model"].items() if v is not None or k not in _INHERITING}
    text: str = yaml.safe_dump(mapping, sort_keys=False, default_flow_style=None, width=110)
    return text


def with_values(recipe: Tree, **sections: Any) -> Tree:
    """A recipe with some values of some sections replaced, checked: ``with_values(r, schedule={"epochs": 2})``.

    Raises:
        RecipeError: As ``read_recipe``.
    """
    mapping = as_mapping(recipe)
    return read_tree(
        type(recipe), mapping | {name: mapping.get(name, {}) | values for name, values in sections.items()}
    )


def over_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe of other epochs, checked; the warm-up keeps its share of them."""
    warm = recipe.schedule.warmup_epochs * epochs / recipe.schedule.epochs
    return with_values(recipe, schedule={"epochs": epochs, "warmup_epochs": warm})
