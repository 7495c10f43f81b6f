"""Trainings on Fashion-MNIST: by torchrun, at each precision, interrupted, and of the paper's networks."""

from __future__ import annotations

import csv
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from on_gpu.data import fashion
from on_gpu.steps import ROOT, CheckError, Part, Row, Rows, Setting, Step, command, started

RECIPE = ROOT / "recipes" / "fashion_mnist" / "resnet18_130m.yaml"
#: A network for toys.
TOY = "mobilenetv2_c8-8-16-16-24-24_l1-1-1-1-1-1_t3-3-3-3-3-3_stem8_stage2-8x1"
TOY_SETS = (f"model.name={TOY}", "model.head_init_scale=0.1", "optim.batch_size=32", "optim.lr=0.02", "run.workers=0")


def sets_of(setting: Setting, *sets: str, workers: int | None = None) -> list[str]:
    """Values of the recipe in place of its own; a toy's are those of ``TOY_SETS`` where these do not say others."""
    number = setting.workers // setting.jobs if workers is None else workers
    own = TOY_SETS if setting.toy else (f"run.workers={max(1, number)}",)
    given = {one.partition("=")[0] for one in sets}
    return [*(one for one in own if one.partition("=")[0] not in given), *sets]


def train_words(
    setting: Setting, data: Path, out: Path, sets: Sequence[str], launcher: Sequence[str] = ()
) -> list[str]:
    """The command of a training."""
    words = [sys.executable, *launcher, "-m", "bsszoo", "train", str(RECIPE), "--data", str(data), "--out", str(out)]
    return [*words, "--device", setting.device, *(word for one in sets for word in ("--set", one))]


def epochs_of(out: Path) -> list[dict[str, float]]:
    """The lines of a training's ``metrics.csv``."""
    with (out / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: float(v) for k, v in line.items()} for line in csv.DictReader(file)]


# -- processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """A training of one or more processes, and the one that it has to equal."""

    name: str
    processes: int
    device_batch: int
    sync_bn: bool = False
    like: str | None = None


BATCH = 128
LAUNCHES = (
    Launch("one process", 0, BATCH),
    Launch("one process, micro-batches of half", 0, BATCH // 2),
    Launch("torchrun, one process", 1, BATCH, sync_bn=True, like="one process"),
    Launch("torchrun, two on one device", 2, BATCH // 2, like="one process, micro-batches of half"),
    Launch("torchrun, two on one device, SyncBN", 2, BATCH // 2, sync_bn=True, like="one process"),
)
#: Rounding, and on a GPU sums in any order, let losses of the first epoch differ by so much.
TOLERANCE = 0.02


def processes(setting: Setting, rows: Rows) -> None:
    """The same training by torchrun: NCCL with one process, gloo with two that share the device."""
    data = fashion(setting, rows)
    rows.note(
        "NCCL takes one process for each GPU, so with one card only one process uses it (a group of itself, "
        "DistributedDataParallel, SyncBN's module); two processes on the card talk by gloo, SyncBN's statistics too."
    )
    scale = 4 if setting.toy else 1
    for launch in LAUNCHES:
        if launch.sync_bn and launch.processes > 1 and not setting.gpu:
            text = "torch's SyncBatchNorm does not train on a CPU"
            rows.keep(launch.name, lambda text=text: {"skipped": text})  # type: ignore[misc]
            continue

        def run(launch: Launch = launch) -> Row:
            out = setting.work / "processes" / launch.name.replace(" ", "-").replace(",", "")
            sets = sets_of(
                setting,
                "schedule.epochs=2",
                "schedule.warmup_epochs=0.5",
                "optim.lr=0.02",
                f"optim.batch_size={BATCH // scale}",
                f"run.device_batch={launch.device_batch // scale}",
                *(["run.sync_bn=true"] if launch.sync_bn else []),
                *([] if setting.toy else ["data.subset=0.25"]),
                workers=setting.workers // max(1, launch.processes),
            )
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(launch.processes)]
            words = train_words(setting, data, out, sets, launcher if launch.processes else ())
            command(words, watched=not launch.processes)
            found = epochs_of(out)
            backend = "-" if not launch.processes else "gloo"
            if setting.gpu and launch.processes == 1:
                backend = "NCCL"
            return {
                "backend": backend,
                "like": launch.like,
                "losses": [line["train_loss"] for line in found],
                "top1": found[-1]["top1"],
            }

        row = rows.keep(launch.name, run)
        if launch.like is not None:
            off = _off(row, rows.rows[launch.like])
            rows.check(off <= TOLERANCE, f"{launch.name}: the loss differs by {off:.2%} from {launch.like}")
    rows.end()


def _off(row: Row, other: Row) -> float:
    return abs(float(row["losses"][0]) / float(other["losses"][0]) - 1)


def processes_table(rows: Sequence[Row]) -> list[str]:
    """The losses, and how far those of the first epoch are from what they have to equal."""
    lines = [
        "| training | backend | loss of epoch 1, 2 | top-1 [%] | has to equal | loss of epoch 1 differs by |",
        "|---|---|---:|---:|---|---:|",
    ]
    named = {row["key"]: row for row in rows}
    for name, row in named.items():
        if "skipped" in row:
            lines.append(f"| {name} | {row['skipped']} | | | | |")
            continue
        other = named.get(row["like"] or "")
        off = "-" if other is None else f"{_off(row, other):.3%}"
        losses = ", ".join(f"{loss:.4f}" for loss in row["losses"])
        lines.append(f"| {name} | {row['backend']} | {losses} | {row['top1']:.2f} | {row['like'] or '-'} | {off} |")
    return lines


# -- many trainings side by side --------------------------------------------------------------------------------


def _train(sets: list[str], data: str, out: str, device: str) -> Row:
    """A training in a process of the pool."""
    import torch

    from bsszoo.train.classification.recipe import read_recipe
    from bsszoo.train.loop import train

    torch.set_num_threads(1)
    start = time.monotonic()
    summary = train(read_recipe(RECIPE, sets), data, out, device=device)
    names = ("top1", "test_top1", "train_loss", "images_per_s")
    return {name: summary[name] for name in names if name in summary} | {"seconds": round(time.monotonic() - start, 1)}


def _start_of_process(parent: int) -> None:
    from bsszoo.train.parent import PARENT, end_with_parent

    os.environ[PARENT] = str(parent)
    end_with_parent()


def train_all(setting: Setting, rows: Rows, data: Path, wanted: Mapping[str, tuple[Row, Sequence[str]]]) -> None:
    """Train several recipes, some at a time; each row is kept when its training ends.

    Raises:
        CheckError: Some failed; the others were trained.
    """
    left = {key: value for key, value in wanted.items() if key not in rows.rows}
    failed = []
    with ProcessPoolExecutor(
        setting.jobs, mp_context=get_context("spawn"), initializer=_start_of_process, initargs=(os.getpid(),)
    ) as pool:
        futures = {}
        for key, (_, sets) in left.items():
            out = setting.work / rows.file.name.partition(".")[0] / key.replace(" ", "_")
            futures[pool.submit(_train, list(sets), str(data), str(out), setting.device)] = key
        for future in as_completed(futures):
            key = futures[future]
            try:
                rows.put(key, {**left[key][0], **future.result()})
            except Exception as error:  # the others are trained all the same
                failed.append(f"{key}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if failed:
        raise CheckError("; ".join(failed))


def mean_95(values: Sequence[float]) -> str:
    """The mean, and Student's 95% interval of it where there are several."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    from scipy.stats import t

    mean = statistics.fmean(values)
    reach = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} ({mean - reach:.2f} to {mean + reach:.2f})"


# -- precisions ------------------------------------------------------------------------------------------------

PRECISIONS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "bfloat16": ("run.precision=bfloat16",),
    "float16": ("run.precision=float16",),
    "float32 channels_last": ("run.channels_last=true",),
    "bfloat16 channels_last": ("run.precision=bfloat16", "run.channels_last=true"),
    "bfloat16 channels_last compile": ("run.precision=bfloat16", "run.channels_last=true", "run.compile=true"),
    "float16 channels_last compile": ("run.precision=float16", "run.channels_last=true", "run.compile=true"),
}
#: Points of accuracy by which the mean of a few trainings may differ from that in float32; a toy learns little.
ALIKE, ALIKE_TOY = 1.5, 40.0


def precisions(setting: Setting, rows: Rows) -> None:
    """The same training at each precision, by channels-last and compiled networks: the same accuracy within noise."""
    data = fashion(setting, rows)
    wanted: dict[str, tuple[Row, Sequence[str]]] = {}
    for way, sets in PRECISIONS.items():
        if "float16" in way.split() and not setting.gpu:
            rows.keep(way, lambda way=way: {"way": way, "skipped": "float16 takes a GPU"})  # type: ignore[misc]
            continue
        length = (
            ("schedule.epochs=1", "schedule.warmup_epochs=0.5")
            if setting.toy
            else ("schedule.epochs=3", "data.subset=0.5")
        )
        for seed in range(1 if setting.toy else 2):
            wanted[f"{way} seed {seed}"] = {"way": way}, sets_of(setting, *length, *sets, f"run.seed={seed}")
    train_all(setting, rows, data, wanted)
    means = {
        way: statistics.fmean(row["top1"] for row in rows.rows.values() if row["way"] == way)
        for way in {row["way"] for row in rows.rows.values() if "top1" in row}
    }
    most = ALIKE_TOY if setting.toy else ALIKE
    for way, mean in means.items():
        off = mean - means["float32"]
        rows.check(abs(off) <= most, f"{way}: {off:+.2f} points beside float32")
    rows.end()


def resumed(setting: Setting, rows: Rows) -> None:
    """A training that is killed after its first epoch and started again, beside one that is not."""
    data = fashion(setting, rows)
    sets = sets_of(
        setting,
        f"run.precision={'float16' if setting.gpu else 'bfloat16'}",
        "run.channels_last=true",
        "ema.decay=0.99",
        "schedule.epochs=3",
        "schedule.warmup_epochs=0.3",
        "run.checkpoint_minutes=0.01",
        *([] if setting.toy else ["data.subset=0.25"]),
        workers=setting.workers,
    )
    folders = {name: setting.work / "resumed" / name for name in ("unbroken", "killed")}

    def unbroken() -> Row:
        command(train_words(setting, data, folders["unbroken"], sets))
        return _ended(folders["unbroken"])

    def killed() -> Row:
        out = folders["killed"]
        words = train_words(setting, data, out, sets)
        if not (out / "metrics.csv").is_file():
            process = started(words)
            while process.poll() is None and not (out / "metrics.csv").is_file():
                time.sleep(0.02)
            process.kill()
            if process.wait() != -signal.SIGKILL:
                raise CheckError("the training that was to be killed ended before")
        epochs = len(epochs_of(out))
        command(words)
        return {**_ended(out), "killed_after": epochs}

    one, other = rows.keep("unbroken", unbroken), rows.keep("killed in epoch 2, and resumed", killed)
    most = ALIKE_TOY if setting.toy else ALIKE
    off = other["top1"] - one["top1"]
    rows.check(abs(off) <= most, f"resumed: {off:+.2f} points beside the unbroken training")
    rows.check(other["updates"] == one["updates"], f"resumed: {other['updates']} updates, not {one['updates']}")
    rows.end()


def _ended(out: Path) -> Row:
    found = epochs_of(out)
    return {
        "way": f"{out.name}, moving average, checkpoints",
        "losses": [line["train_loss"] for line in found],
        "top1": found[-1]["top1"],
        "updates": found[-1]["update"],
    }


def precisions_table(rows: Sequence[Row]) -> list[str]:
    """Mean accuracies of each way, and how far from float32."""
    lines = ["| training | test top-1 [%], mean (95%) | seeds | beside float32 [points] |", "|---|---:|---:|---:|"]
    by_way: dict[str, list[float]] = {}
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['way']} | {row['skipped']} | | |")
        elif "updates" not in row:
            by_way.setdefault(row["way"], []).append(row["top1"])
    for way in sorted(by_way, key=list(PRECISIONS).index):
        off = "-"
        if "float32" in by_way and way != "float32":
            off = f"{statistics.fmean(by_way[way]) - statistics.fmean(by_way['float32']):+.2f}"
        lines.append(f"| {way} | {mean_95(by_way[way])} | {len(by_way[way])} | {off} |")
    for row in rows:
        if "updates" in row:
            losses = ", ".join(f"{loss:.5f}" for loss in row["losses"])
            lines.append(f"| {row['key']}: {row['updates']:.0f} updates, losses {losses} | {row['top1']:.2f} | 1 | - |")
    return lines


# -- the paper's networks --------------------------------------------------------------------------------------

FAMILIES = ("resnet18", "resnet50", "mobilenetv2")
KINDS = ("", "_rand", "_autobss")


def paper(setting: Setting, rows: Rows) -> None:
    """The original, the random and the searched network of each family, by one short recipe at 64 px."""
    data = fashion(setting, rows)
    toy = setting.toy
    wanted: dict[str, tuple[Row, Sequence[str]]] = {}
    for seed in range(1 if toy else 3):
        for family in FAMILIES[:1] if toy else FAMILIES:
            for kind in KINDS:
                name = family + kind
                sets = sets_of(
                    setting,
                    f"model.name={name}",
                    f"model.head_init_scale={0.1 if family == 'mobilenetv2' else 1}",
                    f"data.image_size={32 if toy else 64}",
                    # Validated on few images, so that the test images are read once.
                    f"data.holdout={0.1 if toy else 0.02}",
                    "data.test_split=test",
                    "data.subset=0.2",
                    f"schedule.epochs={1 if toy else 4}",
                    f"optim.lr={0.02 if family == 'mobilenetv2' else 0.05}",
                    "run.precision=bfloat16",
                    "run.channels_last=true",
                    f"run.seed={seed}",
                )
                wanted[f"{name} seed {seed}"] = {"network": name, "px": 32 if toy else 64}, sets
    rows.note(
        f"The test images are measured once, after the last of {'1 epoch' if toy else '4 epochs'} over a fifth of the "
        "training images; intervals are over seeds."
    )
    train_all(setting, rows, data, wanted)


def paper_table(rows: Sequence[Row]) -> list[str]:
    """Mean accuracies with intervals."""
    lines = [
        "| network | px | test top-1 [%], mean (95%) | seeds | seconds of a training |",
        "|---|---:|---:|---:|---:|",
    ]
    names = [family + kind for family in FAMILIES for kind in KINDS]
    for name in sorted({row["network"] for row in rows}, key=names.index):
        own = [row for row in rows if row["network"] == name]
        seconds = statistics.median(row["seconds"] for row in own)
        accuracy = mean_95([row["test_top1"] for row in own])
        lines.append(f"| {name} | {own[0]['px']} | {accuracy} | {len(own)} | {seconds:.0f} |")
    return lines


PROCESSES = Part("processes", "The same training by torchrun", [Step("processes", processes, 80, 240)], processes_table)
AMP = Part(
    "amp",
    "Accuracy of the same training by precision, memory format and compiler, and after an interruption",
    [Step("amp", precisions, 125, 300), Step("amp-resumed", resumed, 45, 150)],
    precisions_table,
)
PAPER = Part("paper", "The paper's networks on Fashion-MNIST", [Step("paper", paper, 145, 360)], paper_table)
