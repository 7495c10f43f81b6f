"""``bsszoo compress``: the main job, its progress and its closing table."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bsszoo.cli.console import JsonOption
from bsszoo.cli.options import TrackOption, read_config, with_options
from bsszoo.options import GROUPS

if TYPE_CHECKING:
    from bsszoo.compression.result import CompressResult


@with_options(*GROUPS.values())
def compress_command(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            show_default=False,
            help="What to compress: resnet18, mobilenetv2, efficientnet_b0, convnext_atto, deit_tiny or another name "
            "of `bsszoo list`, a code's text, a weights file, a training's folder, hf-hub:ORG/NAME or a name with a "
            "tag, resnet50.a1_in1k (with --data their weights are inherited), or a detector, maskrcnn_ or retinanet_ "
            "and any of these, whose backbone is searched.",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            show_default=False,
            is_eager=True,
            callback=read_config,
            help="A YAML file with values of these options by their names (flops: 50%), of NETWORK (network: my.pth) "
            "and of --set (set: [optim.lr=0.01]). What stands on the command line goes first.",
        ),
    ] = None,
    track: TrackOption = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Make a network smaller, under a budget of multiply-adds, parameters or latency.

    With --data and a trained network: its subnetworks are judged by the weights that they inherit, the best are
    fine-tuned in full beside the uniformly narrower one, and the run ends with the one to take, its weights, a table
    and a report page. With --data and a network without weights each candidate is trained. Without --data nothing is
    trained: the score is a heuristic, the uniformly rescaled network is recommended, and the command that trains the
    candidates on your pictures is printed.

    Every candidate keeps the budget before anything is built. Dispersed first codes are followed by Bayesian
    optimisation with a Gaussian process and expected improvement.

    Examples:

      bsszoo compress my.pth --flops 50% --data pictures

      bsszoo compress my.pth --latency 60% --data pictures

      bsszoo compress mobilenetv2 --flops 130M

      bsszoo compress mobilenetv2 --flops 130M --data pictures --epochs 10 --trials 32

      bsszoo compress resnet50 --flops 60% --params 20M --out runs/r50

      bsszoo compress --config run.yaml --trials 200

      bsszoo compress resnet18 --flops 50% --data pictures --finish paper --inherit runs/resnet18

      bsszoo compress maskrcnn_resnet50 --flops 90B --data coco --recipe recipes/coco/maskrcnn_resnet50.yaml

      bsszoo compress efficientnet_b0 --flops 0.2G --evaluator mytraining:accuracy --trials 32

    Ctrl-C keeps every finished trial; the same command resumes.
    """
    del config  # read by its callback
    from bsszoo.cli.console import progress_console
    from bsszoo.cli.progress import CompressProgress
    from bsszoo.compression.reprint import Command
    from bsszoo.compression.session import Compression
    from bsszoo.tracking import tracking

    # A tracking service is told of every run, a finished one too.
    command = Command(network, options)
    before = command.result() if track is None else None
    if before is not None:
        progress_console().print(f"Finished before, and nothing has changed since: {before.folder}", soft_wrap=True)
        _print_result(before, as_json=as_json)
        return
    with ExitStack() as stack:
        progress = stack.enter_context(CompressProgress(progress_console()))
        tracks = [] if track is None else [stack.enter_context(tracking(track))]
        job = Compression(network, callbacks=[progress, *tracks], **options)
        try:
            result = job.run()
        except KeyboardInterrupt:
            progress.close()  # a bar that goes away takes the lines above it along
            if job.folder is not None:
                typer.echo(
                    f"\nStopped after {progress.trials} of {progress.wanted} trials, which are saved. "
                    "The same command resumes from there.",
                    err=True,
                )
            raise
    command.ended(result)
    _print_result(result, as_json=as_json)


def _print_result(result: CompressResult, *, as_json: bool) -> None:
    """The result as JSON, or the tables and what to do with it."""
    if as_json:
        assert result.folder is not None
        typer.echo((result.folder / "result.json").read_text(encoding="utf-8").rstrip())
        return
    _print_end(result)


def _print_end(result: CompressResult) -> None:
    """The codes and what can be done with them; then, last on the screen, the table and which network to take."""
    from bsszoo.cli.console import say, show
    from bsszoo.compression.result import LEADERS, leading
    from bsszoo.report.commands import commands_of, to_train, using
    from bsszoo.report.tables import code_list, result_table, trained_tables

    folder, take, recommendation = result.folder, result.recommended, result.recommendation
    assert folder is not None
    if result.untrained:
        show("", code_list(result))
    else:
        show("", result_table(result))
    differ = "The best codes differ from each other; others that score well, close to these, are in trials.csv."
    if not result.evaluator.heuristic:
        found = [row.code for row in result.networks if row.role == "found"]
        best = {trial.code for trial in leading(result.trials, len(found))} == set(found)
        which = "These codes are the best by score"
        if not best:
            which = f"The first {LEADERS} codes are the best by score, the others good ones that differ"
        differ = f"{which}; trials.csv has all."
    say("", differ, *(f"Note: {' '.join(note.splitlines())}" for note in result.notes))
    of = "the best code" if recommendation is None or take.role != "uniform" else "the recommended network"
    commands = [(of, command) for command in commands_of(result, take.code)]
    if result.untrained:
        if result.train is not None:
            # In place of the one that trains a single network on ImageNet.
            commands = [("beside the uniformly rescaled network", to_train(result.train)), *commands[:-1]]
    elif result.weights is not None and (result.finished is None or result.finished.code != str(take.code)):
        commands = [("the recommended network", command) for command in using(result.weights)]
    for of, command in commands:
        show("", f"{command.title} ({of}):", command.text.rstrip())
        if command.note:
            say(command.note)
    show(*(["", result_table(result, with_codes=False)] if result.untrained else trained_tables(result, take.code)))
    if recommendation is not None:
        say("", recommendation)
    show(f"Report: {folder / 'report.html'}", f"Figures: {folder / 'result.json'}, {folder / 'trials.csv'}")
