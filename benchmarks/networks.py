"""How long our networks take to create, to run forward and to train a step, against timm's own of the same code.

    python benchmarks/networks.py --image-size 224 --batch 4 --repeats 15 --threads 1

Prints a Markdown table: the median over pairs of (our time / timm's time) with the middle half of the pairs, and our
median time. The two networks of an architecture hold the same weights and take turns, and who goes first turns from
pair to pair, so that a machine that slows down or speeds up does so for both. The goal is a ratio of at most 1.05.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

import bsszoo
from bsszoo.models.names import ModelEntry, entries, find

Action = Callable[[], object]


def seconds(action: Action, device: torch.device, calls: int) -> float:
    """Time of one call [s], averaged over ``calls``: of the processor for one CPU thread, else by the clock."""

    def settled() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        # With one thread, the time that this process worked: on a shared machine, others' work is not ours to count.
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    start = settled()
    for _ in range(calls):
        action()
    return (settled() - start) / calls


def pairs(ours: Action, theirs: Action, device: torch.device, repeats: int) -> list[tuple[float, float]]:
    """(our time, timm's time) [s] of each pair, after one untimed call of each."""
    ours()
    once = max(seconds(theirs, device, 1), 1e-6)
    # Short actions are repeated until a timing takes a tenth of a second: shorter ones measure the clock.
    calls = max(1, round(0.1 / once))
    out = []
    for i in range(repeats):
        gc.collect()
        gc.disable()  # a collection would fall on one of the two
        if i % 2:
            b = seconds(theirs, device, calls)
            a = seconds(ours, device, calls)
        else:
            a = seconds(ours, device, calls)
            b = seconds(theirs, device, calls)
        gc.enable()
        out.append((a, b))
    return out


def forward(net: nn.Module, images: torch.Tensor) -> Action:
    """One evaluation of a batch."""

    def action() -> None:
        with torch.inference_mode():
            net(images)

    net.eval()
    return action


def train_step(net: nn.Module, images: torch.Tensor) -> Action:
    """One step of SGD on a batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def action() -> None:
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    net.train()
    return action


def measure(entry: ModelEntry, args: argparse.Namespace) -> list[str]:
    """The rows of one architecture, after a check that both networks give equal logits."""
    device = torch.device(args.device)
    name = entry.architecture
    theirs, ours = timm.create_model(name).to(device).eval(), bsszoo.create(entry.name).to(device).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(args.batch, 3, args.image_size, args.image_size, device=device)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))

    rows = []
    for what in args.what:
        if what == "create":
            timed = pairs(
                lambda: bsszoo.create(entry.name), lambda: timm.create_model(name), torch.device("cpu"), args.repeats
            )
        else:
            make = forward if what == "forward" else train_step
            timed = pairs(make(ours, images), make(theirs, images), device, args.repeats)
        ratios = [a / b for a, b in timed]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ms = 1e3 * statistics.median(a for a, _ in timed)
        rows.append(f"| {name} | {what} | {middle:.3f} | {low:.3f} to {high:.3f} | {ms:.1f} ms |")
    return rows


def machine(device: str) -> str:
    """The name of the hardware that is timed."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        models = [line.split(":", 1)[1].strip() for line in listing.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"


def main() -> None:
    """Measures and prints."""
    originals = [entry.name for entry in entries().values() if entry.timm]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224, help="side of the images [px]")
    parser.add_argument("--batch", type=int, default=4, help="images at once")
    parser.add_argument("--repeats", type=int, default=15, help="pairs of each measurement, at least 2")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument(
        "--what", nargs="+", default=["create", "forward", "train step"], choices=["create", "forward", "train step"]
    )
    parser.add_argument("--models", nargs="+", default=originals, choices=originals)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{machine(args.device)}; torch {torch.__version__}, timm {timm.__version__}; batch {args.batch} at "
        f"{args.image_size} px; {args.repeats} pairs\n"
    )
    print("| network | what | ours / timm, median | middle half | ours |")
    print("|---|---|---|---|---|")
    for name in args.models:
        for row in measure(find(name), args):
            print(row, flush=True)


if __name__ == "__main__":
    main()
