"""Drawing candidates: seconds and memory for a million codes at small feasible shares, beside plain rejection.

    python benchmarks/candidates.py [--codes 1000000] [--family mobilenetv2 ..] [--share 1e-6 ..]

Prints a Markdown table. Each row is a process of its own. The limit on MACs of a row is the one that the stated share
of the space's codes keeps: found by counting, from the drawn share of nested limits. "Plain" is the time that drawing
from the whole space and throwing away would take for as many codes, from the share and the speed of its draws. CPU
seconds are the process's own, which other work on the machine does not lengthen as it does the wall's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np

from bsszoo.spaces import Limits, Space, cost_array, draw_candidates

FAMILIES = ("mobilenetv2", "resnet50", "efficientnet_b0")
SHARES = (1e-6, 1e-5, 1e-4, 1e-2)
HEAD = (
    "space",
    "codes",
    "limit [M MACs]",
    "share",
    "drawn",
    "ours [s]",
    "ours, CPU [s]",
    "peak [MB]",
    "maximal, CPU [s]",
    "plain, CPU [s]",
    "plain / ours, CPU",
)


def limit_with_share(space: Space, share: float) -> tuple[int, float]:
    """The most MACs that about this share of a space's codes has, and the share."""
    codes = space.sample(400_000, 0)
    macs = cost_array(space, codes).macs
    reached, limit = 1.0, int(macs.max())
    # From limit to limit, each kept by at least a hundredth of the codes within the one before.
    while reached > share:
        part = max(share / reached, 0.01)
        tighter = int(np.quantile(macs, part))
        if tighter >= limit:  # few distinct sums are left
            break
        reached, limit = reached * float((macs <= tighter).mean()), tighter
        if reached <= share * 1.05:
            break
        drawn = draw_candidates(space, Limits(max_macs=limit), 100_000, 0)
        assert drawn is not None
        assert drawn.macs is not None
        macs = drawn.macs
    return limit, reached


def peak_mb() -> float:
    """The most memory that this process has held [MB]; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


def measure(family: str, limit: int, codes: int) -> dict[str, float]:
    """Draw once in this process; and time plain draws."""
    space = Space.of(family)
    before = peak_mb()
    start, cpu = time.perf_counter(), time.process_time()
    found = draw_candidates(space, Limits(max_macs=limit), codes, 0)
    seconds, cpu, peak = time.perf_counter() - start, time.process_time() - cpu, peak_mb()
    assert found is not None
    start = time.process_time()
    _ = found.maximal
    maximal = time.process_time() - start
    start = time.process_time()
    for seed in range(4):
        _ = cost_array(space, space.sample(50_000, seed)).macs <= limit
    return {
        "drawn": len(found),
        "seconds": seconds,
        "cpu": cpu,
        "peak": peak,
        "own": peak - before,
        "maximal": maximal,
        "plain_each": (time.process_time() - start) / 200_000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--family", nargs="+", default=list(FAMILIES))
    parser.add_argument("--share", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--one", nargs=2, metavar=("FAMILY", "LIMIT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]), given.codes)))
        return
    print("| " + " | ".join(HEAD) + " |")
    print("|---" + "|---:" * (len(HEAD) - 1) + "|")
    for family in given.family:
        space = Space.of(family)
        for share in given.share:
            limit, reached = limit_with_share(space, share)
            command = [sys.executable, __file__, "--codes", str(given.codes), "--one", family, str(limit)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            plain = row["plain_each"] * row["drawn"] / reached
            cells = (
                family,
                f"{space.size:.2g}",
                f"{limit / 1e6:.1f}",
                f"{reached:.1e}",
                f"{row['drawn']:,}",
                f"{row['seconds']:.1f}",
                f"{row['cpu']:.1f}",
                f"{row['peak']:.0f}",
                f"{row['maximal']:.1f}",
                f"{plain:,.0f}",
                f"{plain / row['cpu']:,.0f}",
            )
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
