"""SVG elements as text, and text that is made to fit."""

from __future__ import annotations

import textwrap
from xml.sax.saxutils import escape

from rinsc.graph.draw.labels import cut
from rinsc.graph.draw.palette import Colour

LINE = "#5b6675"
MUTED = "#566070"
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
ADVANCE, BOLD_ADVANCE = 0.59, 0.78  # em per character in the widest of these fonts


def rect(
    x: float,
    y: float,
    width: float,
    height: float,
    radius: float,
    fill: str,
    stroke: str | None = None,
    *,
    dashed: bool = False,
) -> str:
    line = "" if stroke is None else f' stroke="{stroke}" stroke-width="1.5"'
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<rect x="{num(x)}" y="{num(y)}" width="{num(width)}" height="{num(height)}" '
        f'rx="{num(radius)}" fill="{fill}"{line}{dashes}/>'
    )


def fill_of(colour: Colour) -> str:
    """What a box of this colour is filled with: the colour, or the pattern of its stripes."""
    return colour.fill if colour.stripes is None else f"url(#{_pattern_name(colour)})"


def pattern(colour: Colour) -> str:
    """The definition that `fill_of` refers to; nothing for a colour without stripes."""
    stripes = colour.stripes
    if stripes is None:
        return ""
    size = stripes.spacing
    return (
        f'<pattern id="{_pattern_name(colour)}" width="{size}" height="{size}" '
        f'patternUnits="userSpaceOnUse" patternTransform="rotate({stripes.angle})">'
        f'<rect width="{size}" height="{size}" fill="{colour.fill}"/>'
        f'<rect width="3" height="{size}" fill="{stripes.colour}"/></pattern>'
    )


def _pattern_name(colour: Colour) -> str:
    stripes = colour.stripes
    assert stripes is not None
    return f"stripes-{colour.fill[1:]}-{stripes.angle}-{stripes.spacing}"


def line(path: str, colour: str = LINE, thickness: float = 2) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{thickness}"/>'


def arrow_right(x: float, y: float) -> str:
    return f'<path d="M{num(x)} {num(y)}l-9 -5v10z" fill="{LINE}"/>'


def text(
    words: str,
    x: float,
    y: float,
    size: float,
    fill: str,
    *,
    bold: bool = False,
    anchor: str = "middle",
) -> str:
    weight = ' font-weight="700"' if bold else ""
    return (
        f'<text x="{num(x)}" y="{num(y)}" font-size="{num(size)}"{weight} fill="{fill}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def fit(
    words: str, room: float, size: float, smallest: float, *, bold: bool = False
) -> tuple[str, float]:
    """The words, cut short where even the smallest size is too wide, and a size that fits."""
    advance = BOLD_ADVANCE if bold else ADVANCE
    shown = cut(words, max(1, int(room / (advance * smallest))))
    return shown, min(size, room / (advance * max(len(shown), 1)))


def wrap(words: str, room: float, size: float) -> list[str]:
    """The words in lines that fit; a break may stand anywhere in what has no spaces."""
    return textwrap.wrap(words, max(1, int(room / (ADVANCE * size))), subsequent_indent="    ")


def num(number: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{number:.1f}".removesuffix(".0")
