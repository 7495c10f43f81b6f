"""``Trainings``: trainings of codes by one recipe, each a separate process with a folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any, ClassVar, Final

from bsszoo.codes.code import Code
from bsszoo.errors import DataError, EvaluationError, SettingsError
from bsszoo.evaluators.base import Evaluator, FullTraining, Score, Trial, tell
from bsszoo.files import whole_file, write_whole
from bsszoo.texts import one_line, parse_json
from bsszoo.train.checkpoint import BEST, CONFIG, LAST, RECIPE, SUMMARY, WEIGHTS
from bsszoo.train.classification.recipe import recipe_text, with_values
from bsszoo.train.parent import PARENT

#: Share of the training images that candidates are validated on: the test split stays unseen by the search.
HOLDOUT: Final = 0.1
#: Seeds of trainings that are measured on the test split begin this far above the search's.
FRESH: Final = 1000
# Lines of a failed training's log that its error repeats; the file has all.
_LOG_LINES: Final = 6
# How often a training's log is read for how far it is [s], of its end so many bytes; and what it says of that.
_LOOK_SECONDS: Final = 1.0
_LOG_END: Final = 4096
_UPDATES: Final = re.compile(r"([\d,]+) of ([\d,]+) updates")


class FromScratch:
    """How a search begins, and spends its budget, whose codes are trained from scratch."""

    #: A training has noise.
    replicates: ClassVar[float] = 0.25
    pilots: ClassVar[int] = 8
    #: Deep and narrow codes, which most of those in a budget are, lose to networks of about the uniform one's shape.
    around: ClassVar[int] = 6


@dataclass(frozen=True)
class Trainings(Evaluator):
    """Trainings of codes by one recipe.

    Each training is a separate process with a folder and a log, so that one that crashes or runs out of memory
    is one failed trial. The folder's name follows from the code and seed: a training that was cut off is resumed from
    its checkpoint, by whichever worker gets its code, and a finished one is not repeated. With several GPUs each
    process of this machine takes a free one.

    Args:
        recipe: How candidates are trained; its network's name does not matter.
        data: The folder of the images, as ``bsszoo train --data``; None for synthetic ones.
        folder: Where the trainings go.
        repeats: Trainings of each code, with the seeds ``run.seed``, ``run.seed + 1``, ..; the score is their mean.
            Where a search evaluates a code again, the seeds go on from there.
        device: As ``bsszoo train --device``; a free GPU where there is one by default.

    Raises:
        SettingsError: ``repeats`` is out of range.
    """

    recipe: Any
    data: str | None
    folder: Path
    repeats: int = 1
    device: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= FRESH:
            raise SettingsError(f"--repeats is {self.repeats}; it takes a number from 1 to {FRESH}.")

    @property
    def writes(self) -> tuple[Path, ...]:
        """The folder of the trainings."""
        return (self.folder,)

    @property
    def reads(self) -> tuple[Path, ...]:
        """The images."""
        return () if self.data is None else (Path(self.data).absolute(),)

    @property
    def fingerprint(self) -> str:
        """A fingerprint (SHA-256) of the recipe's values but the network, and of the repeats."""
        neutral = self._neutral(with_values(self.recipe, run={"workers": 0}))
        return hashlib.sha256(f"{neutral} {self.repeats}".encode()).hexdigest()[:8]

    def _neutral(self, recipe: Any) -> str:
        return recipe_text(with_values(recipe, model={"name": "code"}))

    def name_of(self, code: Code) -> str:
        """The network that is trained for a code."""
        return str(code)

    def model_part(self, code: Code, out: Path) -> dict[str, Any]:
        """What a recipe's model section says of a code that is trained in the folder ``out``."""
        return {"name": self.name_of(code)}

    def recipe_for(self, *, test: bool) -> Any:
        """The recipe; with ``test`` the validation split is measured once, after the last update."""
        part = self.recipe.data
        return with_values(self.recipe, data={"test_split": part.val_split if test else part.test_split})

    @property
    def thinned(self) -> str:
        """How many of the images are trained on, as the end of a phrase; empty for all."""
        subset = self.recipe.data.subset
        return f", {100 * subset:g}% of the images" if subset < 1 else ""

    @property
    def measured(self) -> str:
        """What a result of a training is, with its unit."""
        raise NotImplementedError

    def result_of(self, summary: Mapping[str, Any], *, test: bool) -> float:
        """The result in a training's summary, on the images held out or on the ``test`` split."""
        raise NotImplementedError

    def evaluate(self, code: Code, trial: Trial) -> Score:
        """The mean result of a code's trainings; trainings that are finished are only read.

        Raises:
            EvaluationError: A training failed; the text has the end of its log and where the whole of it is.
        """
        seed = self.recipe.run.seed + trial.replicate * self.repeats
        results = tuple(self.result_of(self.trained(code, seed + i), test=False) for i in range(self.repeats))
        return Score(sum(results) / len(results), self.measured, results)

    def tested(self, code: Code, number: int) -> tuple[float, float]:
        """The results of a training by which nothing was chosen: on the split that the search never sees, and held out.

        Its seed is none of the search's; the split is measured once, after the last update.

        Args:
            code: The code.
            number: Which of its fresh trainings, from 0.

        Raises:
            EvaluationError: As ``evaluate``.
        """
        summary = self.trained(code, self.recipe.run.seed + FRESH + number, test=True)
        return self.result_of(summary, test=True), self.result_of(summary, test=False)

    def keep_weights_only(self, code: Code, number: int) -> None:
        """Remove of a fresh training what only one that was cut off needs."""
        out = self.training_folder(code, self.recipe.run.seed + FRESH + number)
        for file in (out / LAST, out / BEST):
            file.unlink(missing_ok=True)

    def deliver(self, code: Code, number: int, folder: Path) -> None:
        """Copy the network of a fresh training to a folder: weights, configuration, recipe and summary."""
        out = self.training_folder(code, self.recipe.run.seed + FRESH + number)
        folder.mkdir(exist_ok=True)
        for name in (WEIGHTS, CONFIG, RECIPE, SUMMARY):
            with whole_file(folder / name) as scratch:
                shutil.copyfile(out / name, scratch)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs of the networks, and channels of their input."""
        raise NotImplementedError

    def full_training(self) -> FullTraining:
        """All images; without a split to validate on some are still held out."""
        holdout = 0.0 if self.has_test() else self.recipe.data.holdout
        return FullTraining(with_values(self.recipe, data={"holdout": holdout, "subset": 1.0}), self.data, *self.shape)

    def check_test(self) -> None:
        """A ``DataError`` where the split that ``tested`` measures on cannot be used."""
        raise NotImplementedError

    def has_test(self) -> bool:
        """Whether there is a split that ``tested`` can measure on."""
        try:
            self.check_test()
        except DataError:
            return False
        return True

    def training_folder(self, code: Code, seed: int) -> Path:
        """The folder of one training of a code."""
        return self.folder / f"{hashlib.sha256(f'{code} {self.fingerprint}'.encode()).hexdigest()[:16]}_seed{seed}"

    def trained(self, code: Code, seed: int, *, test: bool = False) -> dict[str, Any]:
        """The summary of one training of a code, which is trained where that has not been done.

        Raises:
            EvaluationError: The training failed; the text has the end of its log and where the whole of it is.
        """
        out = self.training_folder(code, seed)
        if not (out / SUMMARY).is_file():
            out.mkdir(parents=True, exist_ok=True)
            recipe = with_values(self.recipe_for(test=test), model=self.model_part(code, out), run={"seed": seed})
            wanted = out.with_suffix(".yaml")
            write_whole(wanted, recipe_text(recipe))
            with self._free_device() as device:
                run_training(wanted, out, self.data, device)
        try:
            summary = parse_json((out / SUMMARY).read_bytes())
        except ValueError as error:
            summary = one_line(error)
        if not isinstance(summary, dict):
            raise EvaluationError(
                f"{out / SUMMARY} cannot be read as the summary of a training ({summary}). Move the "
                "folder away: the same command trains that code again."
            )
        return summary

    @contextmanager
    def _free_device(self) -> Iterator[str | None]:
        """A device that no other training of this machine's searches uses; None leaves the choice to the training."""
        import torch
        from filelock import FileLock, Timeout

        if self.device is not None or not torch.cuda.is_available():
            yield self.device
            return
        for number in range(torch.cuda.device_count()):
            lock = FileLock(Path(gettempdir()) / f"bsszoo-gpu{gpu_name(number)}-{Path.home().name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                yield f"cuda:{number}"
            finally:
                lock.release()
            return
        # More workers than GPUs: the first one is shared.
        yield "cuda:0"


def gpu_name(number: int) -> str:
    """The name on this machine of the GPU that this process numbers so: schedulers show each process some of them."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return re.sub(r"[^\w-]", "_", visible[number]) if number < len(visible) else str(number)


def run_training(recipe: Path, out: Path, data: str | None, device: str | None = None, processes: int = 1) -> None:
    """Run ``bsszoo train`` in a process of its own, or resume it, and tell whoever listens how far it is.

    Args:
        recipe: The recipe's file.
        out: The folder of the training, which is there; its log is ``log.txt`` in it.
        data, device: As ``bsszoo train``.
        processes: Of several, started by torchrun, each takes a GPU.

    Raises:
        EvaluationError: It failed; the text has the end of its log and where the whole of it is.
    """
    start = [sys.executable, "-m", "bsszoo"]
    if processes > 1:
        start = [sys.executable, "-c", "from bsszoo.train.parent import torchrun; torchrun()", "--standalone"]
        start += ["--nproc-per-node", str(processes), "-m", "bsszoo"]
    command = [*start, "train", str(recipe), "--out", str(out)]
    command += ["--data", data] if data is not None else []
    command += ["--device", device] if device is not None else []
    log = out / "log.txt"
    environment = {**os.environ, PARENT: str(os.getpid())}
    if processes > 1 and (threads := environment.get("OMP_NUM_THREADS", "")).isdigit():
        environment["OMP_NUM_THREADS"] = str(max(1, int(threads) // processes))
    # A search limits its linear algebra to one thread; a training may use what the machine has.
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment)
        try:
            status = None
            while status is None:
                try:
                    status = process.wait(_LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    if found := _UPDATES.findall(_end_of(log)):
                        tell(*(int(number.replace(",", "")) for number in found[-1]))
        except BaseException:
            process.terminate()  # it writes a checkpoint first
            process.wait()
            raise
    if status:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        how = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
        raise EvaluationError(f"The training in {out} {how}: {' | '.join(lines[-_LOG_LINES:])}. Its log is {log}.")


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_END))
        return file.read().decode(errors="replace")
