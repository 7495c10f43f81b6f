"""Trained networks that a recipe takes over from: the one whose weights are inherited, and the teacher.

WEIGHTS --with_trained--> recipe, which names a network and its weights --open_trained--> Trained
inherited network --start_state--> the weights that the training starts from, and how much of them is inherited
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.errors import RecipeError, SettingsError
from bsszoo.models.create import create
from bsszoo.models.inherit import Reference, check_family, inherit_weights, is_subnetwork
from bsszoo.models.loading import classes_of
from bsszoo.models.names import LOCAL, hub_org, resolve_code
from bsszoo.models.resolve import Network, resolve
from bsszoo.models.weights import Weights, fetch, sha256_of
from bsszoo.texts import one_line, parse_json
from bsszoo.train.checkpoint import CONFIG, Folder
from bsszoo.train.classification.data import ImageSplit, Split, class_names
from bsszoo.train.classification.in_memory import Images, Normaliser, decode, recompute_norms
from bsszoo.train.classification.outcome import start_network
from bsszoo.train.classification.recipe import Recipe, with_values
from bsszoo.train.seeds import seed_generators
from bsszoo.train.strict import as_mapping

#: The file in a training's folder with the weights that it started from, where it inherited some.
START: Final = "start.safetensors"
#: Training images from which means and variances are recomputed.
NORM_IMAGES: Final = 2048
#: Values of the inputs (images x channels x side x side) to which layers are fitted: 1,000 images of 32 x 32 px, and
#: the fewest images.
FITTED: Final = (3 * 32 * 32 * 1000, 100)
# Most bytes of images that are decoded for it, and most values of a batch: 2,048 and 256 images of 224 px.
_MOST_BYTES: Final = 2**29
_MOST_VALUES: Final = 256 * 3 * 224**2
# Entry of that file's metadata.
_SECTION: Final = "bsszoo"


# -- what a recipe says of them --------------------------------------------------------------------------------


def with_trained(recipe: Recipe, *, inherit: str | Path | None = None, teacher: str | Path | None = None) -> Recipe:
    """A recipe that inherits weights, or learns from a teacher.

    Args:
        recipe: The recipe.
        inherit: The network whose weights the recipe's starts from, as far as shapes allow: whatever
            ``bsszoo.models.resolve`` takes that has weights. None to leave the recipe's.
        teacher: The network whose outputs are learnt, in the same way; ``loss.teacher_share`` is its share of the loss.

    Raises:
        SettingsError: One of them has no weights, or is a detector.
        CodeError: ``inherit`` is of another family.
        UnknownNameError, WeightsError: As ``resolve``.
    """
    if inherit is not None:
        code, weights = _named(inherit, "--inherit")
        check_family(resolve_code(recipe.model.name), code)
        if recipe.model.pretrained is not None:
            raise RecipeError(
                f"The recipe starts from other weights, model.pretrained {one_line(recipe.model.pretrained)!r}: leave "
                "--inherit out, or set model.pretrained=null."
            )
        recipe = with_values(recipe, model={"inherit": str(code), "inherit_weights": weights})
    if teacher is not None:
        code, weights = _named(teacher, "--teacher")
        recipe = with_values(recipe, loss={"teacher": str(code), "teacher_weights": weights})
    return recipe


def _named(what: str | Path, option: str) -> tuple[Code, str]:
    network = resolve(what)
    if network.detector is not None:
        raise SettingsError(f"{option} takes a classifier, and got {network.recognised}.")
    source = network.source or network.tag
    if source is None:
        tags = network.entry.tags if network.entry is not None else ()
        tag = f", such as {network.entry.name}.{tags[0].tag}" if network.entry is not None and tags else ""
        raise SettingsError(
            f"{option} takes a trained network, and {network.recognised} comes without weights. Give its weights file, "
            f"its training's folder, hf-hub:ORG/NAME, or a name with a tag{tag}."
        )
    return network.code, fixed(source)


def fixed(weights: str) -> str:
    """Weights as a recipe names them: paths are made absolute, so that it can be used from any folder."""
    prefix = LOCAL if weights.startswith(LOCAL) else ""
    path = Path(weights.removeprefix(prefix)).expanduser()
    return f"{prefix}{path.absolute()}" if path.exists() else weights


# -- a trained network -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network on the CPU.

    ``classes`` is the number of its outputs, 0 of one without a classifier; ``weights`` says where they are from, and
    ``sha256`` which file it was. ``names`` are those of its outputs, and ``mean`` and ``std`` what its images were
    normalised by, None where nothing says so.
    """

    network: nn.Module
    code: Code
    classes: int
    weights: str
    sha256: str
    names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def record(self) -> dict[str, str]:
        """What identifies it in a summary."""
        return {"code": str(self.code), "weights": self.weights, "sha256": self.sha256}

    def order(self, classes: Sequence[str] | None) -> None:
        """Bring its outputs into the order of the data's classes; ``SettingsError`` as ``output_order``."""
        set_order(self.network, output_order(self.names, classes, self.classes, self.weights))

    def doubts(self, recipe: Recipe) -> tuple[str, ...]:
        """A sentence where the recipe normalises images otherwise than the network's training did."""
        data, (mean, std) = recipe.data, (self.mean, self.std)
        if mean is None or std is None or (len(mean), len(std)) != (len(data.mean), len(data.std)):
            return ()
        if np.allclose(mean, data.mean, atol=2e-3) and np.allclose(std, data.std, atol=2e-3):
            return ()
        return (
            f"{self.weights} was trained on images with mean {list(mean)} and deviation {list(std)}, and the recipe "
            "normalises them otherwise: data.mean and data.std can be set to these",
        )


def open_trained(name: str, weights: str, in_chans: int) -> Trained:
    """The network that a recipe names.

    Args:
        name: A name or a code's text.
        weights: Its weights, as ``bsszoo.create`` takes them.
        in_chans: Channels of the recipe's images; weights for 3 are adapted to others.

    Raises:
        WeightsError: They do not exist, cannot be reached, or are of another network.
    """
    named = resolve(name)
    code, found = named.classifier, _fetched(named, weights)
    classes = classes_of(found, code)
    network: Any = create(code, pretrained=weights, num_classes=classes, in_chans=in_chans)
    config: Mapping[str, Any] = found.config
    if not config and (found.path.parent / CONFIG).is_file():
        config = resolve(found.path).config
    names = config.get("label_names")
    mean, std = (tuple(config[key]) if config.get(key) else None for key in ("mean", "std"))
    return Trained(
        network,
        code,
        classes,
        weights,
        sha256_of(found.path),
        tuple(map(str, names)) if isinstance(names, (list, tuple)) and len(names) == classes else None,
        mean,
        std,
    )


def _fetched(named: Network, weights: str) -> Weights:
    """The file of a named network's weights."""
    return fetch(weights, named.classifier, named.entry, org=hub_org(None))


def output_order(
    names: Sequence[str] | None, classes: Sequence[str] | None, outputs: int, network: str
) -> tuple[int, ...]:
    """Which output of a network stands for each class of the data; behind them those that stand for none.

    Args:
        names: Of the outputs.
        classes: Of the data. Where one of the two is unknown, output i is taken for class i.
        outputs: Number of outputs.
        network: Names the network in the error.

    Raises:
        SettingsError: The network has no output for a class.

    Example:
        >>> output_order(["cat", "dog", "eel"], ["dog", "eel"], 3, "a network")
        (1, 2, 0)
    """
    if not names or not classes:
        return tuple(range(outputs))
    lacking = [name for name in classes if name not in set(names)]
    if lacking:
        raise SettingsError(
            f"The images have the class {one_line(lacking[0])!r}, which is no label of {network}. Name the folders as "
            "its labels, "
            f"{', '.join(one_line(name) for name in names[:3])}{', ..' if len(names) > 3 else ''}."
        )
    first = [names.index(name) for name in classes]
    return (*first, *(i for i in range(outputs) if i not in set(first)))


@torch.no_grad()
def set_order(network: Any, order: Sequence[int]) -> None:
    """Reorder a network's outputs: output i is then what output ``order[i]`` was."""
    classifier, rows = network.get_classifier(), torch.tensor(order)
    classifier.weight.copy_(classifier.weight[rows].clone())
    if classifier.bias is not None:
        classifier.bias.copy_(classifier.bias[rows].clone())


def open_teacher(recipe: Recipe, classes: Sequence[str] | None = None) -> Trained | None:
    """The network that the recipe's learns from, or None; it sees the same normalised images.

    Args:
        recipe: The recipe.
        classes: Of the data, in whose order the teacher's outputs are brought; None where they have no names.

    Raises:
        RecipeError: It has another number of outputs, or they stand for other classes.
    """
    loss, part = recipe.loss, recipe.model
    if loss.teacher is None or loss.teacher_weights is None:
        return None
    teacher = open_trained(loss.teacher, loss.teacher_weights, part.in_chans)
    if teacher.classes != part.num_classes:
        raise RecipeError(
            f"The teacher, {loss.teacher_weights}, has {teacher.classes:,} outputs, and model.num_classes is "
            f"{part.num_classes:,}: a teacher is a network of the same classes. Train it on these images first, "
            "starting from its weights (bsszoo train --inherit, which takes any number of classes)."
        )
    try:
        teacher.order(classes)
    except SettingsError as error:
        raise RecipeError(f"A teacher is a network of the same classes. {error}") from None
    return teacher


def open_inherited(recipe: Recipe, classes: Sequence[str] | None = None) -> Trained | None:
    """The network whose weights the recipe's inherits, or None.

    Args:
        recipe: The recipe.
        classes: Of the data, in whose order its outputs are brought where they are as many; None without names.

    Raises:
        SettingsError: It has as many classes as the recipe, and others.
        WeightsError: As ``open_trained``.
    """
    part = recipe.model
    if part.inherit is None or part.inherit_weights is None:
        return None
    trained = open_trained(part.inherit, part.inherit_weights, part.in_chans)
    if trained.classes == part.num_classes:
        trained.order(classes)
    return trained


# -- inherited weights -----------------------------------------------------------------------------------------


def images_to_fit(in_chans: int, size: int) -> int:
    """How many images of a side [px] layers are fitted to."""
    values, least = FITTED
    return max(least, values // (in_chans * size**2))


def reference(
    trained: nn.Module, code: Code, images: Images, normalise: Normaliser, *, labelled: bool = True
) -> Reference:
    """What the layers of a trained network give for some training images, by which others are fitted to it.

    Args:
        trained, code: The network, on the normaliser's device, and its code.
        images: The training images.
        normalise: Makes the network's input.
        labelled: Whether its outputs stand for the images' labels, by which channels are then chosen.
    """
    rows = images.some(images_to_fit(images.pixels.shape[1], images.size))
    inputs = normalise(images.centres(rows))
    return Reference(trained, code, inputs, images.labels[rows.tolist()] if labelled else None)


@dataclass(frozen=True, slots=True)
class InheritedStart:
    """The weights that a training starts from, and a record of what of them is inherited, for its summary."""

    state: dict[str, torch.Tensor]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()


def start_state(recipe: Recipe, train: Split, device: torch.device, note: Callable[[str], None]) -> InheritedStart:
    """The weights of the recipe's network, of which it inherits what shapes allow.

    The network is fitted to the trained one layer by layer on some training images, on which the means and variances of
    its normalisations are recomputed, unless nothing is lost: a network that has all the blocks and channels of the
    trained one begins as its very function. Neither is done for images that are read in a fixed order.

    Args:
        recipe: A recipe with ``model.inherit``.
        train: The training images.
        device: Where it is computed.
        note: Called before what takes long.

    Raises:
        CodeError: The trained network is of another family.
        SettingsError: It has as many classes as the recipe, and others.
        WeightsError: As ``open_trained``.
    """
    part, code, trained = recipe.model, resolve_code(recipe.model.name), open_inherited(recipe, class_names(train))
    assert trained is not None
    check_family(code, trained.code)
    labelled = trained.classes == part.num_classes
    seed_generators(torch.device("cpu"), recipe.run.seed)
    # Stochastic depth would be part of recomputed statistics.
    network = start_network(with_values(recipe, model={"drop_rate": 0.0, "drop_path_rate": 0.0}), fresh=True)
    whole, fitted = is_subnetwork(trained.code, code), 0
    if whole or not isinstance(train, ImageSplit):
        inheritance = inherit_weights(network, code, trained.network, trained.code)
    else:
        # Least squares are solved in float64.
        where = device if device.type == "cuda" else torch.device("cpu")
        rows = np.random.default_rng(0).permutation(len(train))[: _images_to_read(recipe)]
        note(
            f"inheriting from {part.inherit_weights}, fitting layers to its outputs for some of {len(rows):,} training "
            "images .."
        )
        images, normalise = decode(replace(train, indices=train.indices[rows]), recipe), Normaliser(recipe, where)
        network, source = network.to(where), trained.network.to(where)
        target = reference(source, trained.code, images, normalise, labelled=labelled)
        fitted = len(target.images)
        # Whatever run.device_batch is, so that any number of processes begins with the same weights.
        batch = max(2, min(256, _MOST_VALUES // (part.in_chans * recipe.data.image_size**2)))
        inheritance = inherit_weights(network, code, source, trained.code, reference=target)
        recompute_norms(network, images, normalise, number=NORM_IMAGES, batch=batch)
    words = str(inheritance)
    if fitted:
        words += f", fitted to its outputs for {fitted:,} training images"
    elif not whole:
        words += ", not fitted, as the images are read in a fixed order"
    words += "" if labelled else f"; the classifier is fresh, as it has {trained.classes:,} classes"
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    return InheritedStart(
        state, {**trained.record, **asdict(inheritance), "images": fitted, "words": words}, trained.doubts(recipe)
    )


def _images_to_read(recipe: Recipe) -> int:
    """How many training images are decoded to fit layers and to recompute normalisations."""
    channels, data = recipe.model.in_chans, recipe.data
    wanted = max(NORM_IMAGES, images_to_fit(channels, data.image_size))
    return min(wanted, max(16, int(_MOST_BYTES / (channels * (data.image_size / data.crop_pct) ** 2))))


def saved_start(folder: Path | None, recipe: Recipe, data: str, make: Callable[[], InheritedStart]) -> InheritedStart:
    """The start of a training, from its folder's file where that holds it, else made and written there.

    Args:
        folder: The training's folder; None to write nothing.
        recipe: The recipe.
        data: The data's fingerprint.
        make: Makes it.

    Raises:
        WeightsError: The trained network's weights do not exist, or cannot be reached.
        RunError: The file cannot be written.
    """
    part = recipe.model
    assert part.inherit is not None
    assert part.inherit_weights is not None
    weights = sha256_of(_fetched(resolve(part.inherit), part.inherit_weights).path)
    depends = [as_mapping(part), as_mapping(recipe.data), recipe.run.seed, data, weights]
    identity = hashlib.sha256(json.dumps(depends).encode()).hexdigest()
    file = None if folder is None else folder / START
    saved = {} if file is None else _metadata(file)
    if file is not None and saved.get("identity") == identity:
        return InheritedStart(load_file(file), dict(saved["record"]), tuple(saved["notes"]))
    start = make()
    if folder is not None:
        metadata = {"identity": identity, "record": start.record, "notes": start.notes}
        with Folder(folder).writing(START) as scratch:
            save_file(start.state, scratch, metadata={"format": "pt", _SECTION: json.dumps(metadata)})
    return start


def start_record(folder: Path | None, recipe: Recipe) -> dict[str, Any] | None:
    """What a training inherited, for its summary: of its start's file, else as far as the recipe says; None without."""
    part = recipe.model
    if part.inherit is None:
        return None
    saved = {} if folder is None else _metadata(folder / START)
    return dict(saved.get("record") or {"code": part.inherit, "weights": part.inherit_weights})


def _metadata(file: Path) -> dict[str, Any]:
    """What the file of a training's start says of it; empty where there is none, or it is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            data: Any = parse_json((opened.metadata() or {}).get(_SECTION, "{}"))
        return data if isinstance(data, dict) and {"identity", "record", "notes"} <= data.keys() else {}
    except (OSError, SafetensorError, ValueError):
        return {}
