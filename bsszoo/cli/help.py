"""How the help is laid out: options and commands in groups, and hints for options that other tools have."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

#: Widest lines of a help text, on a terminal that has them.
WIDTH: Final = 120
#: What others call an option, or a near miss, and what it is called here. Of those that a command has, one is named;
#: where that is another one in a command, its name comes first.
_SYNONYMS: Final = {
    "--macs": ("--flops",),
    "--mac": ("--flops",),
    "--flop": ("--flops",),
    "--gflops": ("--flops",),
    "--budget": ("--flops",),
    "--ratio": ("--flops",),
    "--parameters": ("--params",),
    "--time": ("--latency",),
    "--no-latency": ("--no-measure",),
    "--lr": ("--set",),
    "--learning-rate": ("--set",),
    "--batch-size": ("--set", "--batch"),
    "validate --batch-size": ("--batch",),
    "validate --lr": (),
    "validate --learning-rate": (),
    "--iterations": ("--trials",),
    "--n-trials": ("--trials",),
    "--samples": ("--trials",),
    "--output": ("--out",),
    "--output-dir": ("--out",),
    "--dir": ("--out",),
    "--dataset-dir": ("--data",),
    "--data-dir": ("--data",),
    "--images": ("--data",),
    "--resolution": ("--image-size",),
    "--img-size": ("--image-size",),
    "--input-size": ("--image-size",),
    "--size": ("--image-size",),
    "--checkpoint": ("--weights",),
    "--pretrained": ("--weights",),
    "--half": ("--fp16",),
    "--jobs": ("--workers",),
    "--gpu": ("--device",),
    "--verbose": (),
}
# The base of click's errors of use; typer brings its own copy of click from some version on.
_UsageError: Any = typer.BadParameter.__base__


def _styled(text: str, **style: Any) -> str:
    """A text in colour on a terminal, unless NO_COLOR asks for none (https://no-color.org)."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else typer.style(text, **style)


def _write(formatter: Any, sections: dict[str, list[tuple[str, str]]], *, colour: str) -> None:
    """Named lists of definitions, each a section."""
    for title, rows in sections.items():
        with formatter.section(_styled(title, bold=True)):
            formatter.write_dl([(_styled(name, fg=colour), text) for name, text in rows])


class Command(TyperCommand):
    """A command whose options are listed by group (``rich_help_panel``), and that knows other tools' names of them."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, groups of options in the order of the signature, and the rest."""
        sections: dict[str, list[tuple[str, str]]] = {}
        last: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            group = getattr(param, "rich_help_panel", None)
            if param.param_type_name == "argument":
                sections.setdefault("Arguments", []).append(record)
            elif group is None:
                last.append(record)
            else:
                sections.setdefault(group, []).append(record)
        _write(
            formatter, sections | ({"Options" if len(sections) < 2 else "Other": last} if last else {}), colour="cyan"
        )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click's, with our names for options of other tools."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            wanted = getattr(error, "option_name", None)
            mine = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
            ours = _SYNONYMS.get(f"{ctx.info_name} {wanted}", _SYNONYMS.get(str(wanted)))
            if ours is not None and hasattr(error, "possibilities"):
                error.possibilities = [name for name in ours if name in mine][:1] or error.possibilities
            raise


class Group(TyperGroup):
    """Commands that are listed by group (``rich_help_panel``)."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Options, then commands."""
        rows = [record for param in self.get_params(ctx) if (record := param.get_help_record(ctx)) is not None]
        self.format_commands(ctx, formatter)
        _write(formatter, {"Options": rows}, colour="cyan")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Commands with their summaries, whole."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self._shown(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            group = getattr(command, "rich_help_panel", None) or "Commands"
            sections.setdefault(group, []).append((name, command.get_short_help_str(limit=200)))
        _write(formatter, sections, colour="cyan")

    def _shown(self, ctx: Any) -> Iterable[str]:
        return (n for n in self.list_commands(ctx) if (c := self.get_command(ctx, n)) is not None and not c.hidden)
