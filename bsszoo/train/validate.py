"""``validate``: the accuracy of a finished training, a zoo entry or any code on a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bsszoo.errors import DataError, SettingsError
from bsszoo.train.batches import evaluation_batches, plain
from bsszoo.train.checkpoint import RECIPE, WEIGHTS
from bsszoo.train.data import open_split, open_splits
from bsszoo.train.devices import joined
from bsszoo.train.evaluation import Accuracy, evaluate
from bsszoo.train.recipe import ModelPart, OptimPart, Recipe, SchedulePart, read_recipe, with_values
from bsszoo.zoo.registry import create
from bsszoo.zoo.weights import SOURCES


def validate(
    what: str | Path, data: str | Path | None, *, weights: str | bool = True, settings: Mapping[str, Any] | None = None,
    batch: int | None = None, workers: int | None = None, precision: str | None = None, device: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Accuracy:
    """The accuracy of a network on the validation pictures; for a training's folder the figure that ended it.

    Args:
        what: The folder of a training or of a pulled network, ``hf-hub:org/name``, a zoo name or a code's text.
        data: The folder of the pictures; None for ``synthetic``.
        weights: Of a name or a code, as ``bsszoo.create`` takes them; a training's own otherwise.
        settings: Values of the recipe's data section in place of those that came with the weights.
        batch: Pictures of a batch.
        workers: Processes that read the pictures.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: As in ``train``.
        on_batch: Called after each batch with the pictures done, in this process.

    Raises:
        SettingsError: The folder holds no finished training.
        WeightsError, DataError, RecipeError: As their makers.
    """
    folder = Path(what).expanduser()
    trained = (folder / RECIPE).is_file()
    if folder.is_dir() and not trained and (folder / "config.json").is_file():
        what = f"local-dir:{folder}"  # pulled, or written by timm
    named = str(what).startswith(SOURCES)
    if not folder.exists() and len(folder.parts) > 1 and not named:
        raise SettingsError(f"There is no folder {str(what)!r}. Give a training's folder, a zoo name or a code's text.")
    if folder.is_dir() and not trained and not named:
        raise SettingsError(f"{folder} holds no training: there is no {RECIPE} in it. Give a training's folder, a zoo "
                            "name or a code's text.")
    if trained:
        recipe = read_recipe(folder / RECIPE)
        if not (folder / WEIGHTS).is_file():
            raise SettingsError(f"The training in {folder} has not come to its end; the same `bsszoo train` command "
                                "goes on with it.")
        part = recipe.model
        network: Any = create(part.name, num_classes=part.num_classes, in_chans=part.in_chans,
                              pretrained=str(folder / WEIGHTS))
    else:
        network = create(str(what), pretrained=weights)
        recipe = _recipe_of(network, str(what))
    run = {"device_batch": batch, "workers": workers, "precision": precision}
    recipe = with_values(recipe, data=dict(settings or {}), run={k: v for k, v in run.items() if v is not None})
    with ExitStack() as stack:
        place = stack.enter_context(joined(device))
        if trained and recipe.data.holdout and "val_split" not in (settings or {}):
            split = open_splits(recipe.data, data, num_classes=recipe.model.num_classes)[1]
        else:
            split = open_split(recipe.data, data, training=False, num_classes=recipe.model.num_classes)
        channels_last = recipe.run.channels_last
        try:
            accuracy = evaluate(network.to(place.device), evaluation_batches(split, recipe, place), place,
                                precision=recipe.run.precision, channels_last=channels_last, on_batch=on_batch)
        except DataError as error:
            raise plain(error) from None
    assert accuracy is not None  # nothing asked it to stop
    return accuracy


def _recipe_of(network: Any, name: str) -> Recipe:
    """A recipe with the input that a network's weights were made for, as timm resolves it for evaluation."""
    from timm.data.config import resolve_data_config

    config = resolve_data_config(model=network, use_test_size=True)
    channels, side, _ = config["input_size"]
    base = Recipe(ModelPart(name, num_classes=network.num_classes, in_chans=channels), OptimPart(lr=1.0),
                  SchedulePart(epochs=1))
    return with_values(base, data={
        "image_size": side, "crop_pct": float(config["crop_pct"]), "interpolation": config["interpolation"],
        "mean": tuple(config["mean"]), "std": tuple(config["std"]),
    })
