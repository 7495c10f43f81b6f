"""``finish``: the network that a search found, trained in full; the original may teach it, or give it its weights.

    code found --finish_recipe--> Recipe --inherited_start--> a file of weights, which the recipe names --> train.loop

What is trained is all in the recipe that is written beside the training, so that ``bsszoo train`` (or ``torchrun``, on
several devices) does the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bsszoo.codes.code import Code
from bsszoo.compression.folder import read_json
from bsszoo.errors import RecipeError, SettingsError
from bsszoo.files import whole_file, write_whole
from bsszoo.study.result import Finished
from bsszoo.train.classification.paper import paper_recipe
from bsszoo.train.classification.recipe import Recipe, read_recipe, recipe_text, with_values

if TYPE_CHECKING:
    from bsszoo.models.inherit import Inheritance
    from bsszoo.train.callbacks import TrainingCallback

#: In place of a recipe's file: the paper's recipe of the family.
PAPER: Final = "paper"


@dataclass(frozen=True, slots=True)
class Finish:
    """How the best code found is trained in the end.

    Args:
        recipe: How; its network does not matter. ``read_finish`` makes one of what a person gives.
        data: The folder of the pictures, as ``bsszoo train --data``.
        teacher: Weights of the original, as ``bsszoo.create`` takes them, whose outputs are learnt as well; None for
            no teacher. How much they count is the recipe's ``loss.teacher_share`` and ``loss.temperature``.
        inherit: Weights of the original that the code's own start from, as far as shapes allow; None for fresh ones.
        device: As ``bsszoo train --device``.
    """

    recipe: Recipe
    data: str | None
    teacher: str | None = None
    inherit: str | None = None
    device: str | None = None

    def check(self, original: Code) -> None:
        """What would otherwise show after the search only: pictures, and weights of the original.

        Raises:
            DataError, WeightsError, RecipeError: They cannot be used.
        """
        from bsszoo.codes.named import entry_of
        from bsszoo.evaluators.training import updates_of
        from bsszoo.models.names import hub_org
        from bsszoo.models.weights import fetch
        from bsszoo.train.classification.data import open_splits

        train, _ = open_splits(self.recipe.data, self.data, num_classes=self.recipe.model.num_classes)
        try:
            updates_of(self.recipe, train)
        except RecipeError as error:
            raise RecipeError(f"--finish: {error}") from None
        for weights in (self.teacher, self.inherit):
            if weights is not None:
                fetch(weights, original, entry_of(original), org=hub_org(None))


def read_finish(what: str, family: str, candidates: Callable[[], Recipe], data: str | None = None) -> Recipe:
    """The recipe that ``--finish`` names.

    Args:
        what: A YAML file, or ``"paper"``: Table 1's of the family, on the pictures of the search, with a validation
            split of their own.
        family: A family's name.
        candidates: Gives the recipe by which candidates were trained, or would be; not asked for a file.
        data: The folder of the pictures: where it has no validation split, training pictures are held out for the
            paper's recipe, as they are for candidates.

    Raises:
        SettingsError: There is no such file.
        RecipeError: As ``read_recipe``.
    """
    if what != PAPER:
        if not Path(what).is_file():
            raise SettingsError(
                f"--finish is {what!r}; it takes a recipe's YAML file, or {PAPER} for the one of the paper."
            )
        return read_recipe(what)
    from bsszoo.train.classification.data import has_split

    judged = candidates()
    holdout = 0.0 if has_split(judged.data, data, judged.data.val_split) else judged.data.holdout
    whole = with_values(judged, data={"holdout": holdout, "subset": 1.0, "test_split": None})
    made = paper_recipe(family, num_classes=whole.model.num_classes, data=whole.data)
    how = ("device_batch", "precision", "channels_last", "workers")
    return with_values(made, model={"in_chans": whole.model.in_chans}, run={k: getattr(whole.run, k) for k in how})


def finish(how: Finish, code: Code, original: Code, folder: Path, callback: TrainingCallback | None = None) -> Finished:
    """Train the best code found in a run's folder, or go on with that.

    Args:
        how: How.
        code: The code.
        original: The network that was compressed: the teacher, and whose weights are inherited.
        folder: The run's folder. The training is in ``finish_MARK`` in it, where the mark is the code's, its recipe
            in ``finish_MARK.yaml``.
        callback: Called during the training.

    Raises:
        WeightsError, DataError, RecipeError, RunError, StoppedError: As ``train``.
        SettingsError: The folder's training began with other weights.
    """
    from bsszoo.train.loop import train

    recipe = with_values(how.recipe, model={"name": str(code)})
    if how.teacher is not None:
        recipe = with_values(recipe, loss={"teacher": str(original), "teacher_weights": _fixed(how.teacher)})
    inherited = None
    if how.inherit is not None:
        recipe, inherited = inherited_start(recipe, code, original, how.inherit, folder)
        if callback is not None:
            callback.note(f"inherited from {how.inherit}: {inherited}")
    out = training_folder(folder, code)
    write_whole(out.with_suffix(".yaml"), recipe_text(recipe))
    summary = train(recipe, how.data, out, device=how.device, callback=callback)
    return Finished(
        code=str(code),
        folder=out.name,
        top1=summary["top1"],
        top5=summary["top5"],
        pictures=summary["val_pictures"],
        measured_on=summary["validated_on"],
        epochs=summary["epochs"],
        inherited=inherited,
        teacher=how.teacher,
    )


def training_folder(folder: Path, code: Code) -> Path:
    """Where a code's training in full is kept in a run's folder; another best code has another one."""
    return folder / f"finish_{hashlib.sha256(str(code).encode()).hexdigest()[:6]}"


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
    out = training_folder(folder, code)
    start, note = (out.with_name(f"{out.name}_{rest}") for rest in ("start.safetensors", "inherited.json"))
    wanted = {"original": str(original), "weights": _fixed(weights)}
    begun: dict[str, Any] | None = None
    if note.is_file() and start.is_file():
        begun = read_json(note)
        if begun is None or not {*wanted, "words"} <= begun.keys():
            raise SettingsError(
                f"{note} cannot be read, or is no note of ours. Take it, {start} and {out} away to "
                "begin that training anew; the search is kept."
            )
    if begun is None:
        found = _inherit(recipe, code, original, weights, start)
        begun = {**wanted, **asdict(found), "words": str(found)}
        write_whole(note, json.dumps(begun, indent=2) + "\n")
    elif {k: begun[k] for k in wanted} != wanted:
        raise SettingsError(
            f"{start} was inherited from {begun['weights']}. Take it and {out} away to begin anew, or "
            "give another --out."
        )
    return with_values(recipe, model={"pretrained": str(start.absolute())}), str(begun["words"])


def _inherit(recipe: Recipe, code: Code, original: Code, weights: str, start: Path) -> Inheritance:
    import torch
    from safetensors.torch import save_file

    from bsszoo.codes.named import entry_of
    from bsszoo.models.create import create
    from bsszoo.models.inherit import inherit_weights
    from bsszoo.models.loading import classes_of
    from bsszoo.models.names import hub_org
    from bsszoo.models.weights import fetch
    from bsszoo.train.classification.outcome import start_network

    part = recipe.model
    # With its own number of classes: a classifier that is not the trained one is not inherited.
    classes = classes_of(fetch(weights, original, entry_of(original), org=hub_org(None)), original)
    trained = create(original, pretrained=weights, num_classes=classes, in_chans=part.in_chans)
    torch.manual_seed(recipe.run.seed)
    network = start_network(recipe, fresh=True)
    found = inherit_weights(network, code, trained, original)
    with whole_file(start) as scratch:
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, scratch, metadata={"format": "pt"})
    return found


def _fixed(weights: str) -> str:
    """Weights that stay the same ones from whichever folder the recipe is used: paths are made absolute."""
    prefix = "local-dir:" if weights.startswith("local-dir:") else ""
    path = Path(weights.removeprefix(prefix)).expanduser()
    return f"{prefix}{path.absolute()}" if path.exists() else weights
