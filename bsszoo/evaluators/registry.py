"""The registry of the built-in evaluators: one file and one line here each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from bsszoo.errors import SettingsError
from bsszoo.evaluators.base import Evaluator, as_evaluator, load_function
from bsszoo.models.resolve import Network
from bsszoo.options import TrainingOptions, read_rungs
from bsszoo.spaces.space import DIVISOR
from bsszoo.train.detection.recipe import read_any_recipe

#: The evaluator without data, and the one of a network with weights.
STRUCTURAL: Final = "structural"
INHERITED: Final = "inherited"
#: Module and class of each; the class has ``requested(Request) -> Evaluator``.
BUILT_IN: Final = {
    STRUCTURAL: ("bsszoo.evaluators.structural", "StructuralEvaluator"),
    INHERITED: ("bsszoo.evaluators.inherited", "InheritedEvaluator"),
    "training": ("bsszoo.evaluators.training", "TrainingEvaluator"),
    "detection": ("bsszoo.evaluators.detection", "DetectionEvaluator"),
}


@dataclass(frozen=True)
class Request:
    """What a built-in evaluator is made from.

    Args:
        network: What is compressed.
        training: The images, and how codes are trained on them.
        folder: Where trainings go.
        tested: Whether codes will be measured on a split that the search never sees, which then has to be there.
        divisor: What widths of subnetworks are multiples of.
        grow: How much wider and deeper than the network each stage of them may be.
    """

    network: Network
    training: TrainingOptions
    folder: Path
    tested: bool = True
    divisor: int = DIVISOR
    grow: float = 1.0


def make_evaluator(what: object, request: Request) -> Evaluator:
    """The evaluator of a name, a function or an object.

    Args:
        what: A name of a built-in one, ``"module:function"``, a function of a code, or an ``Evaluator``; None for
            ``structural`` without images, and with images ``inherited`` for a network with weights, else a training.
        request: What a built-in one is made from.

    Raises:
        UnknownNameError: There is no such module or function.
        EvaluationError: It is no evaluator.
        SettingsError: Both a function and a training are asked for.
        RecipeError: The recipe cannot be used.
    """
    trains = request.training.has_data
    if what is None:
        network = request.network
        trained = INHERITED if network.source is not None else "training"
        what = STRUCTURAL if not trains else trained if network.detector is None else "detection"
    if request.training.recipe is not None:
        # A wrong recipe is refused before torch is loaded to train by it.
        read_any_recipe(request.training.recipe)
    if what != "training" and read_rungs(request.training.rungs):
        raise SettingsError(
            f"--rungs is {request.training.rungs}; shorter trainings judge codes that are trained from scratch: of a "
            "classifier without weights, or with --evaluator training."
        )
    if isinstance(what, str) and what in BUILT_IN:
        made: Evaluator = built_in(what).requested(request)
        return made
    if trains:
        raise SettingsError(
            "--data trains the codes and --evaluator judges them otherwise: give one of the two, "
            "or --evaluator structural to train its candidates at the end, or only the best one with --finish."
        )
    if isinstance(what, str):
        names = ", ".join(map(repr, BUILT_IN))
        return as_evaluator(load_function(what, "evaluator", f"one of {names} or MODULE:FUNCTION"), name=what)
    return as_evaluator(what)


def built_in(name: str) -> Any:
    """The class of a built-in evaluator."""
    module, kind = BUILT_IN[name]
    return getattr(import_module(module), kind)
