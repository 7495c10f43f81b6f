"""The program of a measuring process of ``bsszoo measure``: it reads a task from stdin and writes the results."""

from __future__ import annotations

import json
import platform
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from bsszoo.errors import SettingsError
from bsszoo.latency.runtimes import engine_of, network_to_time
from bsszoo.latency.timer import time_forwards

# Bytes of a unit of ``ru_maxrss``: kilobytes on Linux, bytes on macOS.
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


def measure_here(task: dict[str, Any]) -> dict[str, Any]:
    """Measure one network on one engine in this process.

    Args:
        task: ``code``, ``engine`` (a name of ``latency.runtimes``), ``batch``, ``size`` [px], ``in_chans``,
            ``num_classes``, ``threads`` (0: torch's default), ``device``, ``half``, ``seconds``, ``file`` (of the
            exported network).

    Returns:
        ``times`` of each forward [ms], ``warm_ms`` of the first one, compilation included, ``memory`` [bytes] that the
        network and its forwards took at most, ``threads``, ``where``, and the runtime's ``version``.
    """
    import torch

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    runtime = engine_of(task["engine"])
    device = torch.device(task["device"])
    gpu = device.type == "cuda"
    import_module(runtime.modules[-1])  # before memory is counted, as PyTorch is
    before = _start_of_peak(torch, device)
    network, images = _network(task) if runtime.export is None else (task["file"], _images(task))
    forward = runtime.load(network, images, torch.get_num_threads())
    (latency,) = time_forwards(
        [forward], device=device, seconds=task["seconds"], least=5, most=20_000, warm_up=11 if gpu else 3
    )
    where = torch.cuda.get_device_name(device) if gpu else f"CPU {processor()}"
    return {
        "times": latency.times,
        "warm_ms": latency.warm_ms,
        "memory": max(0, _peak(torch, device) - before),
        "threads": 0 if gpu else torch.get_num_threads(),
        "where": where,
        "version": runtime.version,
    }


def export_here(task: dict[str, Any]) -> dict[str, Any]:
    """Write the network of a task as a file of its engine's, for the processes that measure it."""
    runtime = engine_of(task["engine"])
    runtime.check()
    if task["device"] != "cpu" or task["half"]:
        raise RuntimeError(f"{runtime.name} is measured on the CPU in float32 only")
    assert runtime.export is not None
    Path(task["file"]).write_bytes(runtime.export(*_network(task)))
    return {}


def _network(task: dict[str, Any]) -> tuple[Any, Any]:
    """The network in evaluation mode, and images for it."""
    import torch

    from bsszoo.codes.code import Code

    torch.manual_seed(0)
    images = _images(task)
    network = network_to_time(Code.parse(task["code"]), num_classes=task["num_classes"], in_chans=task["in_chans"])
    return network.to(images.device, images.dtype), images


def _images(task: dict[str, Any]) -> Any:
    import torch

    images = torch.randn(task["batch"], task["in_chans"], task["size"], task["size"])
    return images.to(task["device"], torch.float16 if task["half"] else torch.float32)


def _start_of_peak(torch: Any, device: Any) -> int:
    """The memory in use now; where the system allows it, the peak is counted from here, without what imports took."""
    if device.type == "cuda":
        torch.cuda.init()  # a device with a number has no statistics before
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS") or _peak(torch, device)
    return _peak(torch, device)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _peak(torch: Any, device: Any) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        return _status("VmHWM")
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def processor() -> str:
    """The CPU's name on screen."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure what stdin asks for; the last line of stdout is the result."""
    task = json.loads(sys.stdin.read())
    try:
        result = export_here(task) if task["export"] else measure_here(task)
    except SettingsError as error:
        result = {"error": str(error)}
    except Exception as error:  # the table says why this engine has no figure
        result = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
