"""The codes found beside the controls, each network a card with a bar for each figure of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bsszoo.codes.families import TITLES, family_of
from bsszoo.report.figures import MACS_NAME, counted_at, human, score
from bsszoo.report.markup import text

if TYPE_CHECKING:
    # Only for its types: the package of the search loads scipy and Optuna, which no page needs.
    from bsszoo.study.result import NetworkRow, Result

# A card's drawing, in units that a phone shows at about a pixel each.
_LEFT, _ROW, _HEAD, _GAP, _TOTAL, _NUMBER = 22, 17, 18, 10, 300, 30


def cards(result: Result) -> str:
    """The networks of the closing table side by side, stage by stage.

    Bars of one column share their scale over all cards; the thin mark on a bar is the uniformly rescaled network's.
    """
    family = family_of(result.family)
    letters = "CL" + family.letter
    titles = [TITLES[c][0].removesuffix(" width") for c in letters]  # a column is narrow
    stages = family.numbers
    tables = [_columns(row, family.stages) for row in result.networks]
    tops = [max(max(table[k]) for table in tables) for k in range(len(letters))]
    uniform = next((t for t, row in zip(tables, result.networks, strict=True) if row.role == "uniform"), None)
    out = []
    for place, (row, table) in enumerate(zip(result.networks, tables, strict=True)):
        drawing = _drawing(table, uniform, tops, titles, stages, f"card-{place}", row.label)
        mark = " first" if row is result.best else ""
        said = f" &middot; score {score(row.score)}" if row.score is not None else ""
        figures = f"{human(row.cost.macs)} {MACS_NAME} &middot; {human(row.cost.params)} params{said}"
        out.append(
            f'<div class="card {row.role}{mark}"><h3>{text(row.label)}</h3><p class="soft">{figures}</p>{drawing}</div>'
        )
    said = counted_at(row.code.image_size for row in result.networks)
    return f'<div class="cards">{"".join(out)}</div><p class="soft">{said}</p>'


def _columns(row: NetworkRow, stages: int) -> list[tuple[int, ...]]:
    entries = row.code.entries
    return [tuple(entries[start : start + stages]) for start in range(0, len(entries), stages)]


def _drawing(
    table: list[tuple[int, ...]],
    uniform: list[tuple[int, ...]] | None,
    tops: Sequence[int],
    titles: Sequence[str],
    stages: Sequence[int],
    prefix: str,
    label: str,
) -> str:
    count = len(titles)
    width = (_TOTAL - _LEFT - _GAP * (count - 1)) / count
    room = width - _NUMBER
    height = _HEAD + _ROW * len(stages)
    said = "; ".join(f"{title} {', '.join(map(str, column))}" for title, column in zip(titles, table, strict=True))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_TOTAL} {height}" role="img" '
        f'aria-labelledby="{prefix}-title"><title id="{prefix}-title">{text(label)}, by stage: {said}</title>'
    ]
    parts += [f'<text x="0" y="{_HEAD + _ROW * i + 12}" class="faint">{stage}</text>' for i, stage in enumerate(stages)]
    for k, title in enumerate(titles):
        x = _LEFT + k * (width + _GAP)
        parts.append(f'<text x="{x:.1f}" y="11" class="faint">{title}</text>')
        for i, value in enumerate(table[k]):
            y, long = _HEAD + _ROW * i, room * value / tops[k]
            parts.append(f'<rect x="{x:.1f}" y="{y + 3}" width="{long:.1f}" height="11" class="bar"/>')
            if uniform is not None:
                at = x + room * uniform[k][i] / tops[k]
                parts.append(f'<rect x="{at - 0.75:.1f}" y="{y + 1}" width="1.5" height="15" class="mark"/>')
            # Behind the bar or the mark, whichever is longer, so that the figure is never struck through.
            end = max(long, 0.0 if uniform is None else room * uniform[k][i] / tops[k]) + 4
            parts.append(f'<text x="{x + end:.1f}" y="{y + 12}">{value}</text>')
    return "".join(parts) + "</svg>"
