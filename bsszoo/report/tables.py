"""Tables for the terminal, as rich renderables: a network's stages, the models of the zoo, the end of a search.

Print them with ``console.print(table, soft_wrap=True)``. rich then leaves a line that is wider than the terminal to
the terminal, so that a long code can be copied whole; without it a code is folded over two lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bsszoo.codes.code import Code, stages_of
from bsszoo.codes.cost import Cost, ImageSize, checked_size, stage_costs
from bsszoo.codes.families import family_of
from bsszoo.codes.layers import Stage
from bsszoo.report.figures import (
    ABSENT,
    MACS_NAME,
    MACS_NOTE,
    TWO_MACS_NAME,
    TWO_MACS_NOTE,
    both_macs,
    counted_at,
    human,
    latency,
    megabytes,
    noise_words,
    percent,
    quantised_words,
    score,
    sizes_differ,
    test_cells,
)

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    # Only for its types: the package of the search loads scipy and Optuna, which no table needs.
    from bsszoo.codes.detector import Convolution
    from bsszoo.codes.published import PublishedNetwork
    from bsszoo.spaces.chain import BlockShape
    from bsszoo.spaces.limits import LatencyTable
    from bsszoo.study.result import Quantised, Result

_TWO_MACS_COLUMN = "2xMACs"


@dataclass(frozen=True, slots=True)
class ListRow:
    """One model of ``bsszoo list``. ``paper`` holds the paper's figures as text, None where it has none;
    ``weights`` names the source of weights, or says that there are none; ``size`` is the side of the input [px].
    """

    name: str
    family: str
    code: str
    macs: int
    params: int
    paper: str | None
    weights: str
    size: int


def stage_table(
    code: Code,
    image_size: ImageSize | None = None,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    totals_explained: bool = True,
) -> Table:
    """The stages of a code's network in the order of the forward, with a line of totals.

    Args:
        code: The code.
        image_size: Side of the input, or (height, width) [px], at which MACs are counted; the code's by default.
        num_classes, in_chans: Outputs of the classifier and channels of the input.
        totals_explained: Whether the caption says what MACs are, which a summary above the table may say.

    Raises:
        CodeError: An image size that no network can have.
    """
    rows = stage_costs(code, image_size, num_classes=num_classes, in_chans=in_chans)
    total = sum((row.cost for row in rows), Cost(0, 0, 0))
    letter = code.form[:1]
    columns = [("#", True), ("Module", False), ("Operator", False), ("Output", True), ("C", True), ("L", True)]
    columns += [(letter, True)] if letter else []
    table = _table([*columns, (MACS_NAME, True), ("Share", True), ("Params", True)])
    stages = stages_of(code, num_classes=max(num_classes, 1), in_chans=in_chans)
    for row, stage in zip(rows, stages, strict=num_classes > 0):
        classifier = stage.first.classifies
        cells = [
            str(row.number),
            row.name,
            operator(stage),
            ABSENT if classifier else f"{row.size[0]}x{row.size[1]}",
            str(row.width),
            str(row.depth),
        ]
        cells += [inner(stage, letter)] if letter else []
        table.add_row(*cells, human(row.cost.macs), percent(row.cost.macs, total.macs), human(row.cost.params))
    table.add_section()
    blank = [""] * (len(columns) - 2)
    table.add_row("", "total", *blank, human(total.macs), percent(1, 1), human(total.params), style="bold")
    legend = f", {letter} {family_of(code.family).titles[letter][0]}" if letter else ""
    totals = f"\n{MACS_NAME} {human(total.macs)}: {MACS_NOTE}\n{TWO_MACS_NAME} {human(2 * total.macs)}: {TWO_MACS_NOTE}"
    table.caption = _prose(f"C output channels, L blocks{legend}{totals if totals_explained else ''}")
    table.caption_justify = "left"
    return table


def operator(stage: Stage[int]) -> str:
    """A stage's blocks as text, e.g. ``Conv 7x7 + pool``, ``Bottleneck 3x3``, ``MBConv k5 + SE``.

    Where they are of several forms, the first and two dots.
    """
    several = len({block.title() for block in stage.blocks()}) > 1
    return stage.first.title() + (", .." if several else "") + (" + pool" if stage.pool > 1 else "")


def inner(stage: Stage[int], letter: str) -> str:
    """A stage's third entry as text, ``first/further`` where its blocks differ; ``-`` where they have none."""
    if stage.first.letter != letter:
        return ABSENT
    first, rest = stage.first.third(), stage.rest.third()
    return str(first) if stage.depth == 1 or first == rest else f"{first}/{rest}"


def code_summary(code: Code, cost: Cost, image_size: ImageSize | None = None) -> Group:
    """A code and its costs, in a few lines: its text, the paper's form of it, if it has one, MACs both ways, params.

    Args:
        code: The code.
        cost: Its cost at ``image_size``.
        image_size: Input size of the cost [px]; the code's by default.

    Raises:
        CodeError: An image size that no network can have.
    """
    from rich.console import Group

    height, width = checked_size(code.image_size if image_size is None else image_size)
    fixed = ", ".join(f"{name} {value}" for name, value in code.fixed_parts.items())
    lines = [
        ("family", f"{family_of(code.family).title} ({code.family})"),
        ("code", str(code)),
        *([("paper's form", flat + (f" with {fixed}" if fixed else ""))] if (flat := paper_form(code)) else []),
        ("input", f"{height} x {width} px"),
        (MACS_NAME, f"{human(cost.macs)} ({MACS_NOTE}), exactly {cost.macs:,}"),
        (TWO_MACS_NAME, f"{human(cost.macs2)} ({TWO_MACS_NOTE})"),
        ("params", f"{human(cost.params)}, exactly {cost.params:,}"),
        ("activations", f"{human(cost.activations)}, elements of the outputs of all convolutions"),
    ]
    return Group(*(_plain(f"{name:<13} {text}") for name, text in lines))


def paper_form(code: Code) -> str:
    """The paper's flat form of a code, ``{24,40,..}``: its entries, without the family and the fixed parts.

    Empty where its third entries are others than the family's, as a subnetwork's: this form does not say which.
    """
    if code.form != family_of(code.family).letter:
        return ""
    return "{" + ",".join(map(str, code.entries)) + "}"


def latency_blocks(table: LatencyTable) -> Table:
    """A latency table, the blocks of a kind and a place in the network in one row."""
    groups: dict[tuple[Any, ...], list[tuple[BlockShape, float]]] = {}
    for shape in sorted(table.shapes, key=lambda s: (-s.size, s.kind, s.stride)):
        key = (shape.kind, shape.size, shape.kernel, shape.stride)
        groups.setdefault(key, []).append((shape, table.milliseconds(shape)))
    out = _table(
        [
            ("Block", False),
            ("Input [px]", True),
            ("Kernel", True),
            ("Stride", True),
            ("Channels in", True),
            ("Channels out", True),
            ("Blocks", True),
            ("Least [ms]", True),
            ("Median", True),
            ("Most", True),
        ]
    )
    for (kind, size, kernel, stride), rows in groups.items():
        times = sorted(ms for _, ms in rows)
        ends = [
            f"{min(widths)}" if min(widths) == max(widths) else f"{min(widths)}-{max(widths)}"
            for widths in ([s.in_width for s, _ in rows], [s.out_width for s, _ in rows])
        ]
        figures = (times[0], times[len(times) // 2], times[-1])
        out.add_row(kind, *map(str, (size, kernel, stride)), *ends, f"{len(rows):,}", *(f"{ms:.3g}" for ms in figures))
    return out


def code_list(result: Result) -> Group:
    """The codes of a search's end, each whole on a line beneath its label, because one can be wider than a terminal."""
    from rich.console import Group

    return Group(*_codes((row.label, result.name_of(row.code)) for row in result.networks))


def result_table(result: Result, *, with_codes: bool = True) -> Group:
    """The end of a search: the controls and the best codes, what the score measures, and each code whole beneath."""
    from rich.console import Group

    timed = any(row.latency_ms is not None for row in result.networks)
    limited = any(row.predicted_ms is not None for row in result.networks)
    table = _table(
        [
            ("Network", False),
            (MACS_NAME, True),
            (_TWO_MACS_COLUMN, True),
            ("Params", True),
            ("Activ.", True),
            ("Score", True),
            *([("Limited [ms]", True)] if limited else []),
            *([("Latency [ms]", True)] if timed else []),
        ]
    )
    last = None
    for row in result.networks:
        if last is not None and (last == "found") != (row.role == "found"):
            table.add_section()
        last = row.role
        table.add_row(
            _plain(row.label),
            human(row.cost.macs),
            human(row.cost.macs2),
            human(row.cost.params),
            human(row.cost.activations),
            score(row.score),
            *([latency(row.predicted_ms)] if limited else []),
            *([latency(row.latency_ms)] if timed else []),
            style="bold" if row is result.set_apart else None,
        )
    parts: list[RenderableType] = [table, _prose(f"{MACS_NAME}: {MACS_NOTE}. {TWO_MACS_NAME}: {TWO_MACS_NOTE}.")]
    parts.append(_prose(counted_at(row.code.image_size for row in result.networks)))
    about = ["Limited [ms]: what is predicted, to which the limit applies."] if limited else []
    if timed and (limited or result.runtime != "pytorch"):
        about.append(f"Latency: measured{'' if result.runtime == 'pytorch' else f' with {result.runtime}'}.")
    if about:
        parts.append(_prose(" ".join(about)))
    parts.append(_prose(f"Score ({result.evaluator.name}): {result.evaluator.measures}"))
    if result.evaluator.caution:
        parts.append(_prose(result.evaluator.caution, style="yellow"))
    if with_codes:
        parts += [_plain(""), code_list(result)]
    return Group(*parts)


def trained_tables(result: Result, take: Code | None = None) -> list[RenderableType]:
    """The trainings after the search: the noise, the best codes beside the controls, and the one in full.

    ``take`` is the code to take, whose row is bold.
    """
    parts: list[RenderableType] = []
    if result.noise is not None:
        parts.append(_prose(noise_words(result.noise)))
    confirmation = result.confirmation
    if confirmation is not None:
        times = {row.code: row.latency_ms for row in result.networks if row.latency_ms is not None}
        timed = [("Latency [ms]", True)] if times else []
        columns = [("Network", False), (MACS_NAME, True), ("Params", True), *timed]
        table = _table([*columns, ("Mean", True), ("95% interval", True), ("Trainings", True)])
        for row in confirmation.rows:
            mean, interval, each = test_cells(row)
            table.add_row(
                _plain(row.label),
                human(row.cost.macs),
                human(row.cost.params),
                *([latency(times.get(row.code))] if times else []),
                mean,
                interval,
                str(len(row.tests)) if row.tests else each,
                style="bold" if row.code == take and row.role != "random" else None,
            )
        parts += [_plain(""), table, _prose(f"Confirmed: {confirmation.measures}.")]
        parts += _codes((row.label, result.name_of(row.code)) for row in confirmation.rows if row.role == "random")
        parts += [_prose(sentence) for sentence in confirmation.verdicts]
    if result.quantised is not None:
        parts += _quantised(result.quantised, take)
    if result.finished is not None:
        parts += [_plain(""), _prose(str(result.finished))]
    return parts


def _quantised(quantised: Quantised, take: Code | None) -> list[RenderableType]:
    """The networks in float32 and quantised, and those that quantise badly."""
    timed = any(row.ms is not None for row in quantised.rows)
    low = quantised.precision
    units = ["%", "MB", *(["ms"] if timed else [])]
    columns = [(f"{name} [{unit}]", True) for unit in units for name in ("fp32", low)]
    table = _table([("Network", False), *columns])
    for row in quantised.rows:
        table.add_row(
            _plain(row.label),
            f"{row.float_top1:.2f}",
            f"{row.top1:.2f}",
            megabytes(row.float_bytes),
            megabytes(row.bytes),
            *([latency(row.float_ms), latency(row.ms)] if timed else []),
            style="bold" if row.code == take else None,
        )
    return [
        _plain(""),
        table,
        _prose(quantised_words(quantised)),
        *(_prose(sentence) for sentence in quantised.verdicts),
    ]


def detector_table(layers: Sequence[Convolution]) -> Table:
    """A detector's layers beside its backbone; ``-`` where the MACs depend on the number of proposals."""
    table = _table(
        [
            ("Layer", False),
            ("Kernel", False),
            ("In", True),
            ("Out", True),
            ("Outputs [px]", False),
            (MACS_NAME, True),
            ("Params", True),
        ]
    )
    for layer in layers:
        sides = ", ".join(f"{h}x{w}" for h, w in layer.sides) or "each proposal"
        table.add_row(
            layer.name,
            f"{layer.kernel}x{layer.kernel}",
            f"{layer.in_width:,}",
            f"{layer.out_width:,}",
            sides,
            human(layer.cost.macs) if layer.sides else ABSENT,
            human(layer.cost.params),
        )
    return table


def speed_table(rows: Sequence[Any]) -> Table:
    """The speed of networks (``latency.measure.Speed``), a row for each engine; ``-`` where there is no figure.

    Where no row has an interval, its column holds the range of the processes' medians, and its title says so.
    """
    spread = "95%" if any(row.low is not None for row in rows) else "Range"
    table = _table(
        [
            ("Network", False),
            ("px", True),
            ("Engine", False),
            (MACS_NAME, True),
            ("Median [ms]", True),
            (spread, True),
            ("p90", True),
            ("p99", True),
            ("First", True),
            ("Images/s", True),
            ("Memory [MB]", True),
        ]
    )
    last = None
    for row in rows:
        if last is not None and row.network != last:
            table.add_section()
        low, high = (row.low, row.high) if spread == "95%" else (row.lowest, row.highest)
        interval = ABSENT if low is None else f"{latency(low)} to {latency(high)}"
        first = row.network != last
        table.add_row(
            _plain(row.network if first else ""),
            str(row.image_size) if first else "",
            row.engine,
            human(row.cost.macs),
            latency(row.median),
            interval,
            latency(row.p90),
            latency(row.p99),
            latency(row.warm_ms),
            ABSENT if row.images_per_s is None else f"{row.images_per_s:,.1f}",
            ABSENT if row.memory is None else f"{row.memory / 1e6:,.0f}",
        )
        last = row.network
    return table


def model_list_table(rows: Sequence[ListRow], *, with_codes: bool = False) -> Group:
    """The models of ``bsszoo list``, a section for each family; with their codes beneath if ``with_codes``."""
    from rich.console import Group

    table = _table(
        [
            ("Model", False),
            ("px", True),
            (MACS_NAME, True),
            (_TWO_MACS_COLUMN, True),
            ("Params", True),
            ("Paper", False),
            ("Weights", False),
        ]
    )
    for i, row in enumerate(rows):
        if i and row.family != rows[i - 1].family:
            table.add_section()
        table.add_row(
            _plain(row.name),
            str(row.size),
            human(row.macs),
            human(2 * row.macs),
            human(row.params),
            _plain(row.paper or ABSENT),
            _plain(row.weights),
        )
    parts: list[RenderableType] = [table, _prose(f"{MACS_NAME}: {MACS_NOTE}. {TWO_MACS_NAME}: {TWO_MACS_NOTE}.")]
    if differ := sizes_differ(row.size for row in rows):
        parts.append(_prose(differ))
    if with_codes:
        parts += [_plain(""), *_codes((row.name, row.code) for row in rows)]
    return Group(*parts)


def published_table(rows: Sequence[PublishedNetwork]) -> Group:
    """The published networks of ``bsszoo list --budget``, as they come."""
    from rich.console import Group

    table = _table(
        [
            ("Network", False),
            ("px", True),
            (MACS_NAME, True),
            ("Params", True),
            ("Top-1 [%]", True),
            ("Beside ImageNet-1k", False),
            ("Source", False),
        ]
    )
    beside = {"more": "more images", "teacher": "a teacher", "": ""}
    for row in rows:
        table.add_row(
            _plain(row.name),
            str(row.image_size or ABSENT),
            human(row.macs),
            human(row.params) if row.params else ABSENT,
            f"{row.top1:.2f}",
            beside[row.data],
            _plain(row.source),
        )
    return Group(table, _prose(f"{MACS_NAME}: {MACS_NOTE}."))


def cost_line(cost: Cost) -> Text:
    """A cost in one line: MACs and 2 x MACs each with its name, params, activations."""
    return _plain(f"{both_macs(cost.macs)} | params {human(cost.params)} | activations {human(cost.activations)}")


def _table(columns: Iterable[tuple[str, bool]]) -> Table:
    """An empty table; a column is its title and whether it holds numbers. Narrow: it has to fit 80 characters."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, number in columns:
        # Figures are never cut; a long name is folded, so that it too stays whole.
        table.add_column(_plain(title), justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _codes(pairs: Iterable[tuple[str, str]]) -> list[Text]:
    # The code at the start of a line: it can be copied as it is.
    lines: list[Text] = []
    for label, code in pairs:
        lines += [_plain(f"{label}:", style="bold"), _plain(code)]
    return lines


def _plain(text: str, style: str = "") -> Text:
    """Text that rich takes as it is (a ``[`` in it is no markup), left whole by ``soft_wrap``."""
    from rich.text import Text

    return Text(text, style=style)


def _prose(text: str, style: str = "") -> Text:
    """Sentences, broken between words at the terminal's width with and without ``soft_wrap``."""
    from rich.text import Text

    return Text(text, style=style, no_wrap=False, overflow="fold")
