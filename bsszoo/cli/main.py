"""The ``bsszoo`` command: parse, call, print. Exit codes: 0 done, 1 run failed, 2 the user's mistake, 130 Ctrl-C."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from bsszoo.cli import compress, export, hub, latency_table, measure, models, predict, report, train
from bsszoo.cli.console import message
from bsszoo.cli.help import WIDTH, Command, Group
from bsszoo.cli.options import quietly
from bsszoo.errors import AssumptionWarning, BssZooError, RunError, StoppedError, WeightsError
from bsszoo.version import __version__

app = typer.Typer(
    name="bsszoo",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    help="Make a trained vision network smaller, under a budget of multiply-adds, parameters or latency; and a zoo of "
    "networks by how their blocks are stacked.\n\n"
    "Start with: bsszoo compress my.pth --flops 50% --data pictures",
    epilog="A code is a zoo name (bsszoo list), a text such as "
    "mobilenetv2_c24-40-64-96-120-240_l4-3-2-3-6-2_t3-6-6-3-6-6, or the paper's form in quotes: "
    "'mobilenetv2{24,40,64,96,120,240,4,3,2,3,6,2,3,6,6,3,6,6}'.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"bsszoo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Compress": {
        "compress": compress.compress_command,
        "report": report.report_command,
        "latency-table": latency_table.latency_table_command,
    },
    "Networks": {
        "list": models.list_command,
        "show": models.show_command,
        "cost": models.cost_command,
        "measure": measure.measure_command,
        "export": export.export_command,
    },
    "Training": {
        "recipe": train.recipe_command,
        "train": train.train_command,
        "validate": train.validate_command,
        "predict": predict.predict_command,
    },
    "Hub": {"push": hub.push_command, "pull": hub.pull_command},
}
for _group, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=Command, rich_help_panel=_group)(quietly(_command))
app.add_typer(hub.hub_app, name="hub", rich_help_panel="Hub")


_usual_warning = warnings.showwarning


def _show_warning(text: Warning | str, kind: type[Warning], *where: Any) -> None:
    """A warning of ours as a note, of others as Python shows it."""
    if issubclass(kind, AssumptionWarning):
        message(f"Note: {text}")
    else:
        _usual_warning(text, kind, *where)


def main() -> None:
    """Run the command line; an error of ours becomes one text on stderr and an exit code."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        app()
    except StoppedError as error:
        message(f"bsszoo: {error}")
        sys.exit(128 + error.signal)
    except BssZooError as error:
        message(f"bsszoo: {error}")
        sys.exit(1 if isinstance(error, (RunError, WeightsError)) else 2)
    except KeyboardInterrupt:
        # The commands that save results have printed what was saved.
        sys.exit(130)
    except OSError as error:
        message(f"bsszoo: {error.strerror or error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
