"""``TrainingEvaluator``: a code is judged by training its network, as the paper does, on the user's images."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, code_cost
from bsszoo.codes.families import family_of
from bsszoo.errors import DataError, SettingsError
from bsszoo.evaluators.base import EvaluatorInfo, Score, Trial, Untracked
from bsszoo.evaluators.registry import Request
from bsszoo.evaluators.trainings import FRESH, HOLDOUT, FromScratch, Trainings
from bsszoo.options import REDUCTION, read_rungs
from bsszoo.spaces.candidate_set import CandidateSet
from bsszoo.spaces.limits import Caps
from bsszoo.train.classification.data import (
    ImageSplit,
    Split,
    Stream,
    class_names,
    open_split,
    open_splits,
    open_test,
    split_notes,
    unseen_split,
)
from bsszoo.train.classification.paper import imagenet_recipe, paper_recipe
from bsszoo.train.classification.recipe import (
    AugmentPart,
    OptimPart,
    Recipe,
    RunPart,
    SchedulePart,
    assigned,
    over_epochs,
    read_recipe,
    with_values,
)

if TYPE_CHECKING:
    from torch import nn


def training_recipe(
    family: str,
    data: str | Path | None,
    *,
    recipe: str | Path | None = None,
    dataset: str | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    subset: float | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """The recipe of a family's candidates: a file's, or the paper's, with the options' changes.

    Args:
        family: A family's name.
        data: The folder of the images.
        recipe: A YAML file; None for the paper's recipe, with as many classes as the data has.
        dataset, image_size, subset: Values of the data section.
        epochs: Epochs, in place of the recipe's; the warm-up keeps its share of them.
        assignments: ``key.key=value`` texts.

    Raises:
        RecipeError, DataError: As ``read_recipe`` and ``open_splits``.
    """
    if recipe is not None:
        made = read_recipe(recipe, assignments)
    else:
        part = imagenet_recipe(family_of(family).original_name).data  # the family's input size and crop
        part = part if dataset is None else part.replaced(dataset=dataset)
        split = open_split(part, data, training=True, num_classes=sys.maxsize)
        if isinstance(split, Stream):
            raise DataError(
                f"{part.dataset} does not say how many classes it has: give a recipe with model.num_classes."
            )
        made = assigned(paper_recipe(family, num_classes=int(split.labels.max()) + 1, data=part), assignments)
    made = _changed(made, holdout=made.data.holdout or HOLDOUT, dataset=dataset, image_size=image_size, subset=subset)
    return made if epochs is None else over_epochs(made, epochs)


def _changed(recipe: Recipe, **data: Any) -> Recipe:
    """A recipe with other values of its data section, those that are not None."""
    return with_values(recipe, data={name: value for name, value in data.items() if value is not None})


def candidates_recipe(request: Request) -> Recipe:
    """The recipe by which the candidates of a search are trained, or would be."""
    how = request.training
    return training_recipe(
        request.network.code.family,
        how.data,
        recipe=how.recipe,
        dataset=how.dataset,
        epochs=how.epochs,
        image_size=how.image_size,
        subset=how.subset,
        assignments=how.assignments,
    )


_MORE_UPDATES: Final = (
    "More --epochs, a larger --subset or a recipe with a smaller optim.batch_size give them more updates."
)
#: Of a control whose training costs as many multiply-adds as that of more codes of the budget there is none.
MOST_CONTROL: Final = 16
#: Updates that the shortest training has by which codes are judged, where ``--rungs`` does not say.
RUNG_UPDATES: Final = 1_000
#: Those trainings' shares of the epochs of a whole one.
RUNG_SHARES: Final = (1 / 9, 1 / 3)
#: Trainings of fewer updates rank deep networks below shallow ones that they are above in the end.
SHORT_UPDATES: Final = 2_000
#: How deep candidates may be then, as a multiple of the uniformly rescaled network's depth.
SHORT_DEPTH: Final = 1.25


@dataclass(frozen=True)
class ImageTrainings(Trainings):
    """Trainings of classifiers by one recipe on the images of a folder, of which some are held out.

    How they are run, and the arguments: ``Trainings``.

    Raises:
        DataError: The images cannot be used; checked here, before any training.
        RecipeError: They do not fill one batch.
    """

    leaders: ClassVar[int] = 3
    #: Percentage points.
    alike: ClassVar[float] = 0.3

    recipe: Recipe
    _updates: int = field(default=0, init=False, repr=False, compare=False)
    _held: int = field(default=0, init=False, repr=False, compare=False)
    _notes: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    _classes: tuple[str, ...] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        train, held = open_splits(self.recipe.data, self.data, num_classes=self.recipe.model.num_classes)
        object.__setattr__(self, "_updates", updates_of(self.recipe, train))
        object.__setattr__(self, "_held", len(held))
        object.__setattr__(self, "_notes", split_notes(train, held))
        object.__setattr__(self, "_classes", class_names(train))

    @property
    def caution(self) -> str | None:
        """What is to be said of the images."""
        return ". ".join(self._notes) + "." if self._notes else None

    @property
    def test_measures(self) -> str:
        """What ``tested`` measures."""
        data = self.recipe.data
        return (
            f"top-1 accuracy [%] on {self.test_split}, of "
            f"fresh trainings of {_epochs(self.recipe)} at {data.image_size} px{self.thinned}"
        )

    @property
    def test_unit(self) -> str:
        """What a difference of two results of ``tested`` is counted in."""
        return "points of test accuracy"

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs of the networks, and channels of their input."""
        return self.recipe.model.num_classes, self.recipe.model.in_chans

    measured = "top-1 accuracy [%]"

    def result_of(self, summary: Mapping[str, Any], *, test: bool) -> float:
        """The top-1 accuracy [%]."""
        return float(summary["test_top1" if test else "top1"])

    def recipe_for(self, *, test: bool) -> Recipe:
        """The recipe; with ``test`` a split that the search never sees is measured once, after the last update."""
        if not test:
            return self.recipe
        return with_values(self.recipe, data={"test_split": unseen_split(self.recipe.data, self.data)})

    def check_test(self) -> None:
        """A ``DataError`` where the split that ``tested`` measures on cannot be used."""
        self._opened_test()

    def _opened_test(self) -> Split:
        recipe = self.recipe_for(test=True)
        split = open_test(recipe.data, self.data, num_classes=recipe.model.num_classes, classes=self._classes)
        assert split is not None  # its name is set
        return split

    # -- what quantisation asks -------------------------------------------------------------------------------

    def training_name(self, code: Code, number: int) -> str:
        """The name of fresh training ``number`` of a code, which stands for its weights."""
        return self.training_folder(code, self.recipe.run.seed + FRESH + number).name

    def trained_network(self, code: Code, number: int) -> nn.Module:
        """The network of a fresh training, in evaluation mode on the CPU."""
        from bsszoo.models.create import create

        folder = self.training_folder(code, self.recipe.run.seed + FRESH + number)
        return create(f"local-dir:{folder}", pretrained=True).eval()

    def calibration_images(self, number: int) -> NDArray[np.float32]:
        """Up to so many training images as networks take them in evaluation, float32 [n, c, s, s]; always the same."""
        train, _ = open_splits(self.recipe.data, self.data, num_classes=self.recipe.model.num_classes)
        assert isinstance(train, ImageSplit)  # others have no images to hold out
        # At random, as they may be sorted by class.
        rows = np.sort(np.random.default_rng(0).permutation(len(train))[:number])
        return np.concatenate([images for images, _ in self._evaluated(replace(train, indices=train.indices[rows]))])

    def test_batches(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """The images that ``tested`` measures on, float32 [m, c, s, s], and their labels [m]."""
        return self._evaluated(self._opened_test())

    @property
    def test_split(self) -> str:
        """What these images are, as the end of a sentence."""
        data = self.recipe.data
        return f"the split {unseen_split(data, self.data)!r} of {data.dataset}, which the search never saw"

    def _evaluated(self, split: Split) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """The images of a split as networks take them in evaluation, with their labels, in batches."""
        import torch

        from bsszoo.train.classification.samples import end_readers, evaluation_batches
        from bsszoo.train.devices import Process

        batches = evaluation_batches(split, self.recipe, Process(torch.device("cpu")))
        try:
            for images, labels in batches:
                yield images.float().numpy(), labels.numpy()
        finally:
            end_readers(batches)

    def luckiest(self, deviations: float, images: int) -> float:
        """A top-1 accuracy [%] on so many images that guessing stays below, by so many standard deviations."""
        chance = 1 / self.recipe.model.num_classes
        return 100 * (chance + deviations * math.sqrt(chance * (1 - chance) / max(images, 1)))


@dataclass(frozen=True)
class TrainingEvaluator(FromScratch, ImageTrainings):
    """Judges a code by its top-1 accuracy [%] on held-out training images after a training by ``recipe``.

    With ``rungs`` by shorter ones, each by the recipe's whole schedule over fewer epochs: the result of each but the
    last is reported, after which the search may stop the code, and that of the last is the score. In full, by
    ``recipe``, leaders are trained at the end (``tested``). How the trainings are run, and the other arguments:
    ``Trainings``.

    Args:
        rungs: The epochs of the shorter trainings, rising and below the recipe's; none judges by the recipe.

    Raises:
        DataError: The images cannot be used; checked here, before any training.
        RecipeError: They do not fill one batch.
        SettingsError: ``rungs`` are no such epochs.
    """

    #: A short training, and one, tells codes apart less well than a whole one does.
    screened: ClassVar[int] = 6
    #: Trainings from scratch take long.
    undecided: ClassVar[int] = 1
    #: Of the original the search has a training, whose cost is many times a code's.
    controls: ClassVar[Literal["original", "random"]] = "random"

    rungs: tuple[int, ...] = ()
    _shorter: tuple[TrainingEvaluator, ...] = field(default=(), init=False, repr=False, compare=False)

    @classmethod
    def requested(cls, request: Request) -> TrainingEvaluator:
        """Trainings by the recipe of the request, or the paper's.

        Raises:
            SettingsError, RecipeError, DataError: The recipe or the images cannot be used.
        """
        how = request.training
        if how.ap is not None:
            raise SettingsError(
                "--ap says what a detector's search is judged by; give a detector, such as maskrcnn_resnet50."
            )
        made = cls(candidates_recipe(request), how.folder, (request.folder / "trainings").absolute(), how.repeats)
        if request.tested:
            made.check_test()
        wanted = read_rungs(how.rungs)
        # Without fresh trainings at the end nothing but the search trains in full.
        rungs = made.fitting_rungs if wanted is None and request.tested else wanted or ()
        made._set_rungs(rungs)
        return made

    @property
    def fitting_rungs(self) -> tuple[int, ...]:
        """A ninth and a third of the recipe's epochs; none where the shorter has fewer than 1,000 updates."""
        epochs = self.recipe.schedule.epochs
        rungs = tuple(math.ceil(share * epochs) for share in RUNG_SHARES)
        enough = rungs[0] * self._updates / epochs >= RUNG_UPDATES
        return rungs if enough and rungs[0] < rungs[1] < epochs else ()

    @property
    def caps(self) -> Caps:
        """Near the depth of the uniformly rescaled network where trainings are short."""
        return Caps(depth=SHORT_DEPTH) if self._short else Caps()

    @property
    def _judging(self) -> tuple[TrainingEvaluator, ...]:
        """What trains the codes of the search, rung by rung."""
        return self._shorter or (self,)

    @property
    def _short(self) -> bool:
        return self._judging[0]._updates < SHORT_UPDATES

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_rungs(self.rungs)

    def _set_rungs(self, rungs: tuple[int, ...]) -> None:
        whole = self.recipe.schedule.epochs
        if rungs and rungs[-1] >= whole:
            raise SettingsError(
                f"--rungs end with {rungs[-1]} epochs; they are shorter than a whole training, of {whole}."
            )
        object.__setattr__(self, "rungs", rungs)
        object.__setattr__(self, "_shorter", tuple(self._of_epochs(epochs) for epochs in rungs))

    def _of_epochs(self, epochs: int) -> TrainingEvaluator:
        """Shorter trainings on the same images, which are not opened again: to list millions of files takes long."""
        made = copy(self)
        updates = self._updates // self.recipe.schedule.epochs * epochs
        values = {"recipe": over_epochs(self.recipe, epochs), "rungs": (), "_shorter": (), "_updates": updates}
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made

    @property
    def fingerprint(self) -> str:
        """As that of ``Trainings``; with rungs also of these."""
        mine = super().fingerprint
        return hashlib.sha256(f"{mine} {self.rungs}".encode()).hexdigest()[:8] if self.rungs else mine

    def evaluate(self, code: Code, trial: Trial) -> Score:
        """The mean result of a code's trainings, of the last rung; of one that the search stops that of its own.

        One that was judged before, or is no candidate, is trained for the last rung at once.

        Raises:
            EvaluationError: As ``Trainings.evaluate``.
        """
        judging = self._judging
        if trial.replicate or isinstance(trial, Untracked):
            judging = judging[-1:]
        for rung, one in enumerate(judging[:-1]):
            score = Trainings.evaluate(one, code, trial)
            trial.report(score.value, rung)
            if trial.should_stop():
                return score
        return Trainings.evaluate(judging[-1], code, trial)

    @property
    def info(self) -> EvaluatorInfo:
        """What is measured, on what, after how much training."""
        last, data = self._judging[-1], self.recipe.data
        times = f", mean of {self.repeats} trainings" if self.repeats > 1 else ""
        measures = (
            f"top-1 accuracy [%] on {100 * data.holdout:g}% of the training images, held out, after "
            f"{_epochs(last.recipe)} ({last._updates:,} updates of {last.recipe.optim.batch_size:,} images) at "
            f"{data.image_size} px{self.thinned}{times}"
        )
        if self.rungs:
            shorter = " and ".join(_epochs(one.recipe) for one in self._shorter[:-1])
            first = f"codes are first judged after {shorter} each, and " if shorter else ""
            measures += f"; {first}leaders are trained for {_epochs(self.recipe)} at the end"
        return EvaluatorInfo(f"training-{self.fingerprint}", measures, self.caution)

    @property
    def caution(self) -> str | None:
        """What is to be said of the images, and of short trainings."""
        if not self._short:
            return super().caution
        short = (
            f"Trainings of {self._judging[0]._updates:,} updates are short, and such rank deep networks too low: "
            f"unless --depth-cap says otherwise, candidates are at most {SHORT_DEPTH:g} times as deep as the "
            "uniformly rescaled network."
        )
        return " ".join(filter(None, (super().caution, short)))

    def estimate(self, trials: int, finalists: int, trainings: int, code: Code) -> str:
        """By the time of some images of noise here."""
        finals = finalists * trainings + (self.screened - self.leaders if trainings else 0)
        in_full = f" for {_epochs(self.recipe)}" if self.rungs else ""
        again = f", then {finals} more of the best codes and of controls{in_full}" if finals else ""
        each, going_on = self.seconds_of(code), float(trials)
        seconds = finals * each
        for one in self._judging:
            seconds += going_on * self.repeats * each * one._updates / self._updates
            going_on = min(going_on, max(going_on / REDUCTION, self.pilots))
        times = f", {self.repeats} times each" if self.repeats > 1 else ""
        if self.rungs:
            times += " for " + ", those that go on for ".join(_epochs(one.recipe) for one in self._shorter)
        return (
            f"Estimate: {trials} codes trained{times}{again}: {about(seconds)} of updates on this machine, with one "
            "worker; reading images may take longer."
        )

    def seconds_of(self, code: Code) -> float:
        """About how long the updates of one training of a code take on this machine [s]; images are read meanwhile."""
        import torch

        from bsszoo.train.classification.outcome import start_network
        from bsszoo.train.devices import device_of

        recipe, device = self.recipe, device_of(self.device)
        part, size = recipe.model, recipe.data.image_size
        macs = code_cost(code, size, num_classes=part.num_classes, in_chans=part.in_chans).macs
        number = min(recipe.optim.batch_size, _TIMED_IMAGES, max(2, _TIMED_MACS // macs))
        network = start_network(with_values(recipe, model={"name": str(code)}), fresh=False).to(device).train()
        images = torch.rand(number, part.in_chans, size, size, device=device)
        labels = torch.zeros(number, dtype=torch.long, device=device)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            float(loss.detach())  # waits for a GPU
            times.append(time.perf_counter() - start)
        return min(times[1:]) / number * recipe.optim.batch_size * self._updates

    def compares(self, cost: Cost, candidates: CandidateSet, most_macs: int) -> bool:
        """Not where it would take a good part of the search to train it."""
        return cost.macs <= MOST_CONTROL * most_macs

    def too_short(self, controls: Sequence[float]) -> str | None:
        """That the trainings are too short to judge by, where the best of the controls is no better than guessing.

        Two standard deviations above it, over the images held out, are more than the luck of one or two networks.
        """
        if not controls or max(controls) > self.luckiest(2, self._held):
            return None
        return (
            f"The trainings are too short to judge codes by: {self._as_guessed(max(controls))}, and a search would "
            f"follow luck. {_MORE_UPDATES}"
        )

    def doubt(self, best: float) -> str | None:
        """A sentence where the best score of a search is one that untrained networks get too; else None.

        Four standard deviations above guessing are more than the luck of the best of some hundred codes.
        """
        if best > self.luckiest(4, self._held):
            return None
        return f"The codes' order is luck: {self._as_guessed(best)}. {_MORE_UPDATES}"

    def _as_guessed(self, best: float) -> str:
        return (
            f"after {self._judging[-1]._updates:,} updates each the best network has {best:.2f}%, which is what "
            f"guessing among {self.recipe.model.num_classes} classes gives"
        )

    def accuracies(self, code: Code) -> list[float]:
        """The top-1 accuracy [%] of each training of a code; trainings that are finished are only read."""
        return list(self(code).repeats)


#: Images from which on candidates are trained by the paper's recipe, which makes a hundred updates of them an epoch.
PAPER_IMAGES: Final = 100_000
#: Of fewer: updates of a training, from which its epochs follow, and the fewest and the most epochs.
TRAINED_UPDATES: Final = 10_000
TRAINED_EPOCHS: Final = (10, 100)
#: Images of a batch, where there are enough of them.
BATCH: Final = 64
# Images of an update whose time is taken: at most so many, and about so many multiply-adds, a second of a core or so.
_TIMED_IMAGES: Final = 64
_TIMED_MACS: Final = 2_000_000_000


def fitting_recipe(family: str, data: str | Path | None, dataset: str | None, *, flips: bool = True) -> Recipe:
    """How networks of a family are trained from scratch on images, however few they are.

    From 100,000 on by the paper's recipe. Fewer by SGD with Nesterov's momentum (of ConvNeXts and ViTs AdamW) in
    batches of 64, a rate that rises to 0.05 (0.002, 0.001) in a twentieth of the epochs and falls to 0 along a cosine,
    epochs for about 10,000 updates (10 to 100), random crops of slightly larger images.

    Args:
        family: A family's name.
        data: The folder of the images.
        dataset: How it is read; None for a folder.
        flips: Whether images are mirrored.

    Raises:
        RecipeError, DataError: As ``training_recipe``.
    """
    paper = training_recipe(family, data, dataset=dataset)
    part, how = paper.model, family_of(family).training
    images = len(open_splits(paper.data, data, num_classes=part.num_classes)[0])
    if images >= PAPER_IMAGES:
        return paper
    batch = min(BATCH, max(2, images // 8 // 2 * 2))
    least, most = TRAINED_EPOCHS
    epochs = min(max(least, math.ceil(TRAINED_UPDATES / max(1, images // batch))), most)
    return Recipe(
        model=part,
        optim=OptimPart(
            lr=how.short_lr * batch / BATCH,
            name=how.short,
            batch_size=batch,
            weight_decay=paper.optim.weight_decay if how.short == paper.optim.name else how.decay,
        ),
        schedule=SchedulePart(epochs=epochs, warmup_epochs=epochs / 20),
        data=paper.data,
        augment=AugmentPart(crop_mode="rkrc", hflip=0.5 if flips else 0.0),
        run=RunPart(device_batch=batch, workers=1),
    )


@dataclass(frozen=True)
class CandidateTrainings(TrainingEvaluator):
    """Trains the candidates of a search that trained nothing, beside the network and its uniformly rescaled one.

    How, and the arguments: ``Trainings``.
    """

    #: All of a closing table.
    leaders: ClassVar[int] = sys.maxsize
    screened: ClassVar[int] = sys.maxsize
    controls: ClassVar[Literal["original", "random"]] = "original"

    @classmethod
    def requested(cls, request: Request, *, flips: bool = True) -> CandidateTrainings:
        """Trainings by the recipe of the request, or one that fits the number of images.

        Args:
            request: The network, the images, and where trainings go.
            flips: Whether images are mirrored, where the request has no recipe.

        Raises:
            SettingsError, RecipeError, DataError: The recipe or the images cannot be used.
        """
        how = request.training
        if how.recipe is None:
            code = request.network.code
            fitting = fitting_recipe(code.family, how.folder, how.dataset, flips=flips)
            size = code.image_size if how.image_size is None else how.image_size
            recipe = assigned(_changed(fitting, image_size=size, subset=how.subset), how.assignments)
            recipe = recipe if how.epochs is None else over_epochs(recipe, how.epochs)
        else:
            recipe = candidates_recipe(request)
        made = cls(recipe, how.folder, (request.folder / "trainings").absolute(), how.repeats)
        made.check_test()
        return made

    @property
    def fingerprint(self) -> str:
        """A fingerprint (SHA-256) of the recipe and of where the images are: no setting of the search."""
        where = "" if self.data is None else str(Path(self.data).absolute())
        return hashlib.sha256(f"{super().fingerprint} {where}".encode()).hexdigest()[:8]

    def tested(self, code: Code, number: int) -> tuple[float, float]:
        """As ``Trainings.tested``; of the training its weights, figures and log stay."""
        results = super().tested(code, number)
        self.keep_weights_only(code, number)
        return results


def updates_of(recipe: Recipe, train: Split) -> int:
    """The updates of a whole training in one process.

    Raises:
        RecipeError: The images do not fill one batch.
    """
    from bsszoo.train.classification.samples import divide

    return divide(recipe, len(train), 1).updates * recipe.schedule.epochs


def _epochs(recipe: Recipe) -> str:
    number = recipe.schedule.epochs
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def about(seconds: float) -> str:
    """A length of time, roughly.

    Example:
        >>> [about(seconds) for seconds in (20, 600, 9000, 400_000)]
        ['about a minute or less', 'about 10 minutes', 'about 2.5 hours', 'about 4.6 days']
    """
    if seconds < 90:
        return "about a minute or less"
    if seconds < 2 * 3600:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"about {seconds / 86400:.1f} days"
