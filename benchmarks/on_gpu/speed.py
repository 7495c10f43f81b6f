"""Images a second and peak memory of a classifier's training, beside a plain loop on timm."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from on_gpu.data import jpegs
from on_gpu.steps import Part, Row, Rows, Setting, Step

CLASSES = 1000
#: The names of the same networks in timm.
TIMM = {"mobilenetv2": "mobilenetv2_100"}
NETWORKS = ("resnet50", "mobilenetv2", "efficientnet_b0")


@dataclass(frozen=True)
class Way:
    """How a network is run."""

    precision: Literal["float32", "bfloat16", "float16"]
    channels_last: bool = False
    compile: bool = False

    def __str__(self) -> str:
        words = [self.precision, *(["channels_last"] if self.channels_last else [])]
        return " ".join([*words, *(["compile"] if self.compile else [])])


@dataclass(frozen=True)
class Size:
    """How much is trained, and for how long it is timed."""

    batch: int
    px: int
    #: Seconds of a window at least, windows of a run, those before that are not counted, and pairs of runs.
    seconds: float
    windows: int
    warm_up: int
    turns: int
    #: The update from which on it is timed, at the earliest: before, what the readers had in store is used up.
    first: int = 0


REAL, TOY = Size(256, 224, 0.7, 4, 2, 2), Size(4, 32, 0.05, 2, 1, 1)
LAST = {"channels_last": True}
WAYS = {
    "resnet50": (Way("float32"), Way("bfloat16"), Way("bfloat16", **LAST), Way("float16", **LAST)),
    "mobilenetv2": (Way("float32"), Way("bfloat16", **LAST), Way("float16", **LAST)),
    "efficientnet_b0": (Way("float32"), Way("bfloat16", **LAST), Way("float16", **LAST)),
}
COMPILED = Way("bfloat16", channels_last=True, compile=True)


def synthetic(network: str, setting: Setting, rows: Rows) -> None:
    """Generated images, so that reading takes little."""
    _note(setting, rows)
    if network == NETWORKS[0]:
        rows.keep("reading", lambda: _reading(setting, "synthetic", None, TOY if setting.toy else REAL))
    for way in WAYS[network]:
        _beside(setting, rows, network, "synthetic", way, None, REAL)


def _note(setting: Setting, rows: Rows) -> None:
    import torch

    kinds = {"convolutions": torch.backends.cudnn.allow_tf32, "matrix products": torch.backends.cuda.matmul.allow_tf32}
    tf32 = [name for name, allowed in kinds.items() if allowed]
    rows.note(
        f"Medians over windows of {(TOY if setting.toy else REAL).seconds:g} s and more (least to most), ours and the "
        "plain loop in turns in one process; float32 as PyTorch sets it"
        + (f", on this GPU with TF32 in {' and '.join(tf32)}." if setting.gpu and tf32 else ".")
    )


def compiled(network: str, setting: Setting, rows: Rows) -> None:
    """The same by ``torch.compile``, once."""
    size = replace(REAL, turns=1)
    # Compiling ResNet-50 for a CPU takes minutes.
    network = "resnet18" if setting.toy else network
    _beside(setting, rows, network, "synthetic", COMPILED, None, size)


def files(setting: Setting, rows: Rows) -> None:
    """JPEG files of ImageNet's usual size."""
    size = replace(REAL, turns=1, first=2 * setting.workers + 8)
    toy = setting.toy
    # Read faster than 10,000 a second, they would end before the windows do.
    folder = jpegs(setting, files=40 if toy else 2048, links=16, size=(60, 45) if toy else (500, 375))
    rows.keep("reading", lambda: _reading(setting, "JPEG", folder, TOY if toy else REAL))
    for network in NETWORKS[:1] if toy else NETWORKS:
        _beside(setting, rows, network, "JPEG", Way("bfloat16", channels_last=True), folder, size)


def _beside(setting: Setting, rows: Rows, network: str, kind: str, way: Way, folder: Path | None, size: Size) -> None:
    size = TOY if setting.toy else size
    key = f"{network} {kind} {way}"
    if way.precision == "float16" and not setting.gpu:
        rows.keep(key, lambda: {**_names(network, kind, way, size), "skipped": "float16 takes a GPU"})
        return
    rows.keep(key, partial(_pair, setting, network, kind, way, folder, size))


def _names(network: str, kind: str, way: Way, size: Size) -> Row:
    return {"network": network, "input": kind, "way": str(way), "batch": size.batch, "px": size.px}


def _pair(setting: Setting, network: str, kind: str, way: Way, folder: Path | None, size: Size) -> Row:
    """Ours and the plain loop in turns in this process."""
    found: dict[str, Any] = {"ours": [], "plain": [], "ours_mb": [], "plain_mb": []}
    for turn in range(size.turns):
        for who in ("ours", "plain") if turn % 2 == 0 else ("plain", "ours"):
            held = _fresh(setting)
            run = _ours if who == "ours" else _plain
            found[who] += [round(one, 2) for one in run(setting, network, way, folder, size)]
            if setting.gpu:
                found[f"{who}_mb"].append(round(_peak(setting) / 2**20, 1))
                found.setdefault("held_mb", []).append(round(held / 2**20, 1))
    return {**_names(network, kind, way, size), **found}


def _fresh(setting: Setting) -> int:
    """Leave nothing of the run before; the bytes that are in use all the same, as those of libraries are."""
    import torch

    torch._dynamo.reset()
    gc.collect()
    if not setting.gpu:
        return 0
    device = torch.device(setting.device)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def _peak(setting: Setting) -> int:
    import torch

    return int(torch.cuda.max_memory_allocated(torch.device(setting.device)))


class _Enough(BaseException):
    """All windows are timed."""


class _Windows:
    """Images a second between two marks, each made when all updates so far had ended on the device."""

    def __init__(self, size: Size) -> None:
        self._size, self._early = size, 0
        self._marks: list[tuple[int, float]] = []

    def mark(self, update: int) -> None:
        if self._early < self._size.warm_up or update < self._size.first:
            self._early += 1
            return
        self._marks.append((update, time.perf_counter()))
        if len(self._marks) > self._size.windows:
            raise _Enough

    def skip(self) -> None:
        """What lies between the last mark and the next one is not only training."""
        self._marks.clear()

    @property
    def speeds(self) -> list[float]:
        return [(u1 - u0) * self._size.batch / (t1 - t0) for (u0, t0), (u1, t1) in pairwise(self._marks)]


def _recipe(setting: Setting, network: str, way: Way, folder: Path | None, size: Size) -> Any:
    from bsszoo.train.classification.recipe import (
        DataPart,
        LossPart,
        ModelPart,
        OptimPart,
        Recipe,
        RunPart,
        SchedulePart,
    )

    return Recipe(
        model=ModelPart(name=network, num_classes=CLASSES),
        optim=OptimPart(lr=0.01, batch_size=size.batch, weight_decay=1e-4),
        schedule=SchedulePart(epochs=1000),
        loss=LossPart(label_smoothing=0.1),
        # So many that no epoch ends while it is timed.
        data=DataPart(dataset=f"synthetic/{size.batch * 20_000}" if folder is None else "folder", image_size=size.px),
        run=RunPart(
            device_batch=size.batch,
            workers=setting.workers,
            precision=way.precision,
            channels_last=way.channels_last,
            compile=way.compile,
            checkpoint_minutes=1e6,
        ),
    )


def _ours(setting: Setting, network: str, way: Way, folder: Path | None, size: Size) -> list[float]:
    from bsszoo.train import loop
    from bsszoo.train.callbacks import NoCallback, TrainingState

    windows = _Windows(size)

    class Marks(NoCallback):
        """The loop reads the loss before it reports, for which it waits for the device."""

        def updated(self, state: TrainingState) -> None:
            windows.mark(state.update)

        def validated(self, row: object) -> None:
            windows.skip()

    loop._REPORT = size.seconds  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as out:
        recipe = _recipe(setting, network, way, folder, size)
        with suppress(_Enough):
            loop.train(recipe, folder, out, device=setting.device, callback=Marks())
    return windows.speeds


def _plain(setting: Setting, network: str, way: Way, folder: Path | None, size: Size) -> list[float]:
    windows = _Windows(size)
    with suppress(_Enough):
        _plain_loop(setting, network, way, folder, size, windows)
    return windows.speeds


def _plain_loop(setting: Setting, network: str, way: Way, folder: Path | None, size: Size, windows: _Windows) -> None:
    """What one writes with timm alone: its network, loader, optimiser, schedule and loss; autocast and a scaler."""
    import timm
    import torch
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    recipe = _recipe(setting, network, way, folder, size)
    device = torch.device(setting.device)
    if setting.gpu:
        torch.cuda.set_device(device)
    loader = _loader(setting, recipe, folder)
    model: Any = timm.create_model(TIMM.get(network, network), num_classes=CLASSES).to(device)
    if way.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer: Any = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule: Any = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=1000, step_on_epochs=False, updates_per_epoch=len(loader)
    )[0]
    against = LabelSmoothingCrossEntropy(0.1)
    dtype = torch.bfloat16 if way.precision == "bfloat16" else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=way.precision == "float16")
    run: Any = torch.compile(model) if way.compile else model
    run.train()
    marked = time.monotonic()
    for update, (images, labels) in enumerate(_endless(loader), start=1):
        if way.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=dtype, enabled=way.precision != "float32"):
            loss = against(run(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        schedule.step_update(update)
        now = time.monotonic()
        if now - marked > size.seconds:
            marked = now
            float(loss.detach())  # waits for the device, as printing it would
            windows.mark(update)


def _loader(setting: Setting, recipe: Any, folder: Path | None) -> Any:
    """timm's loader of the same images, augmented alike, by as many processes."""
    import torch
    from training import timm_loader

    return timm_loader(recipe, None if folder is None else str(folder), setting.workers, torch.device(setting.device))


def _reading(setting: Setting, kind: str, folder: Path | None, size: Size) -> Row:
    """Images a second that the loader alone gives: training is not faster, whichever loop it is."""
    store = 2 * setting.workers + 2
    recipe = _recipe(setting, NETWORKS[0], Way("float32"), folder, size)
    number, start, seconds = 0, 0.0, 0.1 if setting.toy else 2.5
    for number, _ in enumerate(_endless(_loader(setting, recipe, folder)), start=1):
        if number == store:
            start = time.perf_counter()
        elif number > store and time.perf_counter() - start > seconds:
            break
    speed = (number - store) * size.batch / (time.perf_counter() - start)
    return {"reading": speed, "input": kind, "px": size.px, "workers": setting.workers}


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def table(rows: Sequence[Row]) -> list[str]:
    """Medians over windows (least to most), and the ratio of the medians."""
    lines = [
        "| network | input | how | batch | plain timm loop [images/s] | bsszoo [images/s] | bsszoo / plain | windows "
        "| peak memory, plain [MB] | bsszoo / plain |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (row for row in rows if "network" in row):
        names = f"| {row['network']} | {row['input']}, {row['px']} px | {row['way']} | {row['batch']} |"
        if "skipped" in row:
            lines.append(f"{names} {row['skipped']} | | | | | |")
            continue
        ratio = statistics.median(row["ours"]) / statistics.median(row["plain"])
        memory = "- | -"
        if row["plain_mb"]:
            ours, plain = max(row["ours_mb"]), max(row["plain_mb"])
            memory = f"{plain:,.0f} | {ours / plain:.3f}"
        number = f"{len(row['plain'])} + {len(row['ours'])}"
        lines.append(f"{names} {_spread(row['plain'])} | {_spread(row['ours'])} | {ratio:.3f} | {number} | {memory} |")
    for row in (row for row in rows if "reading" in row):
        lines += [
            "",
            f"timm's loader alone, {row['workers']} processes: {row['reading']:,.0f} images/s of {row['input']}, "
            f"{row['px']} px. Loops that come near it are as fast as it is.",
        ]
    return lines


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


PART = Part(
    "speed",
    "A classifier's training beside a plain loop on timm",
    [
        Step("speed-resnet50", partial(synthetic, "resnet50"), 105, 240),
        Step("speed-mobilenetv2", partial(synthetic, "mobilenetv2"), 80, 200),
        Step("speed-efficientnet_b0", partial(synthetic, "efficientnet_b0"), 80, 200),
        Step("speed-files", files, 75, 180),
        *(
            Step(f"speed-compile-{network}", partial(compiled, network), 60, 200, toy=network == "mobilenetv2")
            for network in NETWORKS
        ),
    ],
    table,
)
