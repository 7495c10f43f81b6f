"""``bsszoo push``, ``bsszoo pull``, ``bsszoo hub show``: networks to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bsszoo.cli.console import JsonOption, show_json
from bsszoo.cli.help import Command, Group
from bsszoo.cli.options import quietly
from bsszoo.texts import one_line

RepositoryArgument = Annotated[
    str, typer.Argument(metavar="ORG/NAME[@REVISION]", help="A repository of the Hub.", show_default=False)
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="HF_TOKEN",
        show_envvar=False,
        show_default=False,
        metavar="TEXT",
        help="A token of the Hub; better HF_TOKEN or `hf auth login`, which your shell does not remember.",
    ),
]

hub_app = typer.Typer(
    no_args_is_help=True, help="Look at networks on the Hugging Face Hub.", rich_markup_mode=None, cls=Group
)


def push_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_CHECKPOINT",
            show_default=False,
            help="A folder of `bsszoo train`, one of `bsszoo compress --finish`, or a weights file.",
        ),
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where to.", show_default=False)],
    code: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_CODE",
            show_default=False,
            help="The network of a weights file, where its shapes do not determine it.",
        ),
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            show_default=False,
            help="The run of `bsszoo compress` that selected the code, if it is elsewhere.",
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            show_default=False,
            help="Licence of the weights, e.g. apache-2.0; the card notes when none is stated.",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Push to this branch; it is made if missing.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a repository that holds another network.")] = False,
    dry_run: Annotated[
        Path | None,
        typer.Option(
            "--dry-run",
            metavar="DIR",
            show_default=False,
            help="Write the same files into this folder instead, without network.",
        ),
    ] = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a trained network: weights, config.json, model card, recipe and its search.

    The same command again changes nothing, and finishes an interrupted push. bsszoo and timm load it by
    hf-hub:ORG/NAME.

    Try it first:  bsszoo push runs/first me/shoes --dry-run shoes
    """
    from bsszoo.cli.console import progress_console, say
    from bsszoo.hub.push import push

    progress_console().print(
        f"Checking the weights in {source} and writing the card ..."
        if dry_run
        else f"Checking {source}, then pushing to {repository} ...",
        markup=False,
    )
    done = push(
        source,
        repository,
        code=code,
        search=search,
        licence=licence,
        private=private,
        revision=revision,
        force=force,
        dry_run=dry_run,
        token=token,
    )
    if as_json:
        show_json(done)
        return
    say(f"Code: {done.code}", f"Files: {', '.join(done.files)}")
    if done.commit is None:
        say(f"Written to {done.address}; nothing was sent. Read README.md there, then push without --dry-run.")
        return
    what = "Pushed" if done.changed else "Nothing had changed; the repository holds these files already"
    say(
        f"{what}: {done.address} (commit {done.commit})",
        f'Load it: bsszoo.create("hf-hub:{done.repository}", pretrained=True)',
    )


def pull_command(
    repository: RepositoryArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder; by default NAME.", show_default=False)
    ] = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a network from the Hub into a folder; pickles and programs stay there."""
    from bsszoo.cli.console import say
    from bsszoo.hub.pull import pull

    done = pull(repository, out, token=token)
    if as_json:
        show_json(done)
        return
    say(f"Code: {done.code}", f"Folder: {done.folder} ({_names(done.files)})")
    if done.left:
        say(f"Left on the Hub, as hidden or not an accepted kind of file: {_names(done.left)}")
    say(f'Load it: bsszoo.create("local-dir:{done.folder}", pretrained=True)')


def show_command(repository: RepositoryArgument, as_json: JsonOption = False, token: TokenOption = None) -> None:
    """Show the network of a repository, from its card and configuration; the weights are not fetched."""
    from bsszoo.cli.console import say, show
    from bsszoo.hub.pull import look
    from bsszoo.report.figures import human
    from bsszoo.report.tables import code_summary, stage_table

    facts = look(repository, token=token)
    if as_json:
        show_json(
            {
                "repository": facts.repository,
                "commit": facts.commit,
                "code": str(facts.code),
                "macs": facts.cost.macs,
                "two_x_macs": facts.cost.macs2,
                "params": facts.cost.params,
                "num_classes": facts.num_classes,
                "in_chans": facts.in_chans,
                "license": facts.licence,
                "weights_bytes": facts.size,
                "files": list(facts.files),
                "measured": [
                    {"dataset": m.dataset, "split": m.split, "top1": m.top1, "top5": m.top5, "pictures": m.images}
                    for m in facts.measured
                ],
                "search": facts.search,
                "training": facts.training,
            }
        )
        return
    show(
        code_summary(facts.code, facts.cost),
        "",
        stage_table(facts.code, num_classes=facts.num_classes, in_chans=facts.in_chans, totals_explained=False),
    )
    # One line each and in bounds: a repository's texts must not look like lines of ours.
    accuracies = [
        f"Accuracy: top-1 {m.top1:.2f}%, top-5 {m.top5:.2f}% of {m.images:,} images "
        f"({one_line(m.dataset)}, {one_line(m.split)})"
        for m in facts.measured
    ] or ["Accuracy: not measured"]
    say(
        "",
        f"Repository: {facts.repository}, commit {one_line(facts.commit)}",
        *accuracies,
        f"Weights: {human(facts.size)} bytes, {facts.num_classes:,} classes, {facts.in_chans} input channels, licence "
        f"{one_line(facts.licence or 'not stated')}",
    )
    if facts.search:
        trials = facts.search["trials"]
        say(
            f"Found by a search from {one_line(facts.search['reference'])} under "
            f"{human(facts.search['budget']['macs'])} MACs, {trials['complete']} evaluations of "
            f"{one_line(facts.search['evaluator']['name'])}, seed {facts.search['seed']}"
        )
    if facts.training:
        versions = facts.training["versions"]
        say(
            f"Trained for {facts.training['epochs']} epochs with seed {facts.training['seed']} by bsszoo "
            f"{one_line(versions['bsszoo'])}, torch {one_line(versions['torch'])}"
        )
    say(f'Load it: bsszoo.create("hf-hub:{facts.repository}", pretrained=True)')


hub_app.command("show", cls=Command)(quietly(show_command))


def _names(names: tuple[str, ...]) -> str:
    """File names of a repository in a sentence: the first twenty, and how many more."""
    more = f", and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(one_line(name) for name in names[:20]) + more
