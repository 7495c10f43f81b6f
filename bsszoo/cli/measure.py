"""``bsszoo measure``: how fast networks are on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bsszoo.cli.console import JsonOption, show_json

if TYPE_CHECKING:
    from bsszoo.latency.measure import Speed


def measure_command(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NETWORK...",
            show_default=False,
            help="Names of `bsszoo list`, codes' texts, weights files, trainings' folders or hf-hub:ORG/NAME.",
        ),
    ],
    engines: Annotated[
        str,
        typer.Option(
            metavar="A,B", help="eager (PyTorch), compile (torch.compile), onnx (onnxruntime), openvino, litert."
        ),
    ] = "eager,compile,onnx",
    batch: Annotated[int, typer.Option(metavar="N", help="Images at a time.")] = 1,
    image_size: Annotated[
        int | None, typer.Option("--image-size", metavar="PX", show_default="each network's", help="Side of the input.")
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", help="CPU threads; 0 leaves the choice to PyTorch.")] = 0,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1.")] = "cpu",
    fp16: Annotated[bool, typer.Option("--fp16", help="Everything in float16.")] = False,
    processes: Annotated[
        int, typer.Option(metavar="N", help="Processes for each figure; an interval over them takes four.")
    ] = 5,
    seconds: Annotated[float, typer.Option(metavar="S", help="How long each process times forwards.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Measure how long a forward takes on this machine, and how much memory, with random weights.

    Every figure is over several processes that take turns; the interval, from four processes on, is where one more is
    expected. Five processes of three engines take two to three minutes for a network. Compare figures of one run, or of
    a quiet machine.

    Example:  bsszoo measure resnet50 resnet50_autobss --engines eager,onnx --threads 1
    """
    from bsszoo.cli.console import progress_console, say, show
    from bsszoo.latency.measure import measure
    from bsszoo.models.resolve import resolve
    from bsszoo.report.figures import sizes_differ
    from bsszoo.report.tables import speed_table

    console = progress_console()
    resolved = {name: resolve(name) for name in networks}
    named = [(name, network.classifier) for name, network in resolved.items()]
    for network in resolved.values():
        network.check_size()
    sizes = {name: (network.num_classes, network.in_chans) for name, network in resolved.items()}

    def report(done: int, total: int, what: str) -> None:
        console.print(f"{done}/{total} processes: {what}", markup=False, soft_wrap=not console.is_terminal)

    chosen = tuple(engine.strip() for engine in engines.split(",") if engine.strip())
    result = measure(
        named,
        engines=chosen,
        batch=batch,
        image_size=image_size,
        sizes=sizes,
        threads=threads,
        device=device,
        half=fp16,
        processes=processes,
        seconds=seconds,
        on_process=report,
    )
    if as_json:
        show_json(result.to_dict())
        return
    show(speed_table(result.rows))
    thread_count = f", {result.threads} thread{'' if result.threads == 1 else 's'}" if result.threads else ""
    say(
        f"{result.where}{thread_count}, batch {result.batch}, {'float16' if result.half else 'float32'}, "
        f"{result.processes} processes; " + ", ".join(f"{name} {v}" for name, v in result.versions.items()),
        f"Median: of the processes' medians. {_spread(result.rows)} p90, p99: of all forwards. First: the first "
        "forward, with what compiles in it. Memory: the most that the network and its forwards took, beyond PyTorch "
        "itself.",
    )
    if differ := sizes_differ(row.image_size for row in result.rows):
        say(f"{differ} --image-size PX measures all of them at one.")
    for row in result.rows:
        if row.error:
            say(f"{row.network}, {row.engine}: not measured ({row.error})")


def _spread(rows: Sequence[Speed]) -> str:
    """What the column beside the median holds."""
    from bsszoo.latency.measure import LEAST_PROCESSES

    if any(row.low is not None for row in rows):
        return "95%: where one more process's median is expected."
    return f"Range: the lowest and the highest of them; an interval takes {LEAST_PROCESSES} processes."
