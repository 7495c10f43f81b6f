"""A matplotlib figure as SVG text for an HTML page with several such figures."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Drawn in this colour, a line or a letter takes the colour of the page's text, in light and in dark mode. The
#: value is arbitrary: any colour that nothing else uses.
INK: Final = "#010203"
#: The same for what stays in the background: grids and frames.
FAINT: Final = "#040506"

_RC: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "bsszoo",  # the same figure gets the same ids, so that equal results give equal pages
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "path.simplify": False,
}

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# A user's matplotlibrc may change these, and with them the page: they are reset to matplotlib's defaults.
_RESET: Final[tuple[Any, ...]] = (
    "font.family",
    "axes.prop_cycle",
    "lines.linewidth",
    "figure.dpi",
    "savefig.dpi",
    "text.usetex",
    "axes.unicode_minus",
    "axes.formatter.use_mathtext",
    "axes.formatter.use_locale",
    "savefig.bbox",
    "savefig.pad_inches",
    "hatch.linewidth",
    "hatch.color",
)


def style() -> AbstractContextManager[None]:
    """A context in which figures are made and turned into text; the user's matplotlib settings are restored after."""
    import matplotlib

    # Any: matplotlib types every key of its settings, and a plain table of them has no such type.
    settings: dict[Any, Any] = {key: matplotlib.rcParamsDefault[key] for key in _RESET}
    return matplotlib.rc_context({**settings, **_RC})


def svg_text(figure: Figure, *, prefix: str, title: str) -> str:
    """A figure as one ``<svg>`` element; call it inside ``style()``.

    It scales to the width of its container, carries its title for readers that cannot see it, holds no date and no
    version, and its ids begin with the prefix, so that several figures can share a page.

    Args:
        figure: The figure.
        prefix: A word that is unique on the page.
        title: A sentence that describes the figure.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    # Inside a page this rule of matplotlib's would apply to everything on it; on the root element it is inherited.
    text = re.sub(r"<style[^>]*>.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>\s*", "", text)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-")
    text = re.sub(r'font:\s*([^;"]*?[\d.]+px)[^;"]*', rf"font: \1 {_FONT}", text)
    text = re.sub(r'font-family:\s*[^;"]*', f"font-family: {_FONT}", text)
    text = text.replace(INK, "currentColor").replace(f"stroke: {FAINT}", "stroke: currentColor; stroke-opacity: .25")
    text = text.replace(FAINT, "currentColor")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    escaped = html.escape(title)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box.group(0)} '
        f'role="img" aria-labelledby="{prefix}-title" version="1.1" '
        f'style="width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt">\n'
        f'<title id="{prefix}-title">{escaped}</title>'
    )
    return head + text[text.index(">") + 1 :].rstrip() + "\n"


def with_hints(svg: str, group: str, hints: Sequence[str]) -> str:
    """An ``<svg>`` element whose groups ``GROUP-0``, ``GROUP-1``, .. say a text each where the pointer is over them."""
    for i, hint in enumerate(hints):
        opening = f'<g id="{group}-{i}">'
        assert svg.count(opening) == 1, opening
        svg = svg.replace(opening, f'<g id="{group}-{i}" class="point"><title>{html.escape(hint)}</title>')
    return svg
