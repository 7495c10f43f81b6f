"""``bsszoo report``: the page of a search, finished or still running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bsszoo.cli.console import JsonOption, show_json


def report_command(
    storage: Annotated[
        str,
        typer.Argument(
            metavar="STORAGE",
            show_default=False,
            help="Where the study is: the folder of a run, the file of an SQLite or journal storage, or an "
            "Optuna URL (sqlite:///search.db, postgresql://user@host/db, journal:///shared/search.log, "
            "grpc://host:13000).",
        ),
    ],
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="Its name; needed when the storage holds several."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="report.html in a run's folder, else report_NAME.html here",
            help="The HTML file to write; an older one is replaced.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Open the study of a search by `bsszoo compress` again and write its report page.

    It is the page that the search writes at its end, one HTML file that needs no network; it can be written while the
    search runs, or after it was stopped. The study is only read. Other Optuna studies: optuna-dashboard URL.

    Examples:

      bsszoo report bsszoo-runs/mobilenetv2_130.0M_structural_seed0_9738d0

      bsszoo report postgresql://me@host/db --study mobilenet --out mobilenet.html

    To watch a running search: optuna-dashboard sqlite:///DIR/study.db
    """
    from bsszoo.cli.console import say
    from bsszoo.compression.reopen import report_study

    done = report_study(storage, study=study, out=out)
    if as_json:
        show_json(done)
        return
    say(f"Study: {done.study}, {done.trials}", f"Report: {done.path}")
