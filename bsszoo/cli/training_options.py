"""The options of ``bsszoo compress`` that say how codes are trained, as what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bsszoo.codes.detector import Detector, DetectorHead
    from bsszoo.compression.finish import Finish
    from bsszoo.evaluators.detection import DetectionEvaluator
    from bsszoo.evaluators.training import TrainingEvaluator
    from bsszoo.train.classification.recipe import Recipe


def refuse_dataset(dataset: str | None) -> None:
    """A ``SettingsError`` where --dataset was given for a detector."""
    from bsszoo.errors import SettingsError

    if dataset is not None:
        raise SettingsError("--dataset is for classifiers; a detector's pictures are in COCO's format.")


@dataclass
class Training:
    """``--data`` and what goes with it."""

    data: str | None
    recipe: Path | None
    dataset: str | None
    epochs: int | None
    image_size: int | None
    subset: float | None
    repeats: int
    confirm: int
    ap: str | None = None
    #: Read once: the folder of a large data set takes a while to list.
    _read: Recipe | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        from bsszoo.errors import SettingsError

        if not self.given and (
            self.recipe is not None or self.epochs or self.image_size or self.subset or self.ap or self.repeats != 1
        ):
            raise SettingsError(
                "--recipe, --epochs, --image-size, --subset, --ap and --repeats say how codes are "
                "trained: give the pictures with --data."
            )

    @property
    def given(self) -> bool:
        """Whether there are pictures to train on."""
        return self.data is not None or self.dataset is not None

    def judge(
        self, network: str, out: Path | None, evaluator: str | None
    ) -> str | TrainingEvaluator | DetectionEvaluator:
        """What judges codes: what --evaluator names, or a training where there are pictures.

        Raises:
            SettingsError: Both a function and a training would judge.
            RecipeError, DataError: The recipe or the pictures cannot be used.
        """
        from bsszoo.errors import SettingsError

        if not self.given or evaluator == "structural":
            return evaluator or "structural"
        if evaluator is not None:
            raise SettingsError(
                "--data trains the codes and --evaluator judges them otherwise: give one of the two, "
                "or --evaluator structural to train only the best code, with --finish."
            )
        folder = Path("bsszoo-runs") if out is None else out
        if (head := self._head(network)) is not None:
            return self._judge_detectors(network, head, folder)
        if self.ap is not None:
            raise SettingsError(
                "--ap says what a detector's search is judged by; give a detector, such as maskrcnn_resnet50."
            )
        from bsszoo.evaluators.training import TrainingEvaluator

        judge = TrainingEvaluator(self._candidates(network), self.data, (folder / "trainings").absolute(), self.repeats)
        if self.confirm > 0:
            judge.check_test()
        return judge

    def searched(self, network: str, judge: object) -> str | Detector:
        """What is searched: a detector that is trained is counted with the classes of its pictures."""
        from dataclasses import replace

        from bsszoo.models.detectors import find_detector

        detector = find_detector(network)
        if detector is None or not self.given or isinstance(judge, str):
            return network
        from bsszoo.evaluators.detection import DetectionEvaluator

        return replace(detector, num_classes=judge.classes) if isinstance(judge, DetectionEvaluator) else network

    def finish(self, network: str, what: str | None, teacher: str | None, inherit: str | None) -> Finish | None:
        """How the best code is trained in full, or None.

        Raises:
            SettingsError: An option lacks the one that it goes with.
            RecipeError, DataError: As ``judge``.
        """
        from bsszoo.errors import SettingsError

        if what is None:
            if teacher is not None or inherit is not None:
                raise SettingsError(
                    "--teacher and --inherit say how the best code is trained in full: give a recipe with --finish."
                )
            return None
        if self._head(network) is not None:
            raise SettingsError(
                "--finish is for classifiers. The search of a detector ends with the command that "
                "trains the best one in full."
            )
        if not self.given:
            raise SettingsError("--finish trains the best code: give the pictures with --data.")
        from bsszoo.compression.finish import Finish, read_finish
        from bsszoo.train.classification.recipe import with_values

        made = read_finish(what, self._family(network), lambda: self._candidates(network), self.data)
        if self.dataset is not None:
            made = with_values(made, data={"dataset": self.dataset})
        return Finish(made, self.data, teacher, inherit)

    def _judge_detectors(self, network: str, head: DetectorHead, folder: Path) -> DetectionEvaluator:
        from bsszoo.evaluators.detection import DetectionEvaluator, detection_recipe

        refuse_dataset(self.dataset)
        recipe = detection_recipe(
            network, self.data, recipe=self.recipe, epochs=self.epochs, image_size=self.image_size, subset=self.subset
        )
        judge = DetectionEvaluator(
            recipe,
            self.data,
            (folder / "trainings").absolute(),
            self.repeats,
            head=head,
            measure=self.ap,  # type: ignore[arg-type]  # checked there
        )
        if self.confirm > 0:
            judge.check_test()
        return judge

    @staticmethod
    def _head(network: str) -> DetectorHead | None:
        from bsszoo.codes.detector import DetectorHead
        from bsszoo.models.detectors import find_detector

        found = find_detector(network)
        return None if found is None else DetectorHead.of(found)

    def _candidates(self, network: str) -> Recipe:
        from bsszoo.evaluators.training import training_recipe

        if self._read is None:
            self._read = training_recipe(
                self._family(network),
                self.data,
                recipe=self.recipe,
                dataset=self.dataset,
                epochs=self.epochs,
                image_size=self.image_size,
                subset=self.subset,
            )
        return self._read

    @staticmethod
    def _family(network: str) -> str:
        from bsszoo.models.resolve import resolve

        return resolve(network).code.family
