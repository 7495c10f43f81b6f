"""``bsszoo latency-table``: the times of a network's blocks on this machine, made and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bsszoo.cli.console import JsonOption

if TYPE_CHECKING:
    from bsszoo.spaces.limits import LatencyTable


def latency_table_command(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK|FILE",
            show_default=False,
            help="What is to be compressed, as for `bsszoo compress`; or a table's file, which is shown.",
        ),
    ],
    flops: Annotated[
        str | None,
        typer.Option(
            "--flops",
            metavar="MACS",
            show_default=False,
            help="For a network without weights: the budget, from which the grid of its codes follows.",
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", metavar="PX", show_default="the network's", help="Side of the input.")
    ] = None,
    divisor: Annotated[
        str | None,
        typer.Option(metavar="N|none", show_default="8", help="What widths are multiples of; as for `compress`."),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", help="CPU threads.", min=1)] = 1,
    batch: Annotated[int, typer.Option(metavar="N", help="Images at a time.", min=1)] = 1,
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="What runs the blocks: pytorch, onnxruntime, openvino or litert.")
    ] = "pytorch",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", show_default=False, help="Write the table here too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time the blocks that a network's smaller versions are made of, on this machine, and show the table.

    `bsszoo compress --latency 60%` makes the same table by itself. Make one here to look at it, or on the device that
    the network is for: `bsszoo compress --latency-table FILE` takes it on another machine.

    Examples:

      bsszoo latency-table runs/mine --threads 4 --out pi.json

      bsszoo latency-table mobilenetv2 --flops 130M

      bsszoo latency-table my.pth --runtime onnxruntime

      bsszoo latency-table pi.json
    """
    from dataclasses import replace

    from bsszoo.cli.console import progress_console, say, show
    from bsszoo.cli.training_progress import Bars
    from bsszoo.codes.cost import code_cost
    from bsszoo.compression.budget import parse_amount
    from bsszoo.compression.plan import budget_space
    from bsszoo.errors import SettingsError
    from bsszoo.latency.runtimes import runtime_of
    from bsszoo.latency.table import kept_table
    from bsszoo.models.resolve import resolve
    from bsszoo.options import GridOptions
    from bsszoo.report.tables import latency_blocks
    from bsszoo.spaces.limits import LatencyTable
    from bsszoo.spaces.space import DIVISOR, Space

    if Path(network).suffix.lower() in (".json", ".csv"):
        table = LatencyTable.load(network)
        if as_json:
            typer.echo(table.text())
            return
        show(latency_blocks(table))
        if measured := _measured(table):
            say(measured)
        return
    runtime_of(runtime)
    found, multiple = resolve(network), GridOptions(divisor=divisor)
    if found.detector is not None:
        raise SettingsError("Latencies of detectors are not measured; give the network alone that stands below it.")
    code = found.code if image_size is None else replace(found.code, image_size=image_size)
    if found.source is None:
        own = code_cost(code).macs
        macs = own if flops is None else parse_amount(flops, of=own, what="--flops")
        space = budget_space(code, macs, divisor=multiple.divisor_or(DIVISOR))
    else:
        width = multiple.divisor_or(DIVISOR) or 1
        space = Space.subnetworks(code, divisor=width, num_classes=found.num_classes, in_chans=found.in_chans)
    bars = Bars(progress_console())

    def report(done: int, total: int) -> None:
        bars.show("latency", done, total, unit="timings", words="")

    try:
        table = kept_table(space, code, batch=batch, threads=threads, on_block=report, note=bars.say, runtime=runtime)
    finally:
        bars.close()
    if out is not None:
        table.save(out)
        bars.say(f"Written to {out}")
    if as_json:
        typer.echo(table.text())
        return
    show(latency_blocks(table))
    sizes = {"num_classes": space.num_classes, "in_chans": space.in_chans}
    say(f"By it {code} takes {table.of(code, **sizes):.4g} ms.")


def _measured(table: LatencyTable) -> str:
    """How a table was measured, as far as its file says so."""
    from bsszoo.texts import one_line

    notes = {key: one_line(str(value), 80) for key, value in table.notes.items()}
    if "processor" not in notes:
        return ""
    name = notes.get("runtime", "pytorch")
    version = notes.get("runtime_version", notes.get("torch", ""))
    return f"{name} {version} on {notes['processor']}, threads: {notes.get('threads')}, batch: {notes.get('batch')}."
