"""``InheritedEvaluator``: a subnetwork is judged by the weights that it inherits from a trained network.

    code --inherit_weights, each layer fitted to the trained network's--> subnetwork: rung 0
         --fine_tune those among the best there, a short annealed schedule, taught by the trained network--> score

A score is how near the outputs come to the trained network's on held-out images: minus the Kullback-Leibler
divergence. Among codes that end within a few tenths of a point it ranks them where accuracy, which counts a few images,
does not. The trainings at the end of a search start from inherited weights too, and are the recipe's, in full.
"""

from __future__ import annotations

import copy
import hashlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.code import Code
from bsszoo.codes.cost import code_cost
from bsszoo.codes.families import family_of
from bsszoo.codes.families.base import SHORT_LR
from bsszoo.errors import SettingsError, WeightsError
from bsszoo.evaluators.base import EvaluatorInfo, Score, Trial, tell
from bsszoo.evaluators.registry import Request
from bsszoo.evaluators.training import ImageTrainings, about
from bsszoo.evaluators.trainings import FRESH, HOLDOUT
from bsszoo.files import whole_file
from bsszoo.models.names import LOCAL
from bsszoo.models.resolve import Network
from bsszoo.models.weights import sha256_of
from bsszoo.options import REDUCTION
from bsszoo.spaces.space import DIVISOR, Space
from bsszoo.train.checkpoint import LAST, RECIPE, SUMMARY, WEIGHTS
from bsszoo.train.classification.data import ImageSplit, Split, Stream, class_names, open_split, open_splits, open_test
from bsszoo.train.classification.recipe import (
    AugmentPart,
    DataPart,
    ModelPart,
    OptimPart,
    Recipe,
    RunPart,
    SchedulePart,
    assigned,
    read_recipe,
    with_values,
)

if TYPE_CHECKING:
    from bsszoo.train.classification.evaluation import Accuracy
    from bsszoo.train.classification.in_memory import Images

#: Values of a recipe, beside those of the optimiser, that fine-tunings of images in memory go by.
IN_MEMORY: Final = frozenset({"schedule.epochs", "augment.hflip", "run.seed"})
_NEARNESS: Final = "minus the divergence from the trained network's outputs [nats]"
#: Most updates of the fine-tuning by which a code is judged.
JUDGED_UPDATES: Final = 300
#: A fine-tuning in full of fewer multiply-adds than this, some minutes of a core, needs no process and checkpoints.
LONG: Final = 5e12
#: All of them together, some tens of seconds of a core, from which on they are worth several processes; the most of
#: those.
FEW: Final = 1e11
MOST_PROCESSES: Final = 8
#: Multiply-adds of an update that are worth a thread: fewer take as long on two, and far longer beside another process.
THREAD: Final = 5e8
#: Updates of the fine-tuning in full, from which its epochs follow; and the fewest and the most epochs.
TUNED_UPDATES: Final = 2500
TUNED_EPOCHS: Final = (3, 30)
# Networks of smaller images than this [px] see whole ones, unless their configuration says otherwise.
_CROPPED: Final = 96
# Images that another runtime than PyTorch is given at once.
_TEST_BATCH: Final = 64
# Updates by which the time of one is estimated.
_TIMED_UPDATES: Final = 8
#: Images of a batch, where there are enough of them.
BATCH: Final = 64
#: Peak rates for such a batch: of a fine-tuning of few updates, which would lose more by a higher one than it gains,
#: and of one of so many updates or more.
RATE: Final = 0.01
LONG_RATE: Final = 0.02
LONG_UPDATES: Final = 1000
#: The share of the trained network's outputs in the loss of a fine-tuning, and their temperature.
TEACHER_SHARE: Final = 0.7
TEMPERATURE: Final = 2.0


def fine_tuning_recipe(
    network: Network, data: DataPart, images: int, num_classes: int, epochs: int | None = None
) -> Recipe:
    """How a trained network's subnetworks are fine-tuned: rates for inherited weights, and as many epochs as pay.

    SGD with Nesterov's momentum, batches of 64, a rate of 0.02 (0.01 of fewer than 1,000 updates; of ConvNeXts AdamW,
    and a 25th of these, of ViTs a 50th) falling to 0 along a cosine, epochs for about 2,500 updates (3 to 30), random
    crops of slightly larger images, and mirrored ones unless the network's own training had none, whose recipe
    is beside its weights.

    Args:
        network: The trained network.
        data: The data section.
        images: Number of training images.
        num_classes: Outputs.
        epochs: In place of those.
    """
    batch = min(BATCH, max(2, images // 8 // 2 * 2))
    updates = max(1, images // batch)
    if epochs is None:
        epochs = min(max(TUNED_EPOCHS[0], math.ceil(TUNED_UPDATES / updates)), TUNED_EPOCHS[1])
    trained = family_of(network.code.family).training
    rate = (LONG_RATE if epochs * updates >= LONG_UPDATES else RATE) * (trained.short_lr / SHORT_LR)
    return Recipe(
        model=ModelPart(name=str(network.code), num_classes=num_classes, in_chans=network.in_chans),
        optim=OptimPart(lr=rate * batch / BATCH, name=trained.short, batch_size=batch, weight_decay=trained.decay),
        schedule=SchedulePart(epochs=epochs),
        data=data,
        augment=AugmentPart(crop_mode="rkrc", hflip=_flips(network)),
        run=RunPart(device_batch=batch, workers=1),
    )


def _flips(network: Network) -> float:
    """The share of images that are mirrored: as in the network's own training, where its recipe is beside it."""
    file = Path((network.source or "").removeprefix(LOCAL)).expanduser() / RECIPE
    return read_recipe(file).augment.hflip if file.is_file() else 0.5


def data_part(network: Network, request: Request) -> DataPart:
    """The data section of a network's own input: size, crop, mean and deviation as its weights' configuration says."""
    how, config = request.training, network.config
    given: dict[str, Any] = {"image_size": network.code.image_size if how.image_size is None else how.image_size}
    given |= {key: config[key] for key in ("mean", "std", "interpolation") if config.get(key)}
    if config.get("crop_pct"):
        given["crop_pct"] = min(1.0, float(config["crop_pct"]))
    elif given["image_size"] < _CROPPED:
        given["crop_pct"] = 1.0
    given |= {key: value for key, value in (("dataset", how.dataset), ("subset", how.subset)) if value is not None}
    return DataPart(**given, holdout=HOLDOUT)


@dataclass(frozen=True)
class InheritedEvaluator(ImageTrainings):
    """Judges a subnetwork by how near it comes to the trained network after a short fine-tuning of inherited weights.

    Args:
        recipe: The fine-tuning in full; the judge's is its optimiser (``judging``) and augmentation over ``epochs``.
        data, folder, repeats, device: As ``Trainings``.
        weights: The trained network's, as ``bsszoo.create`` takes them.
        original: Its code.
        in_memory: Whether the images in memory do for fine-tunings in full: the recipe has nothing that they lack.
        order: The network's outputs in the order of the data's classes.
        checksum: SHA-256 of the weights where they are a file: another file in its place is another run.
        epochs: Of the fine-tuning that judges; at most those of 300 updates, and half of those in full.
        divisor, grow: As ``Space.subnetworks``.
    """

    screened: ClassVar[int] = 3
    undecided: ClassVar[int] = 2
    controls: ClassVar[Literal["original", "random"]] = "original"
    # Two in three cost a fit of their layers only.
    trials: ClassVar[int] = 160

    weights: str = ""
    original: Code | None = None
    in_memory: bool = False
    order: tuple[int, ...] = ()
    checksum: str = ""
    epochs: float = math.inf
    divisor: int = DIVISOR
    grow: float = 1.0

    @classmethod
    def requested(cls, request: Request) -> InheritedEvaluator:
        """The evaluator of a network with weights, on the images of the request.

        Raises:
            SettingsError: The network has no weights, or its classes are not those of the images.
            RecipeError, DataError: The recipe or the images cannot be used.
        """
        network, how = request.network, request.training
        if network.detector is not None:
            raise SettingsError(
                "Subnetworks of detectors are not searched by inherited weights; leave --evaluator out."
            )
        if network.source is None:
            raise SettingsError(
                f"{network.recognised} comes without weights, by which --evaluator inherited judges subnetworks. Give "
                "its weights file, its training's folder, hf-hub:ORG/NAME, or a name with a tag."
            )
        part = data_part(network, request)
        split = open_split(part, how.folder, training=True, num_classes=sys.maxsize)
        if isinstance(split, Stream):
            raise SettingsError(
                f"--dataset {part.dataset} is read in a fixed order; subnetworks are judged on a folder."
            )
        order = _order(network, split)
        keys = {assignment.partition("=")[0].strip() for assignment in how.assignments}
        if how.recipe is None:
            train, _ = open_splits(part, how.folder, num_classes=len(order))
            recipe = fine_tuning_recipe(network, part, len(train), len(order), how.epochs)
            recipe = assigned(recipe, how.assignments)
        else:
            recipe = with_values(
                read_recipe(how.recipe, how.assignments),
                model={"num_classes": len(order), "in_chans": network.in_chans},
            )
            recipe = with_values(recipe, data={"holdout": recipe.data.holdout or HOLDOUT})
            if how.epochs is not None:
                recipe = with_values(recipe, schedule={"epochs": how.epochs})
        made = cls(
            recipe,
            how.folder,
            (request.folder / "trainings").absolute(),
            how.repeats,
            weights=network.source,
            original=replace(network.code, image_size=recipe.data.image_size),
            in_memory=how.recipe is None and all(key.startswith("optim.") or key in IN_MEMORY for key in keys),
            order=order,
            checksum=checksum_of(network.source),
            divisor=request.divisor,
            grow=request.grow,
        )
        if request.tested:
            made.check_test()
        return made

    def __post_init__(self) -> None:
        super().__post_init__()
        updates = self._updates / self.recipe.schedule.epochs
        # A judge's schedule is whole, and shorter than that in full.
        most = self.recipe.schedule.epochs / 2
        object.__setattr__(self, "epochs", min(self.epochs, JUDGED_UPDATES / updates, most))

    @property
    def writes(self) -> tuple[Path, ...]:
        """The folders of the trainings, and of what all trials share."""
        return *super().writes, self.folder.parent / "inherited"

    @property
    def reads(self) -> tuple[Path, ...]:
        """The images, and the trained network."""
        return *super().reads, *weights_files(self.weights)

    @property
    def judging(self) -> Recipe:
        """The recipe of the fine-tuning that judges: the one in full, at the rate of few updates."""
        optim = self.recipe.optim
        if not self.in_memory:  # a user's
            return self.recipe
        return with_values(self.recipe, optim={"lr": min(optim.lr, RATE * optim.batch_size / BATCH)})

    # -- what a search asks -----------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """A fingerprint (SHA-256) of the recipe, of the network and its weights, and of how codes are judged."""
        weights = self.checksum or self.weights
        words = (
            f"{super().fingerprint} {self.original} {weights} {self.order} {self.epochs:g} {self.divisor} {self.grow:g}"
        )
        return hashlib.sha256(words.encode()).hexdigest()[:8]

    @property
    def info(self) -> EvaluatorInfo:
        """What is measured, on what, after how much training."""
        data = self.recipe.data
        updates = round(self._updates * self.epochs / self.recipe.schedule.epochs)
        return EvaluatorInfo(
            f"inherited-{self.fingerprint}",
            "minus the divergence (Kullback-Leibler) [nats] of a subnetwork's outputs from the trained network's, on "
            f"{100 * data.holdout:g}% of the training images, held out, with inherited weights after {updates:,} "
            f"updates of {self.recipe.optim.batch_size:,} images at {data.image_size} px{self.thinned}",
            self.caution,
        )

    def searched(self, network: Network) -> Network:
        """The network at the input size of its images."""
        assert self.original is not None
        return replace(network, code=self.original)

    def space(self, network: Network) -> Space:
        """The subnetworks of the network, at its own input size, classes and channels."""
        part = self.recipe.model
        return Space.subnetworks(
            network.code, divisor=self.divisor, grow=self.grow, num_classes=part.num_classes, in_chans=part.in_chans
        )

    def prepare(self, note: Callable[[str], None]) -> None:
        """Write what all trials share, and measure the network as it is.

        Raises:
            SettingsError: It is no better than guessing on the held-out images.
        """
        from scipy.stats import binomtest  # takes a second to import, in each process

        shared = self.shared(note)
        if shared.accuracy.top1 <= self.luckiest(4, shared.accuracy.images):
            raise SettingsError(
                f"The network is right for {shared.accuracy.top1:.2f}% of {shared.accuracy.images:,} held-out images, "
                f"which is what guessing among {self.recipe.model.num_classes} classes gives: its weights do not fit "
                f"these images. Are its classes in the order of the folders' names, and its images {self._seen}? "
                "Others are set by --image-size, and by --set data.crop_pct=.., data.mean=[..] and data.std=[..]."
            )
        note(f"Images: {self._seen}; in fine-tunings {'' if self.recipe.augment.hflip else 'not '}mirrored at random.")
        right = round(shared.accuracy.top1 / 100 * shared.accuracy.images)
        interval = binomtest(right, shared.accuracy.images).proportion_ci(method="wilson")
        note(
            f"The network as it is: {shared.accuracy.top1:.2f}% of {shared.accuracy.images:,} held-out images (95%: "
            f"{100 * interval.low:.1f} to {100 * interval.high:.1f})."
        )

    @property
    def _seen(self) -> str:
        """What networks see of an image in evaluation, in words."""
        data = self.recipe.data
        means, deviations = ([float(f"{value:.4g}") for value in values] for values in (data.mean, data.std))
        return (
            f"of {data.image_size} px, the inner {100 * data.crop_pct:g}% of each side, with mean {means} and "
            f"deviation {deviations}"
        )

    def estimate(self, trials: int, finalists: int, trainings: int, code: Code) -> str:
        """By the time of one fit and of some updates here."""
        import torch

        shared, updates = self.shared(), self._updates / self.recipe.schedule.epochs
        start = time.perf_counter()
        network = shared.subnetwork(code)
        fitted = time.perf_counter() - start
        some = min(_TIMED_UPDATES, round(updates * self.epochs))

        def seconds_each(threads: int) -> float:
            """Of one update."""
            start = time.perf_counter()
            shared.fine_tune(network, self.judging, epochs=some / updates, seed=0, threads=threads)
            return (time.perf_counter() - start) / max(1, some)

        number, threads = finalists * trainings, self._threads(code)
        processes = max(1, self.processes([code] * number, 1))
        share = min(threads, max(1, torch.get_num_threads() // processes))
        each = {n: seconds_each(n) for n in dict.fromkeys((threads, share))}
        judged = self.repeats * self.epochs * updates * each[threads]
        full = self._updates * each[share] * math.ceil(number / processes) / max(1, number)
        return estimated(trials, finalists, trainings, fitted, judged, full)

    # -- judging ----------------------------------------------------------------------------------------------

    def evaluate(self, code: Code, trial: Trial) -> Score:
        """How near a code comes to the trained network [nats]; 0 of that itself, which is not fine-tuned.

        Rung 0 is how near it comes before it is fine-tuned.
        """
        shared = self.shared()
        if code == self.original:
            return Score(0.0, _NEARNESS)
        start = shared.subnetwork(code)
        nearness = shared.nearness(start)
        trial.report(nearness, 0)
        if trial.should_stop():
            return Score(nearness, _NEARNESS)
        results = []
        for repeat in range(self.repeats):
            network = copy.deepcopy(start) if self.repeats > 1 else start
            seed = self.recipe.run.seed + repeat
            shared.fine_tune(
                network, self.judging, epochs=self.epochs, seed=seed, threads=self._threads(code), on_update=tell
            )
            results.append(shared.nearness(network))
        return Score(sum(results) / len(results), _NEARNESS, tuple(results))

    def recipe_for(self, *, test: bool) -> Recipe:
        """As ``ImageTrainings.recipe_for``, taught by the trained network."""
        return with_values(super().recipe_for(test=test), loss=self.taught)

    def trained(self, code: Code, seed: int, *, test: bool = False) -> dict[str, Any]:
        """As ``Trainings.trained``: short ones in this process, of images in memory.

        A process of its own takes seconds to begin, and reads every image in every epoch; it is worth that where a
        training is long enough for checkpoints, or several run at a time.
        """
        out = self.training_folder(code, seed)
        alone = threading.current_thread() is threading.main_thread()
        begun = any((out / file).is_file() for file in (SUMMARY, LAST))
        if self.in_memory and test and alone and self._updates * self._work(code) < LONG and not begun:
            self._train_here(code, seed, out)
        return super().trained(code, seed, test=test)

    def _work(self, code: Code) -> float:
        """Multiply-adds of an update of a code's network, about: a backward pass takes two forward ones."""
        part = self.recipe.model
        macs = code_cost(code, num_classes=part.num_classes, in_chans=part.in_chans).macs
        return 3.0 * self.recipe.optim.batch_size * macs

    def _threads(self, code: Code) -> int:
        """Threads that an update is worth."""
        return max(1, round(self._work(code) / THREAD))

    def processes(self, codes: Sequence[Code], workers: int) -> int:
        """As many as PyTorch has threads (at most 8), where fine-tunings are short, and in all worth the processes.

        On a GPU they take turns in this one, unless workers were asked for; on several each takes one (``Trainings``).
        """
        import torch

        from bsszoo.train.devices import device_of

        work = [0.0 if code == self.original else self._updates * self._work(code) for code in codes]
        if not self.in_memory or max(work, default=LONG) >= LONG or type(self).__module__ == "__main__":
            return 0
        if self.device is None and torch.cuda.device_count() > 1:
            return 0
        if workers == 1:
            many = sum(work) > FEW and device_of(self.device).type == "cpu"
            workers = min(torch.get_num_threads(), MOST_PROCESSES) if many else 1
        number = min(workers, len(codes))
        return number if number > 1 else 0

    def open_test(self) -> None:
        """Decode the split that the search never sees."""
        self.shared().open_test()

    def _train_here(self, code: Code, seed: int, out: Path) -> None:
        """Fine-tune a code's network in full and write what a training leaves."""
        from bsszoo.train.checkpoint import EpochRow, Folder
        from bsszoo.train.classification.in_memory import accuracy, outputs
        from bsszoo.train.classification.outcome import conclude
        from bsszoo.train.devices import Process

        shared = self.shared()
        self._write_original()
        model = {"name": str(code), "inherit": str(self.original), "inherit_weights": str(self.original_file)}
        recipe = with_values(self.recipe_for(test=True), model=model, run={"seed": seed})
        start, network, epochs = time.perf_counter(), shared.subnetwork(code), recipe.schedule.epochs
        loss = shared.fine_tune(network, recipe, epochs=epochs, seed=seed, threads=self._threads(code), on_update=tell)
        seconds = time.perf_counter() - start
        held = accuracy(outputs(network, shared.held, shared.normalise), shared.held.labels)
        tested = shared.measured(network)
        row = EpochRow(
            epochs,
            self._updates,
            0.0,
            loss,
            held.loss,
            held.top1,
            held.top5,
            epochs * len(shared.train) / seconds,
            time.perf_counter() - start,
        )
        folder = Folder(out)
        with folder.locked(recipe):
            conclude(
                recipe, network.cpu(), folder, [row], shared.splits, Process(shared.device), tested, test=shared.test
            )

    @property
    def original_file(self) -> Path:
        """The trained network's weights in the run's folder, its outputs in the order of the data's classes."""
        return self.folder.parent / "inherited" / f"original_{self.fingerprint}.safetensors"

    @property
    def taught(self) -> dict[str, Any]:
        """The loss section of a fine-tuning that the trained network teaches."""
        return {
            "teacher": str(self.original),
            "teacher_weights": str(self.original_file),
            "teacher_share": TEACHER_SHARE,
            "temperature": TEMPERATURE,
        }

    def model_part(self, code: Code, out: Path) -> dict[str, Any]:
        """A code's network and the file of the weights that its training in full starts from, written beside it."""
        file = out.with_suffix(".start.safetensors")
        if not file.is_file():
            self._write_original()
            _save(self.shared().subnetwork(code), file)
        return {"name": str(code), "pretrained": str(file)}

    def _write_original(self) -> None:
        """Write the trained network where there is no copy of it: it is the teacher, and what recipes inherit from."""
        if not self.original_file.is_file():
            _save(self.shared().network, self.original_file)

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures."""
        text = super().test_measures
        return f"{text}, from inherited weights; of the network itself as it is"

    def tested(self, code: Code, number: int) -> tuple[float, float]:
        """As ``Trainings.tested``, of fine-tunings from inherited weights; the network itself is measured as it is."""
        if code == self.original:
            shared = self.shared()
            return shared.measured(shared.network).top1, shared.accuracy.top1
        results = super().tested(code, number)
        self.keep_weights_only(code, number)
        out = self.training_folder(code, self.recipe.run.seed + FRESH + number)
        out.with_suffix(".start.safetensors").unlink(missing_ok=True)
        return results

    def training_name(self, code: Code, number: int) -> str:
        """As ``ImageTrainings.training_name``; the network itself is the one that was trained before."""
        return self.original_file.stem if code == self.original else super().training_name(code, number)

    def trained_network(self, code: Code, number: int) -> Any:
        """As ``ImageTrainings.trained_network``; the network itself as it is."""
        if code != self.original:
            return super().trained_network(code, number)
        return copy.deepcopy(self.shared().network).cpu().eval()

    def calibration_images(self, number: int) -> NDArray[np.float32]:
        """As ``ImageTrainings.calibration_images``, of the images in memory, as the network itself is."""
        shared = self.shared()
        return shared.inputs(shared.train, np.sort(shared.train.some(number)))

    def test_batches(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """As ``ImageTrainings.test_batches``, of the images in memory, as the network itself is."""
        return self.shared().test_batches()

    def shared(self, note: Callable[[str], None] = lambda _: None) -> Shared:
        """What all trials share, made once in each process; ``note`` is called with what takes long."""
        return _shared_of(self, note)


class Shared:
    """What all trials share: the trained network, the images in memory, and how the network does as it is."""

    def __init__(self, judge: InheritedEvaluator, note: Callable[[str], None]) -> None:
        from bsszoo.train.classification.in_memory import Normaliser, accuracy, outputs
        from bsszoo.train.devices import device_of
        from bsszoo.train.optim import Objective

        assert judge.original is not None
        recipe, self.folder = judge.recipe, judge.folder.parent / "inherited"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.code, self.recipe = judge.original, recipe
        self.device = device_of(judge.device)
        self.splits = open_splits(recipe.data, judge.data, num_classes=recipe.model.num_classes)
        # The test split is opened, and decoded, when the first network is measured on it.
        self._open_test = partial(
            open_test,
            judge.recipe_for(test=True).data,
            judge.data,
            num_classes=recipe.model.num_classes,
            splits=self.splits,
        )
        self.train, self.held = (
            self._images(name, split, note) for name, split in zip(("train", "held"), self.splits, strict=True)
        )
        self.normalise = Normaliser(recipe, self.device)
        self.network = _in_order(judge).to(self.device).eval()
        self.objective = Objective(with_values(recipe, loss=judge.taught), self.network)
        self._reference: Any = None
        theirs = outputs(self.network, self.held, self.normalise)
        self._wanted = theirs.log_softmax(1)
        self.accuracy = accuracy(theirs, self.held.labels)

    def nearness(self, network: Any) -> float:
        """Minus the mean divergence of a network's outputs from the trained network's on held-out images [nats]."""
        import torch

        from bsszoo.train.classification.in_memory import outputs

        log_p = outputs(network, self.held, self.normalise).log_softmax(1)
        return -float(torch.nn.functional.kl_div(log_p, self._wanted, reduction="batchmean", log_target=True))

    def _images(self, name: str, split: Split | None, note: Callable[[str], None] = lambda _: None) -> Images:
        """A split's images, decoded once in a run's folder."""
        from bsszoo.train.classification.in_memory import decode

        assert isinstance(split, ImageSplit)
        file = self.folder / f"{name}_{_fingerprint(split, self.recipe)}.npy"
        if not file.is_file():
            note(f"Decoding {len(split):,} images ...")
        return decode(split, self.recipe, file)

    @cached_property
    def test(self) -> Split | None:
        """The split that the search never sees."""
        return self._open_test()

    @cached_property
    def _test_images(self) -> Images:
        return self._images("test", self.test)

    def open_test(self) -> None:
        """Decode the split that the search never sees."""
        self._test_images  # noqa: B018

    def fine_tune(
        self,
        network: Any,
        recipe: Recipe,
        *,
        epochs: float,
        seed: int,
        threads: int,
        on_update: Callable[[int, int], None] = lambda *_: None,
    ) -> float:
        """Train a network in place on the training images, with at most so many threads; the last update's loss."""
        from bsszoo.train.classification.in_memory import at_most_threads, fine_tune

        with at_most_threads(threads):
            return fine_tune(
                network,
                self.train,
                recipe,
                self.normalise,
                epochs=epochs,
                seed=seed,
                objective=self.objective,
                on_update=on_update,
            )

    def measured(self, network: Any) -> Accuracy:
        """The accuracy of a network on the split that the search never sees."""
        from bsszoo.train.classification.in_memory import accuracy, outputs

        return accuracy(outputs(network, self._test_images, self.normalise), self._test_images.labels)

    def inputs(self, images: Images, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some images as networks take them in evaluation, float32 [m, c, s, s]."""
        inputs: NDArray[np.float32] = self.normalise(images.centres(rows)).cpu().numpy()
        return inputs

    def test_batches(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """The split that the search never sees, as networks take it, with its labels, in batches."""
        images = self._test_images
        for rows in np.split(np.arange(len(images)), range(_TEST_BATCH, len(images), _TEST_BATCH)):
            yield self.inputs(images, rows), images.labels.numpy()[rows]

    def subnetwork(self, code: Code) -> Any:
        """A code's network with inherited weights and recomputed batch normalisation."""
        from bsszoo.models.inherit import subnetwork
        from bsszoo.train.classification.in_memory import norm_batches
        from bsszoo.train.classification.trained import NORM_IMAGES, reference
        from bsszoo.train.seeds import seed_generators

        seed_generators(self.device, self.recipe.run.seed)
        if self._reference is None:
            self._reference = reference(self.network, self.code, self.train, self.normalise)
        batches = norm_batches(self.train, self.normalise, number=NORM_IMAGES)
        return subnetwork(code, self.network, self.code, self._reference, batches)


#: The shared part of the evaluator that this process used last, by its key.
_LAST: dict[str, Shared] = {}


def _shared_of(judge: InheritedEvaluator, note: Callable[[str], None]) -> Shared:
    """Made once in each process: workers receive the evaluator alone, and read the rest from the run's folder."""
    key = f"{judge.folder} {judge.fingerprint}"
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = Shared(judge, note)
    return _LAST[key]


def _save(network: Any, file: Path) -> None:
    """Write a network's weights to a file, whole."""
    from safetensors.torch import save_file

    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with whole_file(file) as scratch:
        save_file(state, scratch, metadata={"format": "pt"})


def _in_order(judge: InheritedEvaluator) -> Any:
    """The trained network, its outputs in the order of the data's classes."""
    from bsszoo.models.create import create
    from bsszoo.train.classification.trained import set_order

    assert judge.original is not None
    part = judge.recipe.model
    network: Any = create(judge.original, pretrained=judge.weights)
    if network.num_classes != part.num_classes or network.in_chans != part.in_chans:
        raise WeightsError(
            f"The weights of {judge.weights} have {network.num_classes} classes and {network.in_chans} input channels, "
            f"where {part.num_classes} and {part.in_chans} were found before: did the file change?"
        )
    set_order(network, judge.order)
    return network


def estimated(
    trials: int, finalists: int, trainings: int, fitted: float, judged: float, full: float, *, rungs: bool = True
) -> str:
    """How long a search by inherited weights takes, as a sentence.

    Args:
        trials, finalists, trainings: As ``Evaluator.estimate``.
        fitted, judged, full: Seconds of a fit, of a fine-tuning that judges, and of one in full.
        rungs: Whether only some of the codes are fine-tuned.
    """
    tuned = math.ceil(trials / REDUCTION) if rungs else trials
    span = about(trials * fitted + tuned * judged + finalists * trainings * full)
    some = f"about {tuned} of them" if rungs else "all"
    times = "once" if trainings == 1 else f"{trainings} times"
    finals = f", then {finalists} networks in full, {times} each" if trainings else ""
    return f"Estimate: {trials} codes, {some} fine-tuned{finals}: {span} on this machine, with one worker."


def _order(network: Network, split: ImageSplit) -> tuple[int, ...]:
    """Which of the network's outputs stands for each class of the data.

    Raises:
        SettingsError: Its classes are others.
    """
    from bsszoo.train.classification.trained import output_order

    folders, names = class_names(split), network.label_names
    number = int(split.labels.max()) + 1 if folders is None else len(folders)
    if number != network.num_classes:
        raise SettingsError(
            f"{network.recognised} has {network.num_classes} outputs, and the images are of {number} classes. "
            "Fine-tune it on them first (`bsszoo train` with model.pretrained), or give the images of its training."
        )
    return output_order(names, folders, number, network.recognised)


def checksum_of(source: str) -> str:
    """SHA-256 of a weights file, or of that in a folder; empty for what is not on this machine."""
    return "".join(sha256_of(file) for file in weights_files(source))


def weights_files(source: str) -> tuple[Path, ...]:
    """The file of weights that are given as a file or a folder; empty for what is not on this machine."""
    path = Path(source.removeprefix(LOCAL)).expanduser()
    file = path / WEIGHTS if path.is_dir() else path
    return (file.absolute(),) if file.is_file() else ()


def _fingerprint(split: ImageSplit, recipe: Recipe) -> str:
    """A fingerprint (SHA-256) of a split's images, and of how they are decoded."""
    data: Mapping[str, Any] = recipe.data.model_dump()
    how = [data[key] for key in ("dataset", "image_size", "crop_pct", "interpolation", "holdout", "subset")]
    words = split.labels.tobytes() + split.indices.tobytes() + repr([*how, recipe.model.in_chans]).encode()
    return hashlib.sha256(words).hexdigest()[:12]
