"""``finish``: the network that a search found, trained in full; the original may teach it, or give it its weights.

    code found --finish_recipe--> Recipe --inherited_start--> a file of weights, which the recipe names --> train.loop

What is trained is all in the recipe that is written beside the training, so that ``bsszoo train`` (or ``torchrun``, on
several devices) does the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bsszoo.codes.code import Code
from bsszoo.errors import SettingsError
from bsszoo.files import whole_file, write_whole
from bsszoo.train.paper import paper_recipe
from bsszoo.train.recipe import Recipe, read_recipe, recipe_text, with_values

if TYPE_CHECKING:
    from bsszoo.nets.inherit import Inheritance

#: In a run's folder: the training, its recipe, the weights it starts from and how much of these was inherited.
FOLDER, RECIPE, START, INHERITED = "finish", "finish.yaml", "finish_start.safetensors", "finish_inherited.json"
#: In place of a recipe's file: the paper's recipe of the family.
PAPER: Final = "paper"


@dataclass(frozen=True, slots=True)
class Finish:
    """How a found code is trained in the end.

    Args:
        recipe: A YAML file, or ``"paper"``. The network in it does not matter.
        teacher: Weights of the original, as ``bsszoo.create`` takes them, whose outputs are learnt as well; None for
            no teacher. How much they count is the recipe's ``loss.teacher_share`` and ``loss.temperature``.
        inherit: Weights of the original that the code's own start from, as far as shapes allow; None for fresh ones.

    Raises:
        SettingsError: There is no such file.
    """

    recipe: str
    teacher: str | None = None
    inherit: str | None = None

    def __post_init__(self) -> None:
        if self.recipe != PAPER and not Path(self.recipe).is_file():
            raise SettingsError(f"--finish is {self.recipe!r}; it takes a recipe's YAML file, or {PAPER} for the one "
                                "of the paper.")


def finish_recipe(
    how: Finish, code: Code, original: Code, candidates: Recipe, assignments: Sequence[str] = (),
) -> Recipe:
    """The recipe that trains a found code.

    Args:
        how: What was asked for.
        code: The code found.
        original: The network that was compressed: the teacher.
        candidates: The recipe by which candidates were trained: its pictures are the ones of the paper's recipe.
        assignments: ``key.key=value`` texts.

    Raises:
        RecipeError: As ``read_recipe``.
    """
    if how.recipe == PAPER:
        data = with_values(candidates, data={"holdout": 0.0, "subset": 1.0, "test_split": None}).data
        made = paper_recipe(code.family, num_classes=candidates.model.num_classes, data=data)
        made = with_values(made, model={"in_chans": candidates.model.in_chans}, run={
            name: getattr(candidates.run, name) for name in ("device_batch", "precision", "channels_last", "workers")})
    else:
        made = read_recipe(how.recipe, assignments)
    made = with_values(made, model={"name": str(code)})
    if how.teacher is not None:
        made = with_values(made, loss={"teacher": str(original), "teacher_weights": _fixed(how.teacher)})
    return made


def inherited_start(recipe: Recipe, code: Code, original: Code, weights: str, folder: Path) -> tuple[Recipe, str]:
    """The recipe that starts from the original's weights, which are written for it, and how much it inherits in words.

    Args:
        recipe: The recipe of the code found.
        code, original: The code found, and the one that the weights are of.
        weights: As ``bsszoo.create`` takes them.
        folder: The run's folder.

    Raises:
        WeightsError: As ``bsszoo.create``.
        SettingsError: The folder was begun with other weights.
    """
    start, note = folder / START, folder / INHERITED
    wanted = {"code": str(code), "original": str(original), "weights": _fixed(weights)}
    begun = json.loads(note.read_text(encoding="utf-8")) if note.is_file() and start.is_file() else None
    if begun is None:
        found = _inherit(recipe, code, original, weights, start)
        begun = {**wanted, **asdict(found), "words": str(found)}
        write_whole(note, json.dumps(begun, indent=2) + "\n")
    elif {k: begun[k] for k in wanted} != wanted:
        raise SettingsError(f"{start} was inherited from {begun['weights']} for {begun['code']}. Take it and "
                            f"{folder / FOLDER} away to begin anew, or give another --out.")
    return with_values(recipe, model={"pretrained": str(start.absolute())}), str(begun["words"])


def _inherit(recipe: Recipe, code: Code, original: Code, weights: str, start: Path) -> Inheritance:
    from safetensors.torch import save_file

    from bsszoo.codes.named import entry_of
    from bsszoo.nets.build import build
    from bsszoo.nets.inherit import inherit_weights
    from bsszoo.zoo.registry import create
    from bsszoo.zoo.weights import classes_of, fetch

    part = recipe.model
    classes = classes_of(fetch(weights, original, entry_of(original)), original)
    trained = create(original, pretrained=weights, num_classes=classes, in_chans=part.in_chans)
    _seed(recipe.run.seed)
    network = build(code, num_classes=part.num_classes, in_chans=part.in_chans)
    found = inherit_weights(network, code, trained, original)
    with whole_file(start) as scratch:
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, scratch, metadata={"format": "pt"})
    return found


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _fixed(weights: str) -> str:
    """Weights that stay the same ones from whichever folder the recipe is used: paths are made absolute."""
    prefix = "local-dir:" if weights.startswith("local-dir:") else ""
    path = Path(weights.removeprefix(prefix)).expanduser()
    return f"{prefix}{path.absolute()}" if path.exists() else weights


def finish(
    recipe: Recipe, data: str | Path | None, folder: Path, *, device: str | None = None, watcher: Any = None,
) -> dict[str, Any]:
    """Train by a finish's recipe in a run's folder, or go on with that; the summary, as ``train``."""
    from bsszoo.train.loop import train

    write_whole(folder / RECIPE, recipe_text(recipe))
    return train(recipe, data, folder / FOLDER, device=device, watcher=watcher)
