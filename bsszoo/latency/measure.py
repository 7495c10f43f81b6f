"""``measure``: how fast networks are on this machine, on each engine, reproducibly.

A forward's time varies within a process and from one process to the next: memory lies elsewhere, the machine is
warmer, others work. So each figure is the median over several processes, each of which times many forwards, and the
processes of all networks take turns. The interval says within which the median of one more process is expected; of
fewer than four processes there is none, and the lowest and the highest median stand instead.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bsszoo.codes.code import Code
from bsszoo.codes.cost import Cost, check_arguments, checked_size, code_cost
from bsszoo.errors import RunError, SettingsError, formatted
from bsszoo.latency.runtimes import engine_of

#: Processes from which on an interval says something: of two or three it may reach from 1 ms to 2 s.
LEAST_PROCESSES: Final = 4
#: The engines where none are chosen.
DEFAULT: Final = ("eager", "compile", "onnx")
_TIMEOUT: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Speed:
    """A network on an engine: times of one forward [ms], over all processes.

    ``image_size`` is the side of the input [px]. ``low`` to ``high`` is the interval in which the median of one more
    process is expected with 95%, None with fewer than four processes; ``lowest`` to ``highest`` is the range of the
    processes' medians. ``memory`` is the most that the network and its forwards took [bytes], the median over
    processes; ``warm_ms`` the first forward, compilation included. ``error`` says why there are no figures.
    """

    network: str
    code: str
    engine: str
    cost: Cost
    image_size: int
    median: float | None = None
    low: float | None = None
    high: float | None = None
    lowest: float | None = None
    highest: float | None = None
    p10: float | None = None
    p90: float | None = None
    p99: float | None = None
    warm_ms: float | None = None
    memory: int | None = None
    images_per_s: float | None = None
    forwards: int = 0
    processes: int = 0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            **asdict(self),
            "cost": {
                "macs": self.cost.macs,
                "two_x_macs": self.cost.macs2,
                "params": self.cost.params,
                "activations": self.cost.activations,
            },
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """All figures, and where and how they were measured."""

    rows: tuple[Speed, ...]
    where: str
    threads: int
    batch: int
    size: int | None
    half: bool
    processes: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "where": self.where,
            "threads": self.threads,
            "batch": self.batch,
            "image_size": self.size,
            "precision": "float16" if self.half else "float32",
            "processes": self.processes,
            "versions": self.versions,
            "networks": [row.to_dict() for row in self.rows],
        }


def measure(
    networks: Sequence[tuple[str, Code]],
    *,
    engines: Sequence[str] = DEFAULT,
    batch: int = 1,
    image_size: int | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    threads: int = 0,
    device: str = "cpu",
    half: bool = False,
    processes: int = 5,
    seconds: float = 2.0,
    on_process: Callable[[int, int, str], None] = lambda *_: None,
) -> Measured:
    """Time the forwards of networks with random weights; weights do not change how long a forward takes.

    Args:
        networks: Names for the table, with their codes.
        engines: Of ``eager`` (PyTorch), ``compile`` (torch.compile), and on the CPU in float32 ``onnx`` (onnxruntime),
            ``openvino`` and ``litert``; ``pytorch`` and ``onnxruntime`` are names of theirs too.
        batch: Images at a time.
        image_size: Side of the input [px]; each network's by default.
        sizes: Outputs of the classifier and channels of the input of each network by its name; 1000 and 3 by default.
        threads: CPU threads; 0 leaves the choice to PyTorch.
        device: ``cpu``, ``cuda``, ``cuda:1``. GPUs are warmed up and waited for.
        half: Everything in float16.
        processes: Processes for each network and engine.
        seconds: How long each times forwards, at least five of them.
        on_process: Called before each process with how many are done, of how many, and what is measured.

    Raises:
        SettingsError: A setting makes no sense.
        CodeError: A size that no network can have.
        RunError: Nothing could be measured.
    """
    _check(engines, batch, threads, processes, seconds)
    size_of = {name: (sizes or {}).get(name, (1000, 3)) for name, _ in networks}
    for classes, channels in size_of.values():
        check_arguments(classes, channels)
    if image_size is not None:
        checked_size(image_size)
    pairs = [(name, code, engine) for name, code in networks for engine in engines]
    runs: list[list[dict[str, Any]]] = [[] for _ in pairs]
    with tempfile.TemporaryDirectory(prefix="bsszoo-measure-") as scratch:
        for turn in range(processes):
            for index, (name, code, engine) in enumerate(pairs):
                on_process(turn * len(pairs) + index, processes * len(pairs), f"{name}, {engine}")
                if runs[index] and "error" in runs[index][0]:
                    continue  # a second try would fail too
                task = {
                    "code": str(code),
                    "engine": engine,
                    "batch": batch,
                    "size": image_size or code.image_size,
                    "num_classes": size_of[name][0],
                    "in_chans": size_of[name][1],
                    "threads": threads,
                    "device": device,
                    "half": half,
                    "seconds": seconds,
                    "file": f"{scratch}/{index}",
                    "export": False,
                }
                # The exporter needs more memory than what it writes: it runs once, in a separate process.
                exported = engine_of(engine).export is not None and turn == 0
                failed = _process({**task, "export": True}) if exported else {}
                runs[index].append(failed if "error" in failed else _process(task))
    rows = []
    for (name, code, engine), of_pair in zip(pairs, runs, strict=True):
        cost = code_cost(code, image_size, num_classes=size_of[name][0], in_chans=size_of[name][1])
        rows.append(_row(name, code, engine, cost, image_size or code.image_size, batch, of_pair))
    good = [one for of_pair in runs for one in of_pair if "error" not in one]
    if not good:
        raise RunError(f"Nothing could be measured. {rows[0].engine}: {rows[0].error}")
    versions = _versions() | {
        engine_of(engine).name: one["version"]
        for (_, _, engine), of_pair in zip(pairs, runs, strict=True)
        for one in of_pair
        if "error" not in one and engine_of(engine).export is not None
    }
    return Measured(tuple(rows), good[0]["where"], good[0]["threads"], batch, image_size, half, processes, versions)


def _row(
    name: str, code: Code, engine: str, cost: Cost, size: int, batch: int, runs: Sequence[dict[str, Any]]
) -> Speed:
    if "error" in runs[0]:
        return Speed(name, str(code), engine, cost, size, error=runs[0]["error"])
    runs = [one for one in runs if "error" not in one]
    medians = [statistics.median(one["times"]) for one in runs]
    low, high = next_median(medians)
    times = sorted(time for one in runs for time in one["times"])
    middle = statistics.median(medians)
    return Speed(
        name,
        str(code),
        engine,
        cost,
        size,
        median=middle,
        low=low,
        high=high,
        lowest=min(medians),
        highest=max(medians),
        p10=_share(times, 0.1),
        p90=_share(times, 0.9),
        p99=_share(times, 0.99),
        warm_ms=statistics.median(one["warm_ms"] for one in runs),
        memory=round(statistics.median(one["memory"] for one in runs)),
        images_per_s=1e3 * batch / middle,
        forwards=len(times),
        processes=len(runs),
    )


def next_median(medians: Sequence[float]) -> tuple[float | None, float | None]:
    """The interval in which the median of one more process lies with 95%, if their logarithms are normal.

    Student's prediction interval: mean +- t(n - 1) s sqrt(1 + 1/n) of the logarithms, as times are slowed by factors.
    None and None of fewer than ``LEAST_PROCESSES``.
    """
    if len(medians) < LEAST_PROCESSES:
        return None, None
    from scipy.stats import t

    logs = [math.log(value) for value in medians]
    n, mean = len(logs), statistics.fmean(logs)
    reach = float(t.ppf(0.975, n - 1)) * statistics.stdev(logs) * math.sqrt(1 + 1 / n)
    return math.exp(mean - reach), math.exp(mean + reach)


def _share(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, math.ceil(share * len(times)) - 1)]


def _process(task: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bsszoo.latency.engines"],
            input=json.dumps(task),
            text=True,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {_TIMEOUT / 60:.0f} minutes"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        lines = done.stderr.strip().splitlines()
        how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        return {"error": f"its process was {how}: {lines[-1] if lines else 'it printed nothing'}"[:300]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def _check(engines: Sequence[str], batch: int, threads: int, processes: int, seconds: float) -> None:
    for engine in engines:
        engine_of(engine)
    if not engines:
        raise SettingsError(f"--engines names none; it takes some such as {','.join(DEFAULT)}.")
    for name, value, least in (("--batch", batch, 1), ("--threads", threads, 0), ("--processes", processes, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SettingsError(f"{name} is {formatted(value)}; it takes an integer from {least}.")
    if not 0 <= seconds <= 3600:
        raise SettingsError(f"--seconds is {formatted(seconds)}; it takes a number from 0 to 3600.")


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    from bsszoo.version import __version__

    return {
        "python": platform.python_version(),
        "bsszoo": __version__,
        **{name: version(name) for name in ("torch", "timm")},
    }
