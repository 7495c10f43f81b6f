"""Everything of bsszoo that takes a GPU, on one card in about 25 minutes: steps that resume, and one table.

    benchmarks/gpu.sh                              the same command goes on where it was cut off, or killed
    benchmarks/gpu.sh --seconds 500                begins nothing that would not end within 500 s
    benchmarks/gpu.sh --part speed --part amp      these parts only
    benchmarks/gpu.sh --toy                        the same parts on a CPU, at toy size, in about four minutes
    benchmarks/gpu.sh --table                      the table of what is there

    speed       images a second and peak memory of training, beside a plain loop on timm, in turns
    detection   the same of Mask R-CNN, beside torchvision's reference training
    processes   NCCL, DistributedDataParallel and SyncBN: the same losses by torchrun as without
    amp         the same accuracy in float32, bfloat16 and float16, channels-last, compiled; resumption
    compress    a trained network's compression, and a search judged by training
    paper       the paper's networks at 64 px, three seeds
    latency     bsszoo measure, and a latency table

Fashion-MNIST is read from --fashion, Debian's package by default; without it scikit-learn's digits or drawn shapes
stand in for it, and the table says so. Everything else is made here: nothing is fetched.

A part is a few steps, each a process of its own. What a step has measured is kept at once, in FOLDER/results: a step
that has ended is not done again, one that was killed, cut off at its limit or failed is gone on with by the next
call. FOLDER/logs has what each printed, FOLDER/table.md the table. The status is 1 where a step failed or was cut off.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import disk_usage
from typing import Any

from on_gpu import compressions, detectors, latency, speed, trainings
from on_gpu.steps import Part, Setting, Step, cores, read_json, rows_of, write_json

PARTS: tuple[Part, ...] = (
    trainings.PROCESSES,
    trainings.AMP,
    speed.PART,
    detectors.PART,
    latency.PART,
    compressions.PART,
    trainings.PAPER,
)
#: Debian's ``dataset-fashion-mnist``.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
#: Bytes of shared memory that 16 reading processes with two batches each may need.
LEAST_SHARED = 2 * 2**30
#: Lines of a failed step's log that the table repeats.
LAST_LINES = 6


def main() -> None:
    given = _arguments()
    setting = _setting(given)
    if given.step is not None:
        _do(setting, given.step)
        return
    chosen = [part for part in PARTS if given.part is None or part.name in given.part]
    status = 0
    if not given.table:
        from filelock import FileLock, Timeout

        setting.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(setting.folder / "lock", timeout=0):
                _run(setting, chosen, given)
        except Timeout:
            sys.exit(f"Another run works in {setting.folder}.")
        status = any(_record(setting, step).get("state") in ("failed", "cut off") for step in _steps(setting, chosen))
    text = "\n".join(report(setting, PARTS if given.table else chosen)) + "\n"
    if not given.table:
        # That of all parts, whichever were run now.
        (setting.folder / "table.md").write_text("\n".join(report(setting, PARTS)) + "\n", encoding="utf-8")
    print(text)
    sys.exit(int(status))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("gpu-results"), help="default: gpu-results")
    parser.add_argument(
        "--part", action="append", choices=[p.name for p in PARTS], help="may be repeated; default: all"
    )
    parser.add_argument("--seconds", type=float, help="begin no step whose estimate does not fit into what is left")
    parser.add_argument("--device", help="default: cuda:0, of a toy cpu")
    parser.add_argument("--fashion", type=Path, default=DEBIAN, help=f"folder of Fashion-MNIST's four files ({DEBIAN})")
    parser.add_argument("--workers", type=int, help="processes that read images (default: the cores, up to 16)")
    parser.add_argument("--jobs", type=int, help="trainings side by side where they are small (default: 4)")
    parser.add_argument("--toy", action="store_true", help="all parts at toy size")
    parser.add_argument("--again", action="store_true", help="forget what was measured of these parts")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and end")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser.parse_args()


def _setting(given: argparse.Namespace) -> Setting:
    toy = given.toy
    return Setting(
        folder=given.folder.absolute(),
        device=given.device or ("cpu" if toy else "cuda:0"),
        toy=toy,
        fashion=given.fashion.absolute(),
        workers=given.workers or (1 if toy else min(16, cores())),
        jobs=given.jobs or (2 if toy else 4),
    )


def _steps(setting: Setting, parts: Sequence[Part]) -> list[Step]:
    return [step for part in parts for step in part.steps if step.toy or not setting.toy]


# -- a step, in a process of its own ---------------------------------------------------------------------------


def _do(setting: Setting, name: str) -> None:
    from bsszoo.train.devices import device_of
    from bsszoo.train.parent import end_with_parent

    # Ended, it ends what it started: this process leads their group, and torchrun ends its own.
    signal.signal(signal.SIGTERM, _end_all)
    end_with_parent()
    [step] = [step for step in _steps(setting, PARTS) if step.name == name]
    setting.work.mkdir(parents=True, exist_ok=True)
    device_of(setting.device)  # one that is not there is said at once
    step.run(setting, rows_of(setting, step))


def _end_all(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.killpg(0, signal.SIGTERM)


# -- all of them -----------------------------------------------------------------------------------------------


def _file(setting: Setting, step: Step) -> Path:
    return setting.folder / "results" / f"{step.name}.json"


def _record(setting: Setting, step: Step) -> dict[str, Any]:
    """How a step ended; empty where it has not been done at this size on this device."""
    found = read_json(_file(setting, step))
    return found if found.get("identity") == setting.identity else {}


def _run(setting: Setting, parts: Sequence[Part], given: argparse.Namespace) -> None:
    from importlib.util import find_spec

    if lacking := [name for name in ("torch", "torchvision", "timm", "optuna") if find_spec(name) is None]:
        sys.exit(f"This Python has no {', '.join(lacking)}: install bsszoo's dependencies, or set PYTHON.")
    start, steps = time.monotonic(), _steps(setting, parts)
    if setting.gpu and Path("/dev/shm").is_dir() and disk_usage("/dev/shm").free < LEAST_SHARED:
        _say("/dev/shm has less than 2 GiB free, in which reading processes hand images over: --workers 4 needs less")
    if given.again:
        for step in steps:
            _file(setting, step).unlink(missing_ok=True)
            rows_of(setting, step).file.unlink(missing_ok=True)
    for step in steps:
        if _record(setting, step).get("state") == "done":
            _say(f"{step.name}: done before")
            continue
        left = None if given.seconds is None else given.seconds - (time.monotonic() - start)
        # A toy's steps take less than a real one's; they are begun as long as there is time.
        if left is not None and left < (1 if setting.toy else step.estimate):
            _say(f"{step.name}: not begun, {max(0, left):.0f} s are left and it takes about {step.estimate} s")
            continue
        _say(f"{step.name}: begun, about {step.estimate} s on an H100" if not setting.toy else f"{step.name}: begun")
        record = _one(setting, step, step.limit if left is None else min(step.limit, max(left, step.estimate)))
        write_json(_file(setting, step), {"identity": setting.identity, **record})
        _say(f"{step.name}: {record['state']} after {record['seconds']:.0f} s")


def _one(setting: Setting, step: Step, limit: float) -> dict[str, Any]:
    """Do a step, for so long at most; how it ended."""
    from bsszoo.train.parent import PARENT

    before = _record(setting, step).get("seconds", 0.0)
    words = [sys.executable, __file__, "--step", step.name, "--folder", str(setting.folder)]
    words += ["--device", setting.device, "--fashion", str(setting.fashion), "--workers", str(setting.workers)]
    words += ["--jobs", str(setting.jobs), *(["--toy"] if setting.toy else [])]
    log = setting.folder / "logs" / f"{step.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    start, state = time.monotonic(), "done"
    with log.open("ab") as stream:
        at = stream.tell()
        process = subprocess.Popen(
            words,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, PARENT: str(os.getpid())},
        )
        try:
            with _terminable():
                status = process.wait(limit)
            state = "failed" if status else "done"
        except subprocess.TimeoutExpired:
            state = "cut off"
        finally:
            # Also what it started, and left behind where it failed.
            _end(process)
    record: dict[str, Any] = {"state": state, "seconds": round(before + time.monotonic() - start, 1)}
    if state != "done":
        with log.open("rb") as file:
            file.seek(at)
            lines = file.read().decode(errors="replace").splitlines()
        record["last lines"] = [line.strip() for line in lines if line.strip()][-LAST_LINES:]
        record["limit"] = limit
    return record


class _terminable:  # noqa: N801 - reads as what it is in a with statement
    """Within, SIGTERM is an exception, as Ctrl-C is, so that what was started is ended."""

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a step and what it started: trainings write a checkpoint first."""
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# -- the table -------------------------------------------------------------------------------------------------


def report(setting: Setting, parts: Sequence[Part]) -> list[str]:
    """The lines of the table: where it was measured, how each part ended, and what each measured."""
    rows = {step.name: list(rows_of(setting, step).rows.values()) for step in _steps(setting, parts)}
    lines = [f"# bsszoo on {setting.device}{', at toy size' if setting.toy else ''}", ""]
    places: list[dict[str, str]] = []
    for found in rows.values():
        for row in found:
            if row["where"] not in places:
                places.append(row["where"])
    for number, place in enumerate(places, 1):
        lines.append(f"- {f'{number}: ' if len(places) > 1 else ''}{', '.join(f'{k} {v}' for k, v in place.items())}")
    if len(places) > 1:
        lines.append("- Rows of several machines or days; those of one line were measured in one process or step.")
    lines += ["", "| part | steps done | seconds | estimate for an H100 [s] | state |", "|---|---:|---:|---:|---|"]
    for part in parts:
        steps = _steps(setting, [part])
        records = [_record(setting, step) for step in steps]
        states = [record.get("state", "not run") for record in records]
        worst = next((one for one in ("failed", "cut off", "not run") if one in states), "done")
        if worst == "not run" and any(rows[step.name] for step in steps):
            worst = "not finished"
        seconds = sum(record.get("seconds", 0.0) for record in records)
        estimate = sum(step.estimate for step in steps)
        lines.append(f"| {part.name} | {states.count('done')} of {len(steps)} | {seconds:.0f} | {estimate} | {worst} |")
    for part in parts:
        steps = _steps(setting, [part])
        found = [row for step in steps for row in rows[step.name]]
        if found:
            lines += ["", f"## {part.title}", "", *part.table(found)]
        for note in dict.fromkeys(note for step in steps for note in rows_of(setting, step).notes):
            lines += ["", note]
        for step in steps:
            record = _record(setting, step)
            if record.get("state") in ("failed", "cut off"):
                lines += ["", f"**{step.name}: {record['state']}**, the last lines of its log:", "", "```text"]
                lines += [*record["last lines"], "```"]
    return lines


if __name__ == "__main__":
    main()
