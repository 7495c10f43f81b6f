"""Forwards on the device: ``bsszoo measure``, and a table of blocks beside whole networks."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

from on_gpu.steps import CheckError, Part, Row, Rows, Setting, Step

NETWORKS = ("resnet50", "resnet50_autobss", "mobilenetv2", "mobilenetv2_autobss")
TOY = "mobilenetv2_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_stem8_stage2-8x1_px32"


def measured(setting: Setting, rows: Rows) -> None:
    """``bsszoo measure``: each figure over several processes that take turns."""
    toy = setting.toy
    batch, half = (2, False) if toy else (64, setting.gpu)
    words = [sys.executable, "-m", "bsszoo", "measure", *((TOY,) if toy else NETWORKS), "--engines", "eager"]
    words += ["--batch", str(batch), "--device", setting.device, "--json"]
    words += ["--processes", "1" if toy else "4", "--seconds", "0.1" if toy else "0.5"]
    words += ["--threads", "1"] if toy else []
    words += ["--fp16"] if half else []

    def run() -> Row:
        print("$", *words, file=sys.stderr, flush=True)
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise CheckError(f"bsszoo measure ended with {done.returncode}")
        found = json.loads(done.stdout)
        return {"precision": "float16" if half else "float32", "batch": batch, "networks": found["networks"]}

    row = rows.keep("measure", run)
    for one in row["networks"]:
        rows.check(one["error"] is None, f"{one['network']}: {one['error']}")
    rows.end()


def blocks(setting: Setting, rows: Rows) -> None:
    """A latency table measured on the device, and what it predicts for networks that it was not fitted to."""
    rows.note("The table is of measure_latency_table(device=..), in Python: `bsszoo latency-table` is of a CPU.")
    rows.keep("table", lambda: _table(setting))


def _table(setting: Setting) -> Row:
    import torch

    from bsszoo.codes import Code, code_cost
    from bsszoo.compression.plan import budget_space
    from bsszoo.latency.runtimes import network_to_time
    from bsszoo.latency.table import measure_latency_table
    from bsszoo.latency.timer import time_forwards
    from bsszoo.models.names import resolve_code

    toy = setting.toy
    code = Code.parse(TOY) if toy else resolve_code("resnet18")
    space = budget_space(code, round(0.5 * code_cost(code).macs))
    batch, number = (2, 3) if toy else (64, 8)
    how = {"seconds_each": 0.0, "networks": 2} if toy else {"seconds_each": 0.02, "networks": 16}
    table = measure_latency_table(space, device=setting.device, batch=batch, threads=1 if toy else 0, **how)  # type: ignore[arg-type]
    # Drawn by another seed than those that the table was fitted to.
    codes = [space.code(row) for row in space.sample(number, 1)]
    images = torch.randn(batch, 3, code.image_size, code.image_size, device=setting.device)
    networks = [network_to_time(one, num_classes=1000, in_chans=3).to(setting.device) for one in codes]
    timed = time_forwards(
        [lambda network=network: network(images) for network in networks],  # type: ignore[misc]
        device=setting.device,
        seconds=0.2 if toy else 4.0,
        warm_up=3,
    )
    times = [one.median_ms for one in timed]
    return {
        "of": str(code),
        "batch": batch,
        "blocks": len(table),
        "measured_ms": times,
        "off": [table.of(one) / time - 1 for one, time in zip(codes, times, strict=True)],
    }


def table(rows: Sequence[Row]) -> list[str]:
    """Medians with their intervals, and the table's errors."""
    lines = [
        "| network | px | batch | median [ms] | 95% or range [ms] | images/s | memory [MB] | processes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        for one in row.get("networks", []):
            if one["error"] is not None:
                lines.append(f"| {one['network']} | {one['error']} | | | | | | |")
                continue
            low, high = (one[a] if one[a] is not None else one[b] for a, b in (("low", "lowest"), ("high", "highest")))
            lines.append(
                f"| {one['network']}, {row['precision']} | {one['image_size']} | {row['batch']} | {one['median']:.3f} "
                f"| {low:.3f} to {high:.3f} | {one['images_per_s']:,.0f} | {one['memory'] / 2**20:,.0f} "
                f"| {one['processes']} |"
            )
    for row in rows:
        if "off" in row:
            off, ms = [100 * one for one in row["off"]], statistics.median(row["measured_ms"])
            lines += [
                "",
                f"A table of {row['blocks']} blocks ({row['of']}, batch {row['batch']}, float32): beside {len(off)} "
                f"networks' measured times (median {ms:.3f} ms) it is off by {statistics.median(off):+.1f}% "
                f"({min(off):+.1f}% to {max(off):+.1f}%).",
            ]
    return lines


PART = Part(
    "latency", "Forwards", [Step("latency-measure", measured, 95, 300), Step("latency-table", blocks, 50, 180)], table
)
