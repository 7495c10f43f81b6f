"""How a search goes on, as a person sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from bsszoo.codes.code import Code
    from bsszoo.compression.plan import Plan
    from bsszoo.evaluators.base import Evaluator
    from bsszoo.study.result import Budget, TrialRow
    from bsszoo.train.watching import Watcher as TrainingWatcher

# On a terminal the bar moves; into a file a line is written after this many seconds at the earliest.
_LINE_SECONDS = 10.0


class ProgressWatcher:
    """The bar on a terminal (best code, its cost and score, time left), lines of text elsewhere."""

    def __init__(self, console: Console, trials: int) -> None:
        self.console, self.trials, self.least = console, trials, trials
        self.done = 0
        self.folder: Path | None = None
        self._best: TrialRow | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._start = self._line = time.monotonic()
        self._fresh = 0

    def __enter__(self) -> ProgressWatcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def started(self, network: str, budget: Budget) -> None:
        """Say what was understood, before the first wait."""
        from bsszoo.report.figures import both_macs, human

        limit = f", params at most {human(budget.params)}" if budget.params else ""
        limit += f", activations at most {human(budget.activations)}" if budget.activations else ""
        limit += f", latency at most {budget.latency_ms:g} ms" if budget.latency_ms else ""
        self._say(f"Compressing {network}", f"Budget: {both_macs(budget.macs)}{limit}", "Drawing candidates ...")

    def _say(self, *lines: str) -> None:
        from rich.text import Text

        for line in lines:
            self.console.print(Text(line), soft_wrap=not self.console.is_terminal)

    def planned(self, plan: Plan, evaluator: Evaluator, folder: Path, done: Sequence[TrialRow]) -> None:
        """Say what is searched before the first trial."""
        from bsszoo.report.figures import human

        info, macs = evaluator.info, plan.candidates.macs
        assert macs is not None  # drawn from a space, whose costs are known
        self.folder, self.done = folder, len(done)
        self.least = min(self.trials, len(plan.candidates))
        scored = [t for t in done if t.score is not None]
        self._best = max(scored, key=lambda t: t.score or 0.0, default=None)
        self._say(
            f"Candidates: {len(plan.candidates):,} codes within the limits, {human(int(macs.min()))} to "
            f"{human(int(macs.max()))} MACs, on the grid at scale {plan.scale:g}",
            *(
                [f"Fewer than the {self.trials} trials asked for: all of them will be evaluated"]
                if len(plan.candidates) < self.trials
                else []
            ),
            *(f"Cap: {cap}" for cap in plan.caps),
            *(f"Note: {note}" for note in plan.notes),
            f"Evaluator: {info.name}, {info.measures}",
            *([f"  {info.caution}"] if info.caution else []),
            f"Folder: {folder}" + (f" ({self._earlier(len(done))})" if done else ""),
        )
        self._start = self._line = time.monotonic()
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._progress.start()
            self._task = self._progress.add_task("trials", total=self.least, completed=len(done))

    def _earlier(self, done: int) -> str:
        if done >= self.trials:
            return f"{done} trials are finished already; {self.trials} were asked for, so none is left to do"
        return f"going on after {done} finished trials"

    def finished(self, trial: TrialRow) -> None:
        """Move the bar, or write a line now and then."""
        self.done += 1
        self._fresh += 1
        if trial.score is None:
            first = (trial.error or "").splitlines()[0]
            self.console.print(
                f"trial {trial.number} failed: {first}", markup=False, soft_wrap=not self.console.is_terminal
            )
        elif self._best is None or trial.score > (self._best.score or 0.0):
            self._best = trial
            if self._progress is not None:
                self.console.print(f"trial {trial.number}, {self._describe()}  {trial.code}", markup=False)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.done, description=self._describe())
        elif time.monotonic() - self._line > _LINE_SECONDS or self.done >= self.least:
            self._line = time.monotonic()
            left = (self._line - self._start) / self._fresh * max(self.least - self.done, 0)
            best = f"{self._describe()}  {self._best.code}" if self._best else "none yet"
            more = f", about {left:.0f} s left" if self.done < self.least else ""
            self.console.print(f"{self.done}/{self.least} trials, {best}{more}", markup=False, soft_wrap=True)

    def waiting(self, trials: int) -> None:
        """Say that other machines are still at work."""
        self.console.print(
            f"Waiting for {trials} {'trial' if trials == 1 else 'trials'} of other workers; their codes "
            "are evaluated here if they die ...",
            markup=False,
        )

    def judging(self, control: str) -> None:
        """Say that a control is being judged, which takes as long as a trial."""
        name = {"original": "the original network", "uniform": "the uniformly rescaled network"}[control]
        self.console.print(f"Judging {name}, a control ...", markup=False)
        # The time left is that of trials: controls before this one, the large original above all, do not count.
        self._start = time.monotonic()

    def measuring(self, networks: int) -> None:
        """Say that latencies are being measured, which takes some seconds."""
        self.console.print(f"Measuring the latency of {networks} networks on this machine ...", markup=False)

    def confirming(self, result: str, done: int, trainings: int) -> None:
        """Say how far the fresh trainings are, which take as long as trials."""
        if not result:
            self._stop()
            already = f", {done} of them done already" if done else ""
            self._say(
                f"Confirming: {trainings} fresh trainings of the best code and of controls, measured on unseen "
                f"pictures{already} ..."
            )
            return
        self._say(f"  {done}/{trainings} {result}")

    def finishing(self, code: Code) -> TrainingWatcher | None:
        """Say that the best code is trained in full; its progress is that of ``bsszoo train``."""
        from bsszoo.cli.training_progress import TrainingProgress

        self._stop()
        self._say(f"Training the best code in full: {code}")
        return TrainingProgress(self.console)

    def _describe(self) -> str:
        from bsszoo.report.figures import human

        if self._best is None:
            return "best so far: none"
        return f"best so far: score {self._best.score:.3f} at {human(self._best.cost.macs)} MACs"
