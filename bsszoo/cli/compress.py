"""``bsszoo compress``: the main job, its progress and its closing table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from bsszoo.codes.code import Code
    from bsszoo.compression.plan import Caps, Plan
    from bsszoo.evaluate.training import TrainingEvaluator
    from bsszoo.study.evaluator import Evaluator
    from bsszoo.study.result import Budget, CompressResult, TrialRow

# On a terminal the bar moves; into a file a line is written after this many seconds at the earliest.
_LINE_SECONDS = 10.0


def compress_command(
    network: Annotated[
        str,
        typer.Argument(metavar="FAMILY_OR_NAME", show_default=False,
                       help="What to compress: resnet18, resnet50, mobilenetv2, efficientnet_b0, efficientnet_b1,"
                       " another name of `bsszoo list`, or a code's text."),
    ],
    flops: Annotated[
        str,
        typer.Option(metavar="MACS", show_default=False,
                     help="The budget in multiply-adds, as the paper counts FLOPs: 130M, 0.13G, or 60% of the "
                     "network's own. Tools that count 2 x MACs show twice this figure."),
    ],
    params: Annotated[
        str | None, typer.Option(metavar="N", show_default=False, help="Most parameters, e.g. 2.5M or 70%.")
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(metavar="N", show_default=False,
                     help="Most activations (elements of the outputs of all convolutions), e.g. 5M or 60%."),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(metavar="MS", show_default=False,
                     help="Most milliseconds of a code, as --latency-table or --latency-model tells them."),
    ] = None,
    latency_table: Annotated[
        str | None,
        typer.Option(metavar="FILE", show_default=False,
                     help="Milliseconds of each block, JSON or CSV; a code's latency is their sum."),
    ] = None,
    latency_model: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", show_default=False,
                     help="Your Python function of a bsszoo.Code that returns its milliseconds."),
    ] = None,
    evaluator: Annotated[
        str,
        typer.Option(metavar="structural|MODULE:FUNCTION",
                     help="What judges a code. structural: a heuristic that needs no data and is no accuracy. "
                     "MODULE:FUNCTION: your Python function of a bsszoo.Code, higher is better."),
    ] = "structural",
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", show_default=False,
                     help="Judge codes by training them on the pictures in this folder, as `bsszoo train` reads them; "
                     "accuracy is measured on training pictures that are held out."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default="the paper's, in full",
                     help="With --data: how each code is trained."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="folder", help="With --data: how the folder is read.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", show_default="the recipe's", help="With --data: epochs of each training.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(metavar="PX", show_default="the recipe's",
                     help="With --data: side of the pictures in training. --flops counts at the family's own size."),
    ] = None,
    subset: Annotated[
        float | None,
        typer.Option(metavar="SHARE", show_default="all", help="With --data: share of the pictures to train on."),
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", help="With --data: trainings of each code.")] = 1,
    trials: Annotated[int, typer.Option(metavar="N", help="Codes to evaluate.")] = 64,
    batch: Annotated[int, typer.Option(metavar="N", help="Codes of the dispersed first iteration.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default="bsszoo-runs/ and the settings' name",
                     help="Folder of the run; the same command resumes it."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", show_default="an SQLite file in DIR",
                     help="Where the trials are kept: postgresql://user@host/database, sqlite:///file.db, "
                     "journal:///shared/file.log or grpc://host:port."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False,
                     help="Share the search of this name in --storage with other machines that run the same command."),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Processes on this machine, each of which evaluates one code at a time.")
    ] = 1,
    grace: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Without a sign of life for so long a worker is taken for dead, and its "
                     "code is evaluated again."),
    ] = 60.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Evaluate the codes again that failed in an earlier run.")
    ] = False,
    search: Annotated[
        str,
        typer.Option(metavar="default|paper", help="default: our search; paper: the one of AutoBSS's appendix A.1."),
    ] = "default",
    slack: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the budget that a code may leave unused.")
    ] = 0.1,
    scale: Annotated[
        float | None,
        typer.Option(metavar="S", show_default="what meets the budget",
                     help="Scale of the grid of widths; 1 is the paper's own grid."),
    ] = None,
    depth_cap: Annotated[
        str | None,
        typer.Option(metavar="X|none", show_default="1.5 for structural, else none",
                     help="Most total depth, in multiples of the uniformly rescaled network's."),
    ] = None,
    stage_depth_cap: Annotated[
        str | None,
        typer.Option(metavar="X|none", show_default="2 for structural, else none", help="The same for each stage."),
    ] = None,
    params_cap: Annotated[
        str | None,
        typer.Option(metavar="A:B|none", show_default="0.85:1.25 for structural, else none",
                     help="Least and most parameters, in multiples of the uniformly rescaled network's."),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure the forward time of the networks in the table.")
    ] = True,
) -> None:
    """Search how a network's blocks should be stacked under a FLOPs budget.

    Every candidate keeps the budget before anything is built. Dispersed first codes are followed by Bayesian
    optimisation with a Gaussian process and expected improvement. It ends with several good, different codes, a report
    page, and the commands that build and train them.

    Examples:

      bsszoo compress mobilenetv2 --flops 130M

      bsszoo compress resnet50 --flops 60% --params 20M --out runs/r50

      bsszoo compress mobilenetv2 --flops 130M --data pictures --epochs 10 --trials 32

      bsszoo compress efficientnet_b0 --flops 0.2G --evaluator mytraining:accuracy --trials 32

    Ctrl-C keeps every finished trial; the same command goes on.
    """
    from bsszoo.cli.console import progress_console, show
    from bsszoo.compression.run import compress
    from bsszoo.report.tables import result_table

    judge: Any = evaluator
    if data is not None or dataset is not None:
        judge = _training(network, out, data, recipe, dataset, epochs, image_size, subset, repeats, evaluator)
        evaluator = judge.info.name
    elif recipe is not None or epochs or image_size or subset or repeats != 1:
        from bsszoo.errors import SettingsError

        raise SettingsError("--recipe, --epochs, --image-size, --subset and --repeats say how codes are trained: give "
                            "the pictures with --data.")
    watcher = _ProgressWatcher(progress_console(), trials)
    caps = _caps(evaluator, depth_cap, stage_depth_cap, params_cap)
    try:
        with watcher:
            result = compress(
                network, flops=flops, params=params, activations=activations, max_latency=max_latency,
                latency_table=latency_table, latency_model=latency_model, evaluator=judge, trials=trials,
                batch=batch, seed=seed, out=out, storage=storage, study=study, workers=workers, grace=grace,
                retry=retry_failed, search=search, slack=slack, scale=scale, caps=caps, latency=latency,
                watcher=watcher,
            )
    except KeyboardInterrupt:
        if watcher.folder is not None:
            typer.echo(f"\nStopped after {watcher.done} of {trials} trials, which are kept. "
                       "The same command goes on from there.", err=True)
        raise
    show("", result_table(result))
    _say_next(result, watcher)


def _say_next(result: CompressResult, watcher: _ProgressWatcher) -> None:
    from bsszoo.cli.console import say, show
    from bsszoo.report.commands import commands

    say("", "The codes found differ from each other; others that score well, close to these, are in trials.csv.")
    for note in result.notes:
        say(f"Note: {' '.join(note.splitlines())}")
    for command in commands(result.best.code):
        show("", f"{command.title} (the first code found):", command.text.rstrip())
        if command.note:
            say(command.note)
    folder = watcher.folder
    if folder is not None:
        show("", f"Report: {folder / 'report.html'}", f"Figures: {folder / 'result.json'}, {folder / 'trials.csv'}")


def _training(
    network: str, out: Path | None, data: str | None, recipe: Path | None, dataset: str | None, epochs: int | None,
    image_size: int | None, subset: float | None, repeats: int, evaluator: str,
) -> TrainingEvaluator:
    """What judges codes by training them, as the options say."""
    from bsszoo.errors import SettingsError
    from bsszoo.evaluate.training import TrainingEvaluator, training_recipe
    from bsszoo.zoo.entry import resolve_code

    if evaluator != "structural":
        raise SettingsError("--data trains the codes and --evaluator judges them otherwise: give one of the two.")
    made = training_recipe(resolve_code(network).family, data, recipe=recipe, dataset=dataset, epochs=epochs,
                           image_size=image_size, subset=subset)
    folder = Path("bsszoo-runs") if out is None else out
    return TrainingEvaluator(made, data, (folder / "trainings").absolute(), repeats)


def _caps(evaluator: str, depth: str | None, stage_depth: str | None, params: str | None) -> Caps | None:
    """The caps asked for; None when the evaluator's own stay."""
    from bsszoo.compression.plan import STRUCTURAL_CAPS, Caps

    if depth is None and stage_depth is None and params is None:
        return None
    base = STRUCTURAL_CAPS if evaluator == "structural" else Caps()
    return Caps(
        depth=base.depth if depth is None else _multiple("--depth-cap", depth),
        stage_depth=base.stage_depth if stage_depth is None else _multiple("--stage-depth-cap", stage_depth),
        params=base.params if params is None else _range("--params-cap", params),
    )


def _multiple(option: str, text: str) -> float | None:
    from bsszoo.errors import SettingsError

    if text.lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1000:
        raise SettingsError(f"{option} is {text!r}; it takes a multiple such as 1.5, or none.")
    return value


def _range(option: str, text: str) -> tuple[float, float] | None:
    from bsszoo.errors import SettingsError

    if text.lower() == "none":
        return None
    low, colon, high = text.partition(":")
    a, b = (_multiple(option, low), _multiple(option, high)) if colon else (None, None)
    if a is None or b is None or a > b:
        raise SettingsError(f"{option} is {text!r}; it takes the least and the most, such as 0.85:1.25, or none.")
    return a, b


class _ProgressWatcher:
    """The bar on a terminal (best code, its cost and score, time left), lines of text elsewhere."""

    def __init__(self, console: Console, trials: int) -> None:
        self.console, self.trials = console, trials
        self.done = 0
        self.folder: Path | None = None
        self._best: TrialRow | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._start = self._line = time.monotonic()
        self._fresh = 0

    def __enter__(self) -> _ProgressWatcher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def started(self, reference: Code, budget: Budget) -> None:
        """Say what was understood, before the first wait."""
        from bsszoo.report.figures import both_macs, human

        limit = f", params at most {human(budget.params)}" if budget.params else ""
        limit += f", activations at most {human(budget.activations)}" if budget.activations else ""
        limit += f", latency at most {budget.latency_ms:g} ms" if budget.latency_ms else ""
        self._say(f"Compressing {reference}", f"Budget: {both_macs(budget.macs)}{limit}", "Drawing candidates ...")

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
        scored = [t for t in done if t.score is not None]
        self._best = max(scored, key=lambda t: t.score or 0.0, default=None)
        self._say(
            f"Candidates: {len(plan.candidates):,} codes within the limits, {human(int(macs.min()))} to "
            f"{human(int(macs.max()))} MACs, on the grid at scale {plan.scale:g}",
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
                TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
                TimeRemainingColumn(), console=self.console,
            )
            self._progress.start()
            total = min(self.trials, len(plan.candidates))
            self._task = self._progress.add_task("trials", total=total, completed=len(done))

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
            self.console.print(f"trial {trial.number} failed: {first}", markup=False,
                               soft_wrap=not self.console.is_terminal)
        elif self._best is None or trial.score > (self._best.score or 0.0):
            self._best = trial
            if self._progress is not None:
                self.console.print(f"trial {trial.number}, {self._describe()}  {trial.code}", markup=False)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.done, description=self._describe())
        elif time.monotonic() - self._line > _LINE_SECONDS or self.done >= self.trials:
            self._line = time.monotonic()
            left = (self._line - self._start) / self._fresh * max(self.trials - self.done, 0)
            best = f"{self._describe()}  {self._best.code}" if self._best else "none yet"
            self.console.print(f"{self.done}/{self.trials} trials, {best}, about {left:.0f} s left", markup=False,
                               soft_wrap=True)

    def waiting(self, trials: int) -> None:
        """Say that other machines are still at work."""
        self.console.print(f"Waiting for {trials} {'trial' if trials == 1 else 'trials'} of other workers; their codes "
                           "are evaluated here if they die ...", markup=False)

    def judging(self, control: str) -> None:
        """Say that a control is being judged, which takes as long as a trial."""
        name = {"original": "the original network", "uniform": "the uniformly rescaled network"}[control]
        self.console.print(f"Judging {name}, a control ...", markup=False)

    def measuring(self, networks: int) -> None:
        """Say that latencies are being measured, which takes some seconds."""
        self.console.print(f"Measuring the latency of {networks} networks on this machine ...", markup=False)

    def _describe(self) -> str:
        from bsszoo.report.figures import human

        if self._best is None:
            return "best so far: none"
        return f"best so far: score {self._best.score:.3f} at {human(self._best.cost.macs)} MACs"

