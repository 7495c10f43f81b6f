"""The timer of everything that is measured here, and with it the latency of whole networks on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bsszoo.codes.code import Code
from bsszoo.formats import format_of
from bsszoo.latency.runtimes import DEFAULT, RUNTIMES, network_to_time, runtime_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of one forward [ms] in order, of the first one, and where it was measured."""

    times: tuple[float, ...]
    warm_ms: float
    where: str

    @property
    def median_ms(self) -> float:
        """The median time."""
        return statistics.median(self.times)

    @property
    def low_ms(self) -> float:
        """The lower quartile."""
        return statistics.quantiles(self.times, n=4)[0]

    @property
    def high_ms(self) -> float:
        """The upper quartile."""
        return statistics.quantiles(self.times, n=4)[2]

    @property
    def runs(self) -> int:
        """The number of timed forwards."""
        return len(self.times)


def time_forwards(
    forwards: Sequence[Callable[[], object]],
    *,
    device: str | torch.device = "cpu",
    seconds: float = 0.0,
    least: int = 3,
    most: int = 200,
    warm_up: int = 2,
    again: bool = False,
) -> tuple[Latency, ...]:
    """Time callables that take turns, without gradients; what a GPU works on is waited for after each.

    Args:
        forwards: What to time; at least one.
        device: The torch device that they run on. On the CPU, PyTorch's number of threads is left as it is.
        seconds: How long to repeat the turns, the timed forwards of all together.
        least: Timed forwards of each however long they take.
        most: Timed forwards of each at most.
        warm_up: Forwards of each before any is timed, at least one; ``warm_ms`` is the first, compilation included.
        again: Run each once more before every timed forward, so that what the others drove out of the caches is back:
            a short forward's time depends on how many take turns else.
    """
    import torch

    device = torch.device(device)
    gpu = device.type != "cpu"

    def once(forward: Callable[[], object]) -> float:
        if gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        forward()
        if gpu:
            torch.cuda.synchronize(device)
        return 1e3 * (time.perf_counter() - start)

    with torch.inference_mode():
        warm = [[once(forward) for _ in range(warm_up)] for forward in forwards]
        turns: list[list[float]] = []
        end = time.perf_counter() + seconds
        while len(turns) < least or (len(turns) < most and time.perf_counter() < end):
            turns.append([(once(forward) if again else 0.0, once(forward))[1] for forward in forwards])
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name(device) if gpu else f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    return tuple(Latency(times, first[0], where) for times, first in zip(zip(*turns, strict=True), warm, strict=True))


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """PyTorch's threads on the CPU, within; 0 leaves them."""
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number or before)
        yield
    finally:
        torch.set_num_threads(before)


def measure_files(
    files: Sequence[Path],
    shape: tuple[int, ...],
    *,
    batch: int = 1,
    threads: int = 0,
    rounds: int = 200,
    budget_s: float = 20.0,
) -> tuple[Latency, ...]:
    """Time forwards of exported files by the runtime of their format on the CPU, which take turns.

    Args:
        files: Of one format, of networks with the same input.
        shape: That input's, without the batch: (c, h, w).
        batch, threads, rounds, budget_s: As ``measure_latencies``.
    """
    import torch

    format = format_of(files[0])
    with cpu_threads(threads):
        images = torch.randn(batch, *shape)
        forwards = [format.session(file, torch.get_num_threads()).bind(images.numpy()) for file in files]
        timed = time_forwards(forwards, seconds=budget_s, least=min(3, rounds), most=rounds, again=True)
    label = RUNTIMES[format.runtime].label
    return tuple(replace(latency, where=f"{label}, {latency.where}") for latency in timed)


def measure_latencies(
    codes: Sequence[Code],
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    batch: int = 1,
    threads: int = 0,
    rounds: int | None = None,
    budget_s: float = 20.0,
    runtime: str = DEFAULT,
    on_network: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Latency, ...]:
    """Time float32 forwards at each code's input size on the CPU, random weights, eager or of another runtime.

    The networks take turns, so that a machine that slows down slows them all: compare them with each other, and with
    other runs only on a quiet machine.

    Args:
        codes: The networks.
        num_classes, in_chans: Their outputs and input channels.
        batch: Images at a time.
        threads: CPU threads; 0 leaves PyTorch's.
        rounds: Timed forwards of each, by default 15, of another runtime than PyTorch, whose forwards are short, 200;
            fewer, but at least 3, when all would take longer than ``budget_s`` together.
        budget_s: Seconds the timed forwards may take.
        runtime: Such as ``onnxruntime``, to which the networks are exported.
        on_network: Called with the number of networks that are ready and of all, after each.

    Raises:
        SettingsError: There is no such runtime, or it is not installed.
    """
    import torch

    chosen = runtime_of(runtime)
    if rounds is None:
        rounds = 15 if chosen.export is None else 200
    exported = chosen.export is not None
    with cpu_threads(threads):
        forwards = []
        for code in codes:
            network = network_to_time(code, num_classes=num_classes, in_chans=in_chans)
            images = torch.randn(batch, in_chans, code.image_size, code.image_size)
            forwards.append(chosen.forward(network, images))
            on_network(len(forwards), len(codes))
        timed = time_forwards(forwards, seconds=budget_s, least=min(3, rounds), most=rounds, again=exported)
    if not exported:
        return timed
    return tuple(replace(latency, where=f"{chosen.label}, {latency.where}") for latency in timed)
