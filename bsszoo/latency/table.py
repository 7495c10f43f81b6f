"""A latency table measured on this machine: the distinct blocks of a space, each timed alone.

Of a space of many blocks some are timed, and a line through them gives the others' times: within a kind of block at a
place in the network, time is about linear in the channels, in what the channels of each pair of layers multiply to, and
a constant, each factor 0 or more.

Runtimes other than PyTorch take channels in vectors, rearrange what goes into and out of a block that stands alone, and
a call of theirs costs as much as a block. So a line counts channels in whole vectors too, a call's time is taken off,
and times of whole networks correct the blocks of each kind and place.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bsszoo.codes.code import Code
from bsszoo.codes.cost import block_cost, code_cost
from bsszoo.codes.families import family_of
from bsszoo.codes.layers import Block, Placement
from bsszoo.errors import SettingsError
from bsszoo.files import cache_folder, write_whole
from bsszoo.latency.runtimes import DEFAULT, Runtime, network_to_time, runtime_of, with_all_layers
from bsszoo.latency.timer import cpu_threads, time_forwards
from bsszoo.spaces.chain import BlockShape, block_shapes, space_shapes
from bsszoo.spaces.limits import LatencyTable
from bsszoo.spaces.space import Space, uniform_codes, uniform_subnetworks

#: Most blocks that are all timed; a space of section B.2.2 has 120 to 662.
MOST_TIMED: Final = 300
#: How long a block's forwards are repeated [s], in a table that is kept.
SECONDS_EACH = 0.05
# Turns in which all blocks are timed: a slow spell of the machine then affects none in all of them.
_TURNS = 4
# The same of blocks that a runtime loads from a file, each time.
_TURNS_EXPORTED = 2
# Of timing whole networks, and of a runtime that they are exported to.
_SECONDS, _SECONDS_EXPORTED = 4.0, 10.0
# Networks from which three figures are fitted to their times.
_LEAST_NETWORKS = 8
# Most of the codes asked for that figures are fitted to.
_CODES = 16
# Exported networks that take turns together.
_TOGETHER = 8
# Parameters of exported networks that are in memory together; a runtime holds some copies.
_MOST_PARAMS = 100_000_000
# Channels of a vector, and of the least part of one that runtimes count in.
_VECTOR, _PART = 16, 4
_MILLION = 1e6


def measure_latency_table(
    space: Space,
    *,
    codes: Sequence[Code] = (),
    device: str = "cpu",
    batch: int = 1,
    threads: int = 0,
    seconds_each: float = SECONDS_EACH,
    networks: int | None = None,
    on_block: Callable[[int, int], None] | None = None,
    runtime: str = DEFAULT,
) -> LatencyTable:
    """Time every distinct block of a space: float32 forwards of one batch, random weights, the least of several.

    Each block is built from the same description as the networks. A block that is run alone finds its weights in the
    cache, so the sum is too small: some whole networks are timed as well, and a factor, a time for each weight and one
    for each network make their sums right. Use the table on the machine it was measured on, for that device
    and batch.

    Args:
        space: Whose codes' blocks to time. What ``bsszoo compress`` searches under a budget is
            ``bsszoo.compression.plan.budget_space(reference, macs)``.
        codes: Others whose blocks the table shall hold.
        device: A torch device.
        batch: Images at a time.
        threads: CPU threads; 0 leaves PyTorch's.
        seconds_each: How long to repeat each block, at least three times; 600 blocks take half a minute and more.
        networks: Networks to fit these figures to, up to 16 of ``codes`` and so many of the space's at random (where
            there are codes, of spaces of subnetworks only); by default 16, of onnxruntime and OpenVINO 64. 0 leaves
            the blocks' times as they are.
        on_block: Called with the steps done and all steps, after each; every block is timed in four turns, or exported
            and timed in two where the runtime takes a file, as the networks are.
        runtime: How blocks are run: ``pytorch`` (eager forwards), or on the CPU ``onnxruntime``, ``openvino`` or
            ``litert``, whose converter takes seconds for a block and ten for a network.

    Raises:
        SettingsError: There is no such runtime, it is not installed, or not for this device.

    Example:
        >>> from dataclasses import replace
        >>> space = replace(Space.of("resnet18"), image_size=32).replace(
        ...     C2=[32], C3=[32, 64], C4=[64], C5=[128], L2=[1], L3=[1], L4=[1], L5=[1])
        >>> table = measure_latency_table(space, seconds_each=0.0, networks=1)
        >>> len(table), table.of(space.smallest) > 0
        (8, True)
    """
    chosen = runtime_of(runtime)
    exported = chosen.export is not None
    if exported and torch.device(device).type != "cpu":
        raise SettingsError(f"{chosen.name} is measured on the CPU, not on {device}.")
    sizes: dict[str, Any] = {"num_classes": space.num_classes, "in_chans": space.in_chans}
    shapes = sorted({*space_shapes(space), *(shape for code in codes for shape in block_shapes(code, **sizes))})
    assert chosen.timed is not None
    timed = shapes if len(shapes) <= min(MOST_TIMED, chosen.timed[0]) else _some(shapes, chosen.timed)
    if networks is None:
        networks = chosen.networks
    some: list[Code] = []
    if networks:
        first = min(networks, _CODES)
        some = list(codes[:: max(1, len(codes) // first)][:first])
        if space.base is not None or not codes:
            # A grid's own may be many times as large as what is searched on it.
            some += [space.code(row) for row in space.sample(networks, 0)]
    if exported:
        some = _in_memory(some, sizes)
    every = (1 + _TURNS_EXPORTED) * len(timed) + len(some) if exported else _TURNS * len(timed)
    steps = _Steps(on_block, every)
    with cpu_threads(threads):
        table = _measured(timed, space.family, device, batch, seconds_each, steps, chosen)
        if len(timed) < len(shapes):
            table = _extended(table, timed, shapes, chosen.lines)
        if some:
            table = _in_networks(table, space, some, sizes, device, batch, steps, chosen)
    return table


class _Steps:
    """Counts what is done for ``on_block``."""

    def __init__(self, on_block: Callable[[int, int], None] | None, total: int) -> None:
        self._on_block, self._total, self._done = on_block, total, 0

    def one(self) -> None:
        self._done += 1
        if self._on_block is not None:
            self._on_block(self._done, self._total)


def kept_table(
    space: Space,
    reference: Code,
    *,
    saved: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
    batch: int = 1,
    threads: int = 1,
    on_block: Callable[[int, int], None] | None = None,
    runtime: str = DEFAULT,
) -> LatencyTable:
    """A table of this machine's CPU: from a file that an earlier call wrote, or measured now and kept.

    Files are in ``bsszoo/latency`` of the user's cache (``XDG_CACHE_HOME``, by default ``~/.cache``), each named after
    a fingerprint of the space, the codes, batch, threads, the processor, the runtime, and its and PyTorch's version.

    Args:
        space, batch, threads, on_block, runtime: As ``measure_latency_table``.
        reference: The network that is compressed; the table holds its uniformly narrower ones' blocks too.
        saved: A copy elsewhere, such as a run's; it is taken where it is of the same fingerprint.
        note: Called with where the table is from.

    Raises:
        SettingsError: There is no such runtime, or it is not installed.
    """
    from importlib.metadata import version

    from bsszoo.latency.engines import processor

    codes = uniform_codes(reference) if space.base is None else uniform_subnetworks(space)
    chosen = runtime_of(runtime)
    where = {"processor": processor(), "machine": platform.machine(), "torch": version("torch")}
    about = {**where, "batch": batch, "threads": threads, "way": 2}
    if chosen.name != DEFAULT:
        about |= {"runtime": chosen.name, "runtime_version": chosen.version}
    text = json.dumps([about, repr(space), [str(code) for code in codes]])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    cache = cache_folder() / "latency"
    file = cache / f"{fingerprint}.json"
    for path in (saved, file):
        if path is not None and _notes_of(path).get("fingerprint") == fingerprint:
            note(f"Latencies: the table of blocks in {path}")
            return LatencyTable.load(path)
    threads_word = "1 thread" if threads == 1 else f"{threads} threads"
    title = family_of(space.family).title
    how = "" if chosen.name == DEFAULT else f" with {chosen.label}"
    note(f"Latencies: timing blocks of {title} networks{how} on {where['processor']}, {threads_word} ...")
    table = measure_latency_table(
        space, codes=codes, batch=batch, threads=threads, seconds_each=SECONDS_EACH, on_block=on_block, runtime=runtime
    )
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(file, table.text(fingerprint=fingerprint, **about))
    note(f"Latencies: kept in {file}")
    return LatencyTable.load(file)


def _notes_of(path: Path) -> dict[str, Any]:
    """What stands in a table's file beside its blocks; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _some(shapes: Sequence[BlockShape], number: tuple[int, int]) -> list[BlockShape]:
    """Some blocks of each kind and place, the extreme ones and others as far from them as there are."""
    groups = _groups(shapes)
    each = max(number[1], number[0] // len(groups))
    chosen = []
    for group in groups.values():
        points = np.log([[s.in_width, s.mid_width + 1, s.out_width, s.mlp_width + 1] for s in group])
        points = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-9)
        taken = [int(points.sum(1).argmin())]
        distance = np.full(len(group), np.inf)
        while len(taken) < min(each, len(group)):
            distance = np.minimum(distance, ((points - points[taken[-1]]) ** 2).sum(1))
            taken.append(int(distance.argmax()))
        chosen += [group[i] for i in taken]
    return sorted(chosen)


def _groups(shapes: Sequence[BlockShape]) -> dict[tuple[object, ...], list[BlockShape]]:
    """Blocks whose times lie on one line: of a kind and a place, with a shortcut of the same kind."""
    groups: dict[tuple[object, ...], list[BlockShape]] = defaultdict(list)
    for s in shapes:
        projected = s.stride > 1 or s.in_width != s.out_width
        gate, grouped = s.squeeze_width > 0, s.group_width > 0
        groups[s.kind, s.kernel, s.stride, s.size, s.stride1x1, projected, gate, grouped].append(s)
    return groups


def _extended(
    table: LatencyTable, timed: Sequence[BlockShape], shapes: Sequence[BlockShape], lines: str = "plain"
) -> LatencyTable:
    """All blocks' times by lines through those that were timed: ``Runtime.lines``."""
    from scipy.optimize import nnls

    terms = {"plain": _terms, "vectors": _vector_terms, "uneven": _uneven_terms}[lines]
    known = _groups(timed)
    times: dict[BlockShape | str, float] = {}
    for key, group in _groups(shapes).items():
        ms = np.array([table.milliseconds(shape) for shape in known[key]])
        scale = terms(group).max(0)
        # Each error counts as a share of the time.
        weights, _ = nnls(terms(known[key]) / scale / ms[:, None], np.ones(len(ms)))
        times |= dict(zip(group, np.maximum(terms(group) / scale @ weights, ms.min() / 2).tolist(), strict=True))
    if lines == "uneven":
        times |= {shape: table.milliseconds(shape) for shape in timed}
    return LatencyTable(times, name=table.name)


def _vector_terms(shapes: Sequence[BlockShape]) -> NDArray[np.float64]:
    """``_terms``, and those of widths in whole vectors [n, terms]."""

    def whole(width: int) -> int:
        return -(-width // _VECTOR) * _VECTOR

    padded = [
        s._replace(in_width=whole(s.in_width), mid_width=whole(s.mid_width), out_width=whole(s.out_width))
        for s in shapes
    ]
    return np.concatenate([_terms(shapes), _terms(padded)[:, 1:7]], axis=1)


def _uneven_terms(shapes: Sequence[BlockShape]) -> NDArray[np.float64]:
    """``_vector_terms``, and what channels cost that fill no part of a vector [n, terms]."""
    widths = np.array([[s.in_width, s.mid_width, s.out_width] for s in shapes], dtype=np.float64)
    before, middle, after = (widths * (widths % _PART > 0)).T
    uneven = [
        *(column > 0 for column in (before, middle, after)),
        before,
        middle,
        after,
        before * widths[:, 1],
        middle * widths[:, 0],
        middle * widths[:, 2],
        after * widths[:, 1],
    ]
    return np.concatenate([_vector_terms(shapes), np.stack(uneven, axis=1) + 1e-9], axis=1)


def _terms(shapes: Sequence[BlockShape]) -> NDArray[np.float64]:
    """What the time of a block is a sum of [n, terms]."""
    columns = ("in_width", "mid_width", "out_width", "squeeze_width", "group_width")
    rows = np.array([[getattr(s, column) for column in columns] for s in shapes], dtype=np.float64)
    before, middle, after, gate, group = rows.T
    grouped = middle * np.where(group > 0, group, 1)
    terms = [np.ones(len(rows)), before, middle, after, before * middle, middle * after, before * after, middle * gate]
    mlp = np.array([s.mlp_width for s in shapes], dtype=np.float64)
    beside = [mlp, before * mlp] if mlp.any() else []
    return np.stack([*terms, grouped, *beside], axis=1) + 1e-9


def _measured(
    shapes: Sequence[BlockShape],
    family: str,
    device: str,
    batch: int,
    seconds_each: float,
    steps: _Steps,
    runtime: Runtime,
) -> LatencyTable:
    times: dict[BlockShape | str, float] = {}
    threads, exported = torch.get_num_threads(), runtime.export is not None
    turns = _TURNS_EXPORTED if exported else _TURNS
    with TemporaryDirectory(prefix="bsszoo-blocks-") as folder:
        files = {shape: f"{folder}/{i}" for i, shape in enumerate(shapes if exported else ())}
        for shape, file in files.items():
            assert runtime.export is not None
            block, images = with_all_layers(build_block(shape, family).eval()), torch.randn(batch, *block_input(shape))
            Path(file).write_bytes(runtime.export(block, images))
            steps.one()
        for _ in range(turns):
            for shape in shapes:
                # Loaded anew in each turn: one of many that a runtime holds may be slow long after its turn began.
                network: Any = files.get(shape) or build_block(shape, family).eval().to(device)
                forward = runtime.load(network, torch.randn(batch, *block_input(shape), device=device), threads)
                ms = _least_ms(forward, device, seconds_each / turns)
                times[shape] = min(ms, times.get(shape, ms))
                steps.one()
    if exported:
        # What a call costs whatever it computes; a block costs something all the same.
        empty = runtime.forward(nn.Identity().eval(), torch.randn(batch, *block_input(shapes[0])))
        call = min(_least_ms(empty, device, seconds_each / turns) for _ in range(turns))
        times = {shape: max(ms - call, ms / 20) for shape, ms in times.items()}
    return LatencyTable(times, name=f"table measured on {device}")


def _in_memory(codes: Sequence[Code], sizes: dict[str, Any]) -> list[Code]:
    """As many of these networks, evenly from all, as are in memory together when they are exported."""
    params = sum(code_cost(code, **sizes).params for code in codes)
    every = max(1, -(-params // _MOST_PARAMS))
    return list(codes[:: min(every, max(1, len(codes) // _LEAST_NETWORKS))])


def _in_networks(
    table: LatencyTable,
    space: Space,
    codes: Sequence[Code],
    sizes: dict[str, Any],
    device: str,
    batch: int,
    steps: _Steps,
    runtime: Runtime,
) -> LatencyTable:
    """The table whose sums are whole networks' times: each block's alone times a factor, and a time for each weight.

    Weights that are in the cache when a block runs alone are not when others have run since; what a network does beside
    its blocks is counted with the stem. Least squares on the relative errors of some networks, which take turns, gives
    the three figures, none below 0; of few networks only the factor that is right at their median.
    """
    from scipy.optimize import lsq_linear

    exported = runtime.export is not None
    images = torch.randn(batch, sizes["in_chans"], codes[0].image_size, codes[0].image_size, device=device)
    forwards = []
    for code in codes:
        forwards.append(runtime.forward(network_to_time(code, **sizes).to(device), images))
        if exported:
            steps.one()
    measured = _medians(forwards, device, exported=exported)
    weights = {shape: _weights(shape, space.family) for shape in table.shapes}
    blocks = [block_shapes(code, **sizes) for code in codes]
    rows = [
        [table.of(code, **sizes), sum(weights[shape] for shape in own) / _MILLION, 1.0]
        for code, own in zip(codes, blocks, strict=True)
    ]
    factor, of_weights, beside = float(np.median(measured / np.array(rows)[:, 0])), 0.0, 0.0
    if len(codes) >= _LEAST_NETWORKS:
        # Blocks take the most of the time, whatever the noise.
        least = np.array([factor / 2, 0.0, 0.0])
        shares = np.array(rows) / measured[:, None]
        factor, of_weights, beside = lsq_linear(shares, np.ones(len(codes)), bounds=(least, np.inf)).x.tolist()
    fitted: dict[BlockShape | str, float] = {
        shape: factor * table.milliseconds(shape)
        + of_weights * weights[shape] / _MILLION
        + (beside if shape.kind == "stem" else 0.0)
        for shape in table.shapes
    }
    table = LatencyTable(fitted, name=table.name)
    return _by_place(table, blocks, measured) if exported and len(codes) >= _LEAST_NETWORKS else table


def _medians(forwards: Sequence[Callable[[], object]], device: str, *, exported: bool) -> NDArray[np.float64]:
    """The median times of networks that take turns [ms]."""
    if not exported:
        timed = time_forwards(forwards, device=device, seconds=_SECONDS, least=5, most=100)
        return np.array([latency.median_ms for latency in timed])
    # As few together as a closing table has: the more there are, the longer a short forward takes.
    groups = [forwards[i : i + _TOGETHER] for i in range(0, len(forwards), _TOGETHER)]
    seconds = _SECONDS_EXPORTED / _TURNS / len(groups)
    turns = [
        [one.times for group in groups for one in time_forwards(group, seconds=seconds, least=5, most=100, again=True)]
        for _ in range(_TURNS)
    ]
    return np.array([np.median(np.concatenate(times)) for times in zip(*turns, strict=True)])


def _by_place(
    table: LatencyTable, networks: Sequence[Sequence[BlockShape]], measured: NDArray[np.float64]
) -> LatencyTable:
    """The table with a factor and a time for the blocks of each kind and place, fitted to networks' times [ms].

    Ridge regression on the relative errors: that of a network is taken to be as large as what one factor or time
    changes at most, so that few networks change little.
    """
    groups = list(_groups(table.shapes).values())
    number = {shape: i for i, group in enumerate(groups) for shape in group}
    parts = np.zeros((len(networks), 2 * len(groups)))
    for row, shapes in zip(parts, networks, strict=True):
        for shape in shapes:
            row[number[shape]] += table.milliseconds(shape)
            row[len(groups) + number[shape]] += 1
    sums = parts[:, : len(groups)].sum(1)
    scale = np.maximum(parts.max(0), 1e-9) / np.median(measured)
    shares = parts / scale / measured[:, None]
    found = np.linalg.solve(shares.T @ shares + np.eye(shares.shape[1]), shares.T @ (1 - sums / measured)) / scale
    factors, added = found[: len(groups)], found[len(groups) :]
    return LatencyTable(
        {
            shape: max((1 + factors[i]) * ms + added[i], ms / 4)
            for shape, i in number.items()
            for ms in [table.milliseconds(shape)]
        },
        name=table.name,
    )


def _weights(shape: BlockShape, family: str) -> int:
    """Parameters of a block."""
    (_, params, _), _ = block_cost(_block(shape, family), (shape.size, shape.size))
    return int(params)


def _least_ms(forward: Callable[[], object], device: str, seconds: float) -> float:
    """The least, not the median: other work on the machine only ever lengthens a time, and 600 blocks take no turns."""
    (latency,) = time_forwards([forward], device=device, seconds=seconds)
    return max(min(latency.times), 1e-6)


def build_block(shape: BlockShape, family: str) -> nn.Module:
    """The module of one block of a family's networks, freshly initialised; its input is ``block_input(shape)``.

    A ResNet's stem has its max pooling behind it.

    Example:
        >>> import torch
        >>> shape = BlockShape("mbconv", 16, 24, 96, 3, 2, 0, 32)
        >>> build_block(shape, "mobilenetv2").eval()(torch.zeros(1, *block_input(shape))).shape
        torch.Size([1, 24, 16, 16])
    """
    block = _block(shape, family)
    return block.build(Placement(block.stride), family_of(family).activation, {})


def _block(shape: BlockShape, family: str) -> Block[int]:
    return family_of(family).block_of_kind(
        shape.kind,
        shape.kind,
        shape.in_width,
        shape.out_width,
        shape.mid_width,
        shape.kernel,
        shape.stride,
        shape.squeeze_width or None,
        "1x1" if shape.stride1x1 else "3x3",
        shape.group_width or None,
        shape.mlp_width or None,
    )


def block_input(shape: BlockShape) -> tuple[int, int, int]:
    """Channels, height and width [px] of the block's input."""
    return shape.in_width, shape.size, shape.size
