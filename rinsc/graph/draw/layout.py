"""Where everything stands in the SVG picture: rows of boxes, and arcs over what is repeated.

Units are pixels at scale 1; ``y`` is the height of the line along which the state flows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from xml.sax.saxutils import escape

from rinsc.graph.draw.labels import Colour, Elided, Feed, Shown, cut, feeds, shorten
from rinsc.graph.nodes import BlockGraph, Loop, Visit

MAX_ROW = 1240  # wider pictures become too small on a slide
MAX_DETAILED_ROWS = 2
FOOT = 20  # from the foot of an arc to what it encloses; holds an arrow head
ARC_STEP = 34  # between nested arcs; holds a count
ROW_GAP = 44
END_WIDTH = 72
END_HEIGHT = 34


@dataclass(frozen=True)
class Style:
    """Sizes of a box and of the gap before the next one."""

    detailed: bool
    box_width: int
    box_height: int
    gap: int


DETAILED = Style(True, 140, 108, 28)
COMPACT = Style(False, 54, 54, 22)


@dataclass(frozen=True)
class Box:
    """A visit, or a mark for steps that are not drawn (``visit`` is None); ``x`` is its left."""

    x: float
    y: float
    width: float
    visit: Visit | None
    shared: bool = False
    text: str = ""

    @property
    def block(self) -> str | None:
        return None if self.visit is None else self.visit.block


@dataclass(frozen=True)
class Arc:
    """A repeat, from its right foot over ``top`` back to its left foot; ``feed`` is what its
    rounds are fed."""

    left: float
    right: float
    y: float
    top: float
    name: str
    rounds: int
    options: str
    feed: Feed | None = None


@dataclass(frozen=True)
class Row:
    """One line of the flow, from ``left`` to ``right``; its boxes end at ``bottom``."""

    left: float
    right: float
    y: float
    bottom: float


@dataclass
class Layout:
    """Everything placed, with the origin at the upper left of the first row."""

    style: Style
    width: float = 0
    height: float = 0
    rows: list[Row] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    arcs: list[Arc] = field(default_factory=list)
    fed: Mapping[str, Feed] = field(default_factory=dict)


def arrange(graph: BlockGraph, drawn: set[str] | None = None) -> Layout:
    """Detailed boxes where they fit into `MAX_DETAILED_ROWS`, else compact ones.

    ``drawn`` are blocks that are drawn already; those of this graph are added.
    """
    drawn = set() if drawn is None else drawn
    steps = shorten(graph)
    rows, style = _rows(steps, DETAILED), DETAILED
    widest = max(_width_of(row, DETAILED) for row in rows)
    if len(rows) > MAX_DETAILED_ROWS or widest > MAX_ROW:
        rows, style = _rows(steps, COMPACT), COMPACT
    layout = Layout(style, fed=feeds(graph))
    for index, row in enumerate(rows):
        top = layout.height + (ROW_GAP if index else 0)
        y = top + ARC_STEP * _levels(row) + style.box_height / 2
        bottom = y + style.box_height / 2
        x: float = END_WIDTH + style.gap
        for step in row:
            x = _put(step, x, y, layout, drawn) + style.gap
        layout.rows.append(Row(END_WIDTH, x, y, bottom))
        layout.height = bottom
        layout.width = max(layout.width, x)
    layout.width = max(layout.width, layout.rows[-1].right + END_WIDTH)
    return layout


def _rows(steps: Sequence[Shown], style: Style) -> list[list[Shown]]:
    """As few rows of top-level steps as `MAX_ROW` allows, of about the same width."""
    widths = [_width_of([step], style) + style.gap for step in steps]
    widest = MAX_ROW - 2 * END_WIDTH - style.gap
    lengths = _row_lengths(widths, widest)
    for room in range(widest // len(lengths), widest, 8):
        even = _row_lengths(widths, room)
        if len(even) == len(lengths):
            lengths = even
            break
    rest = iter(steps)
    return [list(islice(rest, length)) for length in lengths]


def _row_lengths(widths: Sequence[float], room: float) -> list[int]:
    """How many steps each row holds; none is wider than ``room`` unless one step alone is."""
    lengths = [0]
    used: float = 0
    for width in widths:
        if lengths[-1] and used + width > room:
            lengths.append(0)
            used = 0
        lengths[-1] += 1
        used += width
    return lengths


def _width_of(steps: Sequence[Shown], style: Style) -> float:
    width: float = style.gap * (len(steps) - 1)
    for step in steps:
        if isinstance(step, Loop):
            width += _width_of(shorten(step.body), style) + 2 * FOOT
        else:
            width += _box_width(step, style)
    return width


def _box_width(step: Visit | Elided, style: Style) -> float:
    return style.box_width if isinstance(step, Visit) else max(style.box_width, 84)


def _levels(steps: Sequence[Shown]) -> int:
    """How many arcs stand above one another."""
    return max((_arc_levels(step) for step in steps if isinstance(step, Loop)), default=0)


def _arc_levels(loop: Loop) -> int:
    return 1 + _levels(shorten(loop.body))


def _put(step: Shown, x: float, y: float, layout: Layout, drawn: set[str]) -> float:
    """Put a step with its left edge at ``x``; gives its right edge."""
    style = layout.style
    if isinstance(step, Loop):
        return _place_loop(step, x, y, layout, drawn)
    width = _box_width(step, style)
    if isinstance(step, Visit):
        layout.boxes.append(Box(x, y, width, step, step.block in drawn))
        drawn.add(step.block)
    else:
        layout.boxes.append(Box(x, y, width, None, text=f"+{step.steps}"))
    return x + width


def _place_loop(loop: Loop, x: float, y: float, layout: Layout, drawn: set[str]) -> float:
    style = layout.style
    inner = x + FOOT
    for step in shorten(loop.body):
        inner = _put(step, inner, y, layout, drawn) + style.gap
    right = inner - style.gap + FOOT
    top = y - style.box_height / 2 - ARC_STEP * _arc_levels(loop) + ARC_STEP / 2
    feed = layout.fed.get(loop.name)
    layout.arcs.append(Arc(x, right, y, top, loop.name, loop.rounds, loop.options.text, feed))
    return right


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


def line(path: str, colour: str = LINE, thickness: float = 2, *, dotted: bool = False) -> str:
    dots = ' stroke-dasharray="3 3"' if dotted else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{thickness}"{dots}/>'


def arrow_right(x: float, y: float) -> str:
    return f'<path d="M{num(x)} {num(y)}l-9 -5v10z" fill="{LINE}"/>'


def text(
    line: str,
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
        f'text-anchor="{anchor}">{escape(line)}</text>'
    )


def fit(
    line: str, room: float, size: float, smallest: float, *, bold: bool = False
) -> tuple[str, float]:
    """The words, cut short where even the smallest size is too wide, and a size that fits."""
    advance = BOLD_ADVANCE if bold else ADVANCE
    shown = cut(line, max(1, int(room / (advance * smallest))))
    return shown, min(size, room / (advance * max(len(shown), 1)))


def wrap(line: str, room: float, size: float) -> list[str]:
    """The words in lines that fit; a break may stand anywhere in what has no spaces."""
    return textwrap.wrap(line, max(1, int(room / (ADVANCE * size))), subsequent_indent="    ")


def num(number: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{number:.1f}".removesuffix(".0")
