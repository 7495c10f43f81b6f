"""How long ``import bsszoo`` and ``bsszoo --help`` take, as whole processes.

    python benchmarks/startup.py --runs 31

Prints a Markdown table. Each round runs every command once, in an order that turns from round to round, so that a
machine that slows down or speeds up does so for all of them. Commands start outside the checkout: what is timed is
the installed package, its compiled files already written.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def commands() -> dict[str, list[str]]:
    """What is timed, by the name in the table."""
    python = sys.executable
    out = {
        "`python -c pass`": [python, "-c", "pass"],
        "`import numpy`": [python, "-c", "import numpy"],
        "`import bsszoo`": [python, "-c", "import bsszoo"],
        '`bsszoo.cost("resnet50_autobss")`': [python, "-c", "import bsszoo; bsszoo.cost('resnet50_autobss')"],
    }
    # The environment's own script: not resolved, because a virtual environment's python is a link out of it.
    script = shutil.which("bsszoo", path=str(Path(python).parent))
    tool = [script] if script else [python, "-m", "bsszoo.cli.main"]
    return out | {"`bsszoo --help`": [*tool, "--help"]}


def seconds(command: list[str], folder: str) -> float:
    """Wall time of one process [s]; a command that fails ends the benchmark."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with code {done.returncode}:\n{done.stderr}")
    return took


def machine() -> str:
    """The processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        models = [line.split(":", 1)[1].strip() for line in listing.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=31, help="runs of each command (default 31)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be at least 1")
    table = commands()
    times: dict[str, list[float]] = {name: [] for name in table}
    with tempfile.TemporaryDirectory() as folder:
        for command in table.values():
            seconds(command, folder)  # disk caches and compiled files, not counted
        names = list(table)
        for i in range(runs):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                times[name].append(seconds(table[name], folder))
    base = statistics.median(times["`import numpy`"])
    print(f"{machine()}; Python {platform.python_version()}; {runs} runs of each, interleaved\n")
    print("| process | median [ms] | quartiles [ms] | fastest [ms] | times `import numpy` |")
    print("|---|---:|---:|---:|---:|")
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4) if runs > 1 else taken * 3
        print(
            f"| {name} | {1e3 * median:.0f} | {1e3 * low:.0f} to {1e3 * high:.0f} | {1e3 * min(taken):.0f} "
            f"| {median / base:.2f} |"
        )


if __name__ == "__main__":
    main()
