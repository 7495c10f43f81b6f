"""Options that are fields of frozen dataclasses (``bsszoo.options``), as options of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Annotated, Any

import typer

from bsszoo.cli.console import be_quiet
from bsszoo.errors import SettingsError, close_matches
from bsszoo.options import options_of

TrackOption = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="SERVICE",
        show_default=False,
        help="Log to wandb, mlflow or trackio too, as their environment variables say (extras of bsszoo).",
    ),
]

CodeOption = Annotated[
    str | None,
    typer.Option(
        "--code",
        metavar="NAME_OR_CODE",
        show_default=False,
        help="The network of a weights file, where its shapes do not determine it.",
    ),
]


def with_options(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command with ``**options`` the options of dataclasses."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        declared = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            _parameter(name, field, field.metadata["group"] or group.TITLE)  # type: ignore[attr-defined]
            for group in groups
            for name, field in options_of(group).items()
        ]
        command.__signature__ = signature.replace(parameters=[*declared, *added])  # type: ignore[attr-defined]
        return command

    return decorated


def quietly(command: Callable[..., None]) -> Callable[..., None]:
    """A command with ``--quiet``."""
    signature = inspect.signature(command, eval_str=True)
    option = typer.Option("--quiet", "-q", help="Neither progress nor notes: only results, and errors.")
    quiet = inspect.Parameter(
        "quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )

    @functools.wraps(command)
    def run(*, quiet: bool = False, **given: Any) -> None:
        be_quiet(quiet)
        command(**given)

    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), quiet])  # type: ignore[attr-defined]
    return run


def read_config(context: typer.Context, file: Path | None) -> Path | None:
    """The callback of ``--config``: a YAML file's values become the defaults of the command's options.

    Raises:
        SettingsError: The file cannot be read, is no mapping, or has a name that no option has.
    """
    if file is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise SettingsError(f"--config {file} cannot be read: {why}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--config {file} holds no options by name, such as flops: 50%.")
    # An option by its flag's name and its parameter's.
    known = {
        spelling: parameter.name
        for parameter in context.command.params
        if parameter.name not in ("config", "quiet", "help")
        for spelling in (parameter.name, *(flag.lstrip("-") for flag in parameter.opts))
        if spelling is not None
    }
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = known.get(str(key)) or known.get(str(key).replace("_", "-"))
        if name is None:
            valid = {parameter.opts[0].lstrip("-") for parameter in context.command.params if parameter.name in known}
            raise SettingsError(f"--config {file}: there is no option {key!r}.{close_matches(str(key), valid)}")
        many = isinstance(value, list) and name != "assignments"
        defaults[name] = ",".join(map(str, value)) if many else value
    context.default_map = defaults
    return file


def _parameter(name: str, field: Field[Any], group: str) -> inspect.Parameter:
    about, flag = field.metadata, field.metadata["flag"] or f"--{name.replace('_', '-')}"
    kind: Any = about["kind"]
    flags = (f"{flag}/--no-{name}",) if field.default is True else (flag,)
    option = typer.Option(
        *flags, metavar=about["metavar"], show_default=about["display"], help=about["help"], rich_help_panel=group
    )
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    if default == ():
        default = None  # of a list
    annotation: Any = Annotated[kind | None if default is None else kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
