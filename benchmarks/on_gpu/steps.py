"""A part's steps, what they know of the run, and the rows that they keep."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

#: The checkout.
ROOT: Final = Path(__file__).resolve().parents[2]
#: Packages whose versions a result depends on.
PACKAGES: Final = ("torch", "torchvision", "timm", "optuna", "numpy")

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What every step is told: where it works, on what, and at which size."""

    folder: Path
    device: str
    toy: bool
    #: Folder of Fashion-MNIST's four gzipped files.
    fashion: Path
    #: Processes that read images, of one training.
    workers: int
    #: Trainings side by side on the device.
    jobs: int

    @property
    def work(self) -> Path:
        """Where steps leave trainings and images."""
        return self.folder / "work"

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def identity(self) -> dict[str, Any]:
        """What results of the same step have to have in common to be one step's."""
        return {"toy": self.toy, "device": self.device}


@dataclass(frozen=True)
class Step:
    """A piece of a part that is done as a whole, in a process of its own.

    Args:
        name: Of its files; unique among all.
        run: Does it, and keeps rows on the way.
        estimate: Seconds on an H100 with 16 cores, as far as can be told before it was run there.
        limit: Seconds after which it is cut off.
        toy: Whether a toy has it too.
    """

    name: str
    run: Callable[[Setting, Rows], None]
    estimate: int
    limit: int
    toy: bool = True


@dataclass(frozen=True)
class Part:
    """Steps that answer one question, and the lines of the table that does."""

    name: str
    title: str
    steps: Sequence[Step]
    table: Callable[[Sequence[Row]], list[str]]


class CheckError(Exception):
    """A result is not what it has to be."""


@dataclass
class Rows:
    """The rows of a step, in a file that is whole at any time: what is in it is not measured again."""

    file: Path
    identity: Mapping[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = read_json(self.file)
        if found.get("identity") == self.identity:
            self.rows, self.notes = found["rows"], found["notes"]

    def keep(self, key: str, make: Callable[[], Row]) -> Row:
        """The row of a key: the file's, else one that is made now and kept."""
        if key not in self.rows:
            start = time.monotonic()
            self.put(key, {**make(), "seconds": round(time.monotonic() - start, 2)})
        return self.rows[key]

    def put(self, key: str, row: Row) -> None:
        """Keep a row, with where it was made."""
        self.rows[key] = {"key": key, **row, "where": environment(str(self.identity["device"]))}
        self._write()
        print(f"{key}: {row}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Keep a sentence for the reader of the table."""
        if text not in self.notes:
            self.notes.append(text)
            self._write()

    def check(self, right: bool, text: str) -> None:  # noqa: FBT001
        """Remember what is wrong; ``end`` raises it, when everything else has been measured."""
        if not right:
            self.wrong.append(text)

    def end(self) -> None:
        """A ``CheckError`` where a check failed."""
        if self.wrong:
            raise CheckError("; ".join(self.wrong))

    def _write(self) -> None:
        write_json(self.file, {"identity": self.identity, "rows": self.rows, "notes": self.notes})


def rows_of(setting: Setting, step: Step) -> Rows:
    """The rows of a step that are there."""
    return Rows(setting.folder / "results" / f"{step.name}.rows.json", setting.identity)


def read_json(file: Path) -> dict[str, Any]:
    """An object of a file; empty where there is none, or it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write a file as a whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(f".new{os.getpid()}")
    scratch.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
    scratch.replace(file)


_KNOWN: dict[str, dict[str, str]] = {}


def environment(device: str) -> dict[str, str]:
    """Hardware, driver, versions and the day."""
    if device not in _KNOWN:
        _KNOWN[device] = _environment(device)
    return _KNOWN[device]


def _environment(device: str) -> dict[str, str]:
    from importlib.metadata import version

    import torch

    from bsszoo.latency.engines import processor
    from bsszoo.version import __version__

    found = {"date": date.today().isoformat(), "CPU": f"{processor()}, {cores()} cores"}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        found["GPU"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["driver"] = _driver()
        found["CUDA"] = str(torch.version.cuda)
        found["cuDNN"] = str(torch.backends.cudnn.version())
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "-"
    found["Python"] = platform.python_version()
    return found | {name: version(name) for name in PACKAGES} | {"bsszoo": f"{__version__} ({_commit()})"}


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return _first_line(words) or "unknown"


def _commit() -> str:
    commit = _first_line(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "no commit"
    changed = _first_line(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}, changed" if changed else commit


def _first_line(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def command(words: Sequence[str], *, watched: bool = True) -> float:
    """Run a command whose output goes to the step's log; its seconds.

    Args:
        words: The command.
        watched: As ``started``.

    Raises:
        CheckError: It failed.
    """
    start = time.monotonic()
    status = started(words, watched=watched).wait()
    if status:
        raise CheckError(f"{' '.join(words[1:6])} .. ended with {status}")
    return time.monotonic() - start


def started(words: Sequence[str], *, watched: bool = True) -> subprocess.Popen[bytes]:
    """A command's process, which is running.

    Args:
        words: The command.
        watched: Whether it is bsszoo itself, which ends with this process, whatever ends it. What torchrun starts has
            torchrun as its parent.
    """
    from bsszoo.train.parent import PARENT

    print("$", *words, file=sys.stderr, flush=True)
    own = {name: value for name, value in os.environ.items() if name != PARENT}
    own |= {PARENT: str(os.getpid())} if watched else {}
    return subprocess.Popen(words, env=own, stdin=subprocess.DEVNULL)
