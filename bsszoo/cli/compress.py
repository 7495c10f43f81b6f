"""``bsszoo compress``: the main job, its progress and its closing table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bsszoo.cli.compress_progress import ProgressWatcher
    from bsszoo.compression.plan import Caps
    from bsszoo.study.result import CompressResult


def compress_command(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            show_default=False,
            help="What to compress: resnet18, resnet50, mobilenetv2, efficientnet_b0, efficientnet_b1, "
            "regnetx_008, regnety_008, another name of `bsszoo list`, a code's text, a weights file or a "
            "training's folder (its code is searched from), or a detector, "
            "maskrcnn_ or retinanet_ and any of these, whose backbone is searched.",
        ),
    ],
    flops: Annotated[
        str,
        typer.Option(
            metavar="MACS",
            show_default=False,
            help="The budget in multiply-adds, as the paper counts FLOPs: 130M, 0.13G, or 60% of the "
            "network's own. Tools that count 2 x MACs show twice this figure.",
        ),
    ],
    params: Annotated[
        str | None, typer.Option(metavar="N", show_default=False, help="Most parameters, e.g. 2.5M or 70%.")
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help="Most activations (elements of the outputs of all convolutions), e.g. 5M or 60%.",
        ),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            metavar="MS",
            show_default=False,
            help="Most milliseconds of a code, as --latency-table or --latency-model tells them.",
        ),
    ] = None,
    latency_table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Milliseconds of each block, JSON or CSV; a code's latency is their sum.",
        ),
    ] = None,
    latency_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            show_default=False,
            help="Your Python function of a bsszoo.Code that returns its milliseconds.",
        ),
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            metavar="structural|MODULE:FUNCTION",
            show_default="structural; with --data, training",
            help="What judges a code. structural: a heuristic that needs no data and is no accuracy. "
            "MODULE:FUNCTION: your Python function of a bsszoo.Code, higher is better.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Judge codes by training them on the pictures in this folder, as `bsszoo train` reads them; "
            "accuracy is measured on training pictures that are held out.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default="the paper's, in full", help="With --data: how each code is trained."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="the recipe's, else folder",
            help="With --data: how the folder is read: folder, torch/fashion_mnist, wds/NAME, ..",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", show_default="the recipe's", help="With --data: epochs of each training.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            show_default="the recipe's",
            help="With --data: side of the pictures in training. --flops counts at the family's own size.",
        ),
    ] = None,
    subset: Annotated[
        float | None,
        typer.Option(metavar="SHARE", show_default="all", help="With --data: share of the pictures to train on."),
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", help="With --data: trainings of each code.")] = 1,
    ap: Annotated[
        str | None,
        typer.Option(
            metavar="mask|box",
            show_default="mask where there are masks",
            help="With a detector and --data: which average precision judges.",
        ),
    ] = None,
    confirm: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="With --data: at the end, N fresh trainings each of the best code and of the "
            "uniformly rescaled network and one each of N random codes, measured on the validation split, "
            "which the search never sees. 0: none.",
        ),
    ] = 3,
    finish: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE|paper",
            show_default=False,
            help="With --data: train the best code in full at the end, by a recipe's file or the paper's.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            show_default=False,
            help="With --finish: the original with these weights teaches the best code (a tag, "
            "hf-hub:ORG/NAME, a training's folder or a file).",
        ),
    ] = None,
    inherit: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            show_default=False,
            help="With --finish: the best code starts from these weights of the original, as far as shapes allow.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(metavar="N", help="Codes to evaluate.")] = 64,
    batch: Annotated[int, typer.Option(metavar="N", help="Codes of the dispersed first iteration.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="bsszoo-runs/ and the settings' name",
            help="Folder of the run; the same command resumes it.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default="an SQLite file in DIR",
            help="Where the trials are kept: postgresql://user@host/database, sqlite:///file.db, "
            "journal:///shared/file.log or grpc://host:port.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="Share the search of this name in --storage with other machines that run the same command.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Processes on this machine, each of which evaluates one code at a time.")
    ] = 1,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Without a sign of life for so long a worker is taken for dead, and its code is evaluated again.",
        ),
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
        typer.Option(
            metavar="S",
            show_default="what meets the budget",
            help="Scale of the grid of widths; 1 is the paper's own grid.",
        ),
    ] = None,
    depth_cap: Annotated[
        str | None,
        typer.Option(
            metavar="X|none",
            show_default="1.5 for structural, else none",
            help="Most total depth, in multiples of the uniformly rescaled network's.",
        ),
    ] = None,
    stage_depth_cap: Annotated[
        str | None,
        typer.Option(metavar="X|none", show_default="2 for structural, else none", help="The same for each stage."),
    ] = None,
    params_cap: Annotated[
        str | None,
        typer.Option(
            metavar="A:B|none",
            show_default="0.85:1.25 for structural, else none",
            help="Least and most parameters, in multiples of the uniformly rescaled network's.",
        ),
    ] = None,
    grow: Annotated[
        bool, typer.Option("--grow", help="Allow a budget above the network's own, which makes it larger.")
    ] = False,
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

      bsszoo compress resnet18 --flops 50% --data pictures --finish paper --inherit runs/resnet18

      bsszoo compress maskrcnn_resnet50 --flops 90B --data coco --recipe recipes/coco/maskrcnn_resnet50.yaml

      bsszoo compress efficientnet_b0 --flops 0.2G --evaluator mytraining:accuracy --trials 32

    Ctrl-C keeps every finished trial; the same command goes on.
    """
    from bsszoo.cli.compress_progress import ProgressWatcher
    from bsszoo.cli.console import progress_console, show
    from bsszoo.cli.training_options import Training
    from bsszoo.compression.run import compress
    from bsszoo.report.tables import result_table, trained_tables

    training = Training(data, recipe, dataset, epochs, image_size, subset, repeats, confirm, ap)
    judge, closing = training.judge(network, out, evaluator), training.finish(network, finish, teacher, inherit)
    watcher = ProgressWatcher(progress_console(), trials)
    caps = _caps(judge, depth_cap, stage_depth_cap, params_cap)
    try:
        with watcher:
            result = compress(
                training.searched(network, judge),
                flops=flops,
                params=params,
                activations=activations,
                max_latency=max_latency,
                latency_table=latency_table,
                latency_model=latency_model,
                evaluator=judge,
                trials=trials,
                batch=batch,
                seed=seed,
                out=out,
                storage=storage,
                study=study,
                workers=workers,
                grace=grace,
                retry=retry_failed,
                search=search,
                slack=slack,
                scale=scale,
                caps=caps,
                grow=grow,
                latency=latency,
                confirm=confirm,
                finish=closing,
                watcher=watcher,
            )
    except KeyboardInterrupt:
        if watcher.folder is not None:
            typer.echo(
                f"\nStopped after {watcher.done} of {trials} trials, which are kept. "
                "The same command goes on from there.",
                err=True,
            )
        raise
    show("", result_table(result), *trained_tables(result))
    _say_next(result, watcher)


def _say_next(result: CompressResult, watcher: ProgressWatcher) -> None:
    from bsszoo.cli.console import say, show
    from bsszoo.report.commands import commands_of

    say("", "The codes found differ from each other; others that score well, close to these, are in trials.csv.")
    for note in result.notes:
        say(f"Note: {' '.join(note.splitlines())}")
    for command in commands_of(result, result.best.code):
        show("", f"{command.title} (the first code found):", command.text.rstrip())
        if command.note:
            say(command.note)
    folder = watcher.folder
    if folder is not None:
        show("", f"Report: {folder / 'report.html'}", f"Figures: {folder / 'result.json'}, {folder / 'trials.csv'}")


def _caps(judge: object, depth: str | None, stage_depth: str | None, params: str | None) -> Caps | None:
    """The caps asked for; None when the evaluator's own stay."""
    from bsszoo.compression.plan import STRUCTURAL_CAPS, Caps

    if depth is None and stage_depth is None and params is None:
        return None
    base = STRUCTURAL_CAPS if judge == "structural" else Caps()
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
