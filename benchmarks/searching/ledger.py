"""The file of finished runs, one JSON object a line: what is in it is not run again."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from searching.protocol import Run
from searching.task import Task

FILE = "runs.jsonl"

#: What tells one run from another.
Key = tuple[str, str, int]

_FIELDS = {f.name for f in dataclasses.fields(Run)}


def key_of(run: Run) -> Key:
    """Task, sampler and seed."""
    return run.task, run.sampler, run.seed


class Ledger:
    """The runs under a folder. Lines are appended whole; a line cut short by an interruption is passed over."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> list[Run]:
        """All runs of the file, the last of each kind where one stands twice."""
        if not self.path.exists():
            return []
        found: dict[tuple[object, ...], Run] = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                entry: dict[str, Any] = json.loads(line)
                run = Run(**{name: entry[name] for name in _FIELDS})
            except (ValueError, KeyError, TypeError):
                print(f"{self.path}:{number}: not a whole run, passed over", file=sys.stderr)
                continue
            key = (key_of(run), run.digest, run.evaluations, run.batch)
            found.pop(key, None)
            found[key] = run
        return list(found.values())

    def append(self, runs: Iterable[Run]) -> None:
        """Adds runs, each on a line of its own, even after one that was cut short."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            for run in runs:
                file.write(("\n" if torn else "") + json.dumps(dataclasses.asdict(run)) + "\n")
                torn = False
                file.flush()


def chosen(
    runs: Iterable[Run],
    *,
    evaluations: int,
    batch: int,
    tasks: Mapping[str, Task] | None = None,
    seeds: int | None = None,
) -> list[Run]:
    """The runs of this protocol on these very tasks; without them, on each task as its table was last."""
    wanted = [
        r for r in runs if r.evaluations == evaluations and r.batch == batch and (seeds is None or r.seed < seeds)
    ]
    if tasks is None:
        digests = {r.task: r.digest for r in wanted}
    else:
        digests = {name: task.digest for name, task in tasks.items()}
    return [r for r in wanted if digests.get(r.task) == r.digest]
