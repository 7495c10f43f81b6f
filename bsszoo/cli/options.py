"""Options that are fields of frozen dataclasses (``bsszoo.options``), as options of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field
from typing import Annotated, Any

import typer

from bsszoo.options import options_of


def with_options(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command with ``**options`` the options of dataclasses."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        declared = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [_parameter(name, field) for name, field in options_of(*groups).items()]
        command.__signature__ = signature.replace(parameters=[*declared, *added])  # type: ignore[attr-defined]
        return command

    return decorated


def _parameter(name: str, field: Field[Any]) -> inspect.Parameter:
    about, flag = field.metadata, f"--{name.replace('_', '-')}"
    kind: Any = about["kind"]
    flags = (f"{flag}/--no-{name}",) if field.default is True else (flag,)
    option = typer.Option(*flags, metavar=about["metavar"], show_default=about["display"], help=about["help"])
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    annotation: Any = Annotated[kind | None if default is None else kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
