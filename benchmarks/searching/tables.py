"""Reads tables of trained networks into tasks. A table is known by its columns, never by its file name.

- NAS-Bench-Macro (github.com/xiusu/NAS-Bench-Macro, Apache-2.0), its own JSON or a CSV of it: 3^8 networks of eight
  layers, three trainings of each on CIFAR-10. One task for each of three MACs budgets.
- The TransNAS-Bench-101 macro subset (github.com/automl/NASLib, branch zerocost, Apache-2.0) as a CSV: seven tasks of
  Taskonomy, one training each. One task for each; the candidates are the table's rows, with no budget besides.
- NAAP-440 (github.com/talcs/NAAP-440, MIT) as a CSV: 440 small networks on CIFAR-10, 90 epochs, one training each.
  Three tasks, the thirds by MACs. Networks that its columns do not tell apart count as one, with their mean.
- ResNets on TinyImageNet (github.com/MITAutoML/accelerating_nas, MIT) as a CSV: 684 of them, 140 epochs. Four tasks,
  the quarters by blocks x filters^2 x kernel^2, which stands for the MACs; those of the usual schedule only.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searching.task import Box, TableError, Task

#: Quantiles of the MACs of NAS-Bench-Macro's distinct networks that serve as budgets.
BUDGETS = (0.3, 0.5, 0.7)

MACRO = "NAS-Bench-Macro"
LAYERS = tuple(f"l{i}" for i in range(1, 9))
TRANSNAS = "TransNAS macro"
MODULES = tuple(f"m{i}" for i in range(1, 7))
TRANSNAS_TASKS = ("class_scene", "class_object", "autoencoder", "normal", "jigsaw", "room_layout", "segmentsemantic")

NAAP = "NAAP-440"
NAAP_ENTRIES = ("NumLayers", "NumStages", "FirstLayerWidth", "LastLayerWidth", "NumParams")
NAAP_RESULT = "e90Accuracy"
TINY = "tiny ResNets"
TINY_ENTRIES = ("num_blocks", "num_filters", "filter_size")
TINY_RESULT = "acc_140"
#: Iterations between drops of the learning rate that nearly all of them have.
TINY_SCHEDULE = "35000"

KNOWN = (
    """Known tables:
  NAS-Bench-Macro as CSV: columns l1 .. l8, flops and acc_s0, acc_s1, .. (canon is checked where present);
  NAS-Bench-Macro as published: JSON, {"01201210": {"test_acc": [..], "flops": ..}, ..};
  TransNAS macro subset as CSV: columns m1 .. m6, macs_m and one or more of """
    + ", ".join(TRANSNAS_TASKS)
    + f"""
  NAAP-440 as CSV: columns {", ".join(NAAP_ENTRIES)}, NumMACs and {NAAP_RESULT};
  ResNets on TinyImageNet as CSV: columns {", ".join(TINY_ENTRIES)}, ss and {TINY_RESULT}."""
)


@dataclass(frozen=True)
class _Trained:
    """What the table says of one network of NAS-Bench-Macro."""

    results: tuple[float, ...]
    macs: int


def read_table(path: Path) -> list[Task]:
    """The tasks of a table.

    Raises:
        TableError: There is no such file, it is no table that is known, or it contradicts itself.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"Cannot read the table {path}: {error}") from error
    try:
        if text.lstrip()[:1] in ("{", "["):
            return _macro_tasks(_macro_json(json.loads(text)))
        rows = list(csv.DictReader(text.splitlines()))
        columns = set(rows[0]) if rows else set()
        if {*LAYERS, "flops"} <= columns and any(c.startswith("acc_s") for c in columns):
            return _macro_tasks(_macro_csv(rows))
        if {*MODULES, "macs_m"} <= columns and columns & set(TRANSNAS_TASKS):
            return _transnas_tasks(rows)
        if {*NAAP_ENTRIES, "NumMACs", NAAP_RESULT} <= columns:
            return _banded(rows, NAAP, "naap", NAAP_ENTRIES, [f"e{i}Accuracy" for i in range(1, 91)], 3)
        if {*TINY_ENTRIES, "ss", TINY_RESULT} <= columns:
            usual = [row for row in rows if row["ss"] == TINY_SCHEDULE]
            return _banded(usual, TINY, "tiny", TINY_ENTRIES, [f"acc_{i}" for i in range(1, 141)], 4)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{path}: cannot be read as a table: {type(error).__name__}: {error}\n{KNOWN}") from error
    seen = ", ".join(sorted(c for c in columns if c)[:12]) or "none"
    raise TableError(f"{path}: no table that is known; its first columns by name: {seen}.\n{KNOWN}")


def canon(arch: str) -> str:
    """The name of a NAS-Bench-Macro network: in stages 2 and 3, [x,0,y] is the same network as [x,y,0].

    >>> canon("00000001"), canon("12102212")
    ('00000010', '12120212')
    """
    stages = [arch[:2], arch[2:5], arch[5:8]]
    return stages[0] + "".join(s[0] + s[2] + "0" if s[1] == "0" else s for s in stages[1:])


def _macro_json(data: Any) -> dict[str, _Trained]:
    if not isinstance(data, Mapping) or not data or not all(_is_arch(a) for a in data):
        raise TableError(f"the JSON is not a mapping from eight digits of 0, 1 and 2 to results.\n{KNOWN}")
    networks = {}
    for arch, entry in data.items():
        results = entry.get("test_acc", entry.get("mean_acc"))
        values = results if isinstance(results, Sequence) and not isinstance(results, str) else [results]
        networks[arch] = _Trained(tuple(float(v) for v in values), round(float(entry["flops"])))
    return networks


def _macro_csv(rows: Sequence[Mapping[str, str]]) -> dict[str, _Trained]:
    seeds = sorted((c for c in rows[0] if c.startswith("acc_s")), key=lambda c: int(c.removeprefix("acc_s")))
    networks = {}
    for row in rows:
        arch = "".join(row[c] for c in LAYERS)
        if not _is_arch(arch):
            raise TableError(f"l1 .. l8 of a row are {arch!r}; they are 0, 1 or 2 each.")
        if row.get("canon", canon(arch)) != canon(arch):
            raise TableError(f"the column canon says {row['canon']} of {arch}, which is the network {canon(arch)}.")
        networks[arch] = _Trained(tuple(float(row[c]) for c in seeds), round(float(row["flops"])))
    return networks


def _is_arch(arch: object) -> bool:
    return isinstance(arch, str) and len(arch) == len(LAYERS) and set(arch) <= set("012")


def _macro_tasks(networks: Mapping[str, _Trained]) -> list[Task]:
    # One row for each network: its canonical spelling, or the first one present where a table lacks that.
    distinct: dict[str, _Trained] = {}
    for arch in sorted(networks, key=lambda a: (canon(a), a != canon(a), a)):
        distinct.setdefault(canon(arch), networks[arch])
    if len({len(t.results) for t in distinct.values()}) > 1:
        raise TableError("some networks have more trainings than others; all need as many.")
    names = sorted(distinct)
    codes = _digits(names)
    macs = np.array([distinct[a].macs for a in names], dtype=np.int64)
    trained = np.array([distinct[a].results for a in names])
    everything = sorted(networks) if len(networks) == 3 ** len(LAYERS) else []
    tasks = []
    for share in BUDGETS:
        limit = int(np.quantile(macs, share))
        within = np.flatnonzero(macs <= limit)
        if not len(within):
            raise TableError(f"no network has at most {limit:,} MACs, the {share} quantile of the table.")
        row_of = {names[i]: row for row, i in enumerate(within)}
        box = (
            Box(
                codes=_digits(everything),
                rows=np.array([row_of.get(canon(a), -1) for a in everything], dtype=np.int64),
                macs=np.array([distinct[canon(a)].macs for a in everything], dtype=np.int64),
                trained=np.array([distinct[canon(a)].results for a in everything]),
                limit=limit,
            )
            if everything
            else None
        )
        tasks.append(Task(f"macro@{share}", MACRO, LAYERS, codes[within], macs[within], trained[within], box))
    return tasks


def _digits(archs: Sequence[str]) -> Any:
    return np.array([[int(c) for c in a] for a in archs], dtype=np.int64).reshape(-1, len(LAYERS))


def transnas_code(modules: Sequence[int]) -> list[int]:
    """Three bits for each module: it is present, it doubles the width, it halves the resolution.

    >>> transnas_code([1, 2, 3, 4, 1, 0])
    [1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    """
    return [bit for m in modules for bit in (int(m > 0), int(m in (2, 4)), int(m in (3, 4)))]


def _transnas_tasks(rows: Sequence[Mapping[str, str]]) -> list[Task]:
    modules = [[int(row[c]) for c in MODULES] for row in rows]
    if any(m not in range(5) for code in modules for m in code):
        raise TableError("m1 .. m6 are 0 to 4 each.")
    codes = np.array([transnas_code(m) for m in modules], dtype=np.int64)
    macs = np.array([round(float(row["macs_m"]) * 1e6) for row in rows], dtype=np.int64)
    names = tuple(f"{m}_{part}" for m in MODULES for part in ("present", "double", "halve"))
    tasks = []
    for name in (t for t in TRANSNAS_TASKS if t in rows[0]):
        # Not every network was trained for every task.
        values = np.array([float(row[name] or "nan") for row in rows])
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            tasks.append(Task(f"transnas/{name}", TRANSNAS, names, codes[known], macs[known], values[known, None]))
    if not tasks:
        raise TableError("no column of a task holds a finite value.")
    return tasks


def _banded(
    rows: Sequence[Mapping[str, str]], group: str, name: str, entries: Sequence[str], epochs: Sequence[str], bands: int
) -> list[Task]:
    """A task for each of so many bands of equal cost; the MACs are an entry too where the table has them.

    ``epochs`` are the columns of the results after each epoch; a table may lack all but the last.
    """
    names = (*entries, "NumMACs") if "NumMACs" in rows[0] else tuple(entries)
    epochs = [column for column in epochs if column in rows[0]]
    results: dict[tuple[int, ...], list[list[float]]] = {}
    for row in rows:
        values = [float(row[column] or "nan") for column in epochs]
        if np.isfinite(values[-1]):
            results.setdefault(tuple(int(row[n]) for n in names), []).append([100 * value for value in values])
    if len(results) < bands:
        raise TableError(f"{len(results)} networks with a finite {epochs[-1]} are too few for {bands} bands.")
    codes = np.array(sorted(results), dtype=np.int64)
    curve = np.array([np.mean(results[tuple(code)], axis=0) for code in codes.tolist()])
    macs = codes[:, -1] if "NumMACs" in names else codes[:, 0] * codes[:, 1] ** 2 * codes[:, 2] ** 2
    # By rank, networks of one cost in one band.
    ends = np.quantile(macs, np.linspace(0, 1, bands + 1), method="lower")
    tasks = []
    for i in range(bands):
        within = np.flatnonzero(((macs > ends[i]) | (i == 0)) & (macs <= ends[i + 1]))
        trained = curve[within, -1:]
        whole = curve[within] if len(epochs) > 1 else None
        tasks.append(Task(f"{name}@{i + 1}of{bands}", group, names, codes[within], macs[within], trained, curve=whole))
    return tasks
