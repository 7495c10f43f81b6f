"""What moves the weights: timm's optimiser and schedule as a recipe names them, and the loss."""

from __future__ import annotations

from typing import Any

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from bsszoo.errors import RecipeError
from bsszoo.train.classification.recipe import OptimPart, Recipe


def make_optimizer(optim: OptimPart, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser over a network's parameters.

    Raises:
        RecipeError: ``optim.name`` is none of timm's, or does not take these settings.
    """
    # timm's 'sgd' is Nesterov's; 'momentum' is the plain one.
    name = "momentum" if optim.name == "sgd" and not optim.nesterov else optim.name
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=name,
            lr=optim.peak_lr,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            filter_bias_and_bn=not optim.decay_norm_and_bias,
        )
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise RecipeError(
            f"optim.name is {optim.name!r}, which timm does not make with these settings: {error}. "
            "Examples are sgd, adamw, lamb, rmsproptf."
        ) from None
    return made


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, updates: int) -> Any:
    """timm's schedule of the learning rate, stepped before each update by ``schedule.step_update(number)``.

    The rate rises linearly over the warm-up and then follows the schedule over the epochs that are left, so that it
    ends, after ``schedule.epochs``, at ``min_lr``.

    Args:
        recipe: The recipe.
        optimizer: The optimiser whose rate is set.
        updates: Updates of an epoch.
    """
    plan, peak = recipe.schedule, recipe.optim.peak_lr
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=plan.name,
        num_epochs=plan.epochs - plan.warmup_epochs,  # type: ignore[arg-type]
        warmup_epochs=plan.warmup_epochs,  # type: ignore[arg-type]
        warmup_lr=plan.warmup_from * peak,
        warmup_prefix=True,
        min_lr=plan.min_lr,
        step_on_epochs=False,
        updates_per_epoch=updates,
        decay_rate=1.0,
    )
    return schedule


class Objective:
    """The loss of a micro-batch: cross-entropy against the labels, smoothed or mixed, and against a teacher's outputs.

    With a teacher t, share a and temperature T the loss is ``(1 - a) CE + a T^2 KL(softmax(t / T) | softmax(x / T))``
    (Hinton et al. 2015, equation 1 and section 2).
    """

    def __init__(self, recipe: Recipe, teacher: nn.Module | None = None) -> None:
        loss, augment = recipe.loss, recipe.augment
        self._share, self._temperature = loss.teacher_share, loss.temperature
        self._teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self._erase, self._mix = augment.erase, None
        self._against: nn.Module
        if augment.mixup or augment.cutmix:
            self._mix = Mixup(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                prob=1.0,
                mode="batch",
                label_smoothing=loss.label_smoothing,
                num_classes=recipe.model.num_classes,
            )
            self._against = SoftTargetCrossEntropy()
        elif loss.label_smoothing:
            self._against = LabelSmoothingCrossEntropy(loss.label_smoothing)
        else:
            self._against = nn.CrossEntropyLoss()

    def mixed(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and targets as the loss takes them, where the recipe asks for it erased and mixed.

        timm's ``RandomErasing`` (noise in a rectangle of an image) comes before its ``Mixup``, as in timm's script.
        The images are changed in-place.
        """
        if self._erase:
            images = RandomErasing(self._erase, mode="pixel", device=images.device)(images)
        if self._mix is None:
            return images, labels
        images, targets = self._mix(images, labels)
        return images, targets

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The mean loss [nats] of outputs [m, k], with targets as ``mixed`` returns them and images [m, c, s, s]."""
        loss: torch.Tensor = self._against(outputs.float(), targets)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            wanted = self._teacher(images).float()
        t = self._temperature
        distillation = nn.functional.kl_div(
            nn.functional.log_softmax(outputs.float() / t, dim=1),
            nn.functional.log_softmax(wanted / t, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self._share) * loss + self._share * t * t * distillation
