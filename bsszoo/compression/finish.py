"""``finish``: the best code of a search, trained in full; the original may be its teacher, or pass its weights on.

    best code --finish_recipe--> Recipe --inherited_start--> a file of weights, which the recipe names --> train.loop

All settings are in the recipe that is written beside the training, so that ``bsszoo train`` (or ``torchrun``, on
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
    """How the best code is trained in full.

    Args:
        recipe: Its network is replaced. ``read_finish`` makes one of the option ``--finish``.
        data: The folder of the images, as ``bsszoo train --data``.
        teacher: Weights of the original, as ``bsszoo.create`` takes them, whose outputs are distilled; None for no
            teacher. The recipe sets their share: ``loss.teacher_share`` and ``loss.temperature``.
        inherit: Weights of the original that the code's network starts from, as far as shapes allow; None for fresh
            ones.
        device: As ``bsszoo train --device``.
    """

    recipe: Recipe
    data: str | None
    teacher: str | None = None
    inherit: str | None = None
    device: str | None = None

    def check(self, original: Code) -> None:
        """Check before the search what is needed after it: images, and weights of the original.

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
        what: A YAML file, or ``"paper"``: Table 1's of the family, on the images of the search, with their
            validation split.
        family: A family's name.
        candidates: Returns the recipe by which candidates are trained; not called for a file.
        data: The folder of the images: where it has no validation split, training images are held out for the
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
    machine = ("device_batch", "precision", "channels_last", "workers")
    return with_values(made, model={"in_chans": whole.model.in_chans}, run={k: getattr(whole.run, k) for k in machine})


def finish(how: Finish, code: Code, original: Code, folder: Path, callback: TrainingCallback | None = None) -> Finished:
    """Train the best code in a run's folder, or resume that training.

    Args:
        how: The recipe, data and weights.
        code: The code.
        original: The network that was compressed: the teacher, and whose weights are inherited.
        folder: The run's folder. The training is in ``finish_FINGERPRINT`` in it, of the code's fingerprint, and
            its recipe in ``finish_FINGERPRINT.yaml``.
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
        images=summary["val_pictures"],
        measured_on=summary["validated_on"],
        epochs=summary["epochs"],
        inherited=inherited,
        teacher=how.teacher,
    )


def training_folder(folder: Path, code: Code) -> Path:
    """The folder of a code's training in full in a run's folder; another best code has another one."""
    return folder / f"finish_{hashlib.sha256(str(code).encode()).hexdigest()[:6]}"


def inherited_start(recipe: Recipe, code: Code, original: Code, weights: str, folder: Path) -> tuple[Recipe, str]:
    """The recipe that starts from the original's weights, which are written to a file, and a note on what it inherits.

    Args:
        recipe: The recipe of the code.
        code, original: The code, and the one that the weights are of.
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
                f"{note} cannot be read, or was not written by bsszoo. Remove it, {start} and {out} to "
                "start that training again; the search stays."
            )
    if begun is None:
        inheritance = _inherit(recipe, code, original, weights, start)
        begun = {**wanted, **asdict(inheritance), "words": str(inheritance)}
        write_whole(note, json.dumps(begun, indent=2) + "\n")
    elif {k: begun[k] for k in wanted} != wanted:
        raise SettingsError(
            f"{start} was inherited from {begun['weights']}. Remove it and {out} to start again, or give another --out."
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
    # With the weights' number of classes: a classifier that is not the trained one is not inherited.
    classes = classes_of(fetch(weights, original, entry_of(original), org=hub_org(None)), original)
    trained = create(original, pretrained=weights, num_classes=classes, in_chans=part.in_chans)
    torch.manual_seed(recipe.run.seed)
    network = start_network(recipe, fresh=True)
    inheritance = inherit_weights(network, code, trained, original)
    with whole_file(start) as scratch:
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, scratch, metadata={"format": "pt"})
    return inheritance


def _fixed(weights: str) -> str:
    """Weights as the recipe names them: paths are made absolute, so that it can be used from any folder."""
    prefix = "local-dir:" if weights.startswith("local-dir:") else ""
    path = Path(weights.removeprefix(prefix)).expanduser()
    return f"{prefix}{path.absolute()}" if path.exists() else weights
