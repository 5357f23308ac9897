"""The pictures of a report, as SVG that takes its colours from the page around it.

A `Line` has points of one variant or run. The first lines stand out in colours, the others are
grey, and each says its name where the pointer is. All numbers also stand in a table of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rinsc.study.ranking import Ranking

WIDTH, HEIGHT = 560, 380  # of a picture, in pixels
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 12, 52  # around a chart; its names stand below
ROW, NAMES = 24, 180  # of a picture of intervals
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#8c6bb1")
GREY, BETTER, WORSE = "#888", "#009E73", "#D55E00"
MOST_TICKS = 7

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points of one name: joined, or each alone; ``closed`` where they are around a region."""

    name: str
    points: Sequence[Point]
    joined: bool = True
    dashed: bool = False
    dots: bool = False
    closed: bool = False
    grey: bool = False


def chart(
    label: str,
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    *,
    log_x: bool = False,
    whole_x: bool = False,
    level: float | None = None,
) -> str:
    """Lines over a number, which ``whole_x`` says is a count; empty without points.

    ``level`` is a height that is marked.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    heights = [y for _, y in points] + ([] if level is None else [level])
    across = _scale([x for x, _ in points], (LEFT, WIDTH - RIGHT), log=log_x)
    down = _scale(heights, (HEIGHT - BOTTOM, TOP), log=False)
    names = list(dict.fromkeys(line.name for line in lines if not line.grey))
    colours = dict(zip(names, COLOURS, strict=False))
    marks = [mark for mark in across.ticks if not whole_x or mark == round(mark)]
    drawn = [*_axes(across, down, marks, x_name, y_name)]
    if level is not None:
        y = f"{down.at(level):.1f}"
        drawn.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{GREY}" '
            f'stroke-dasharray="3 3"/>'
        )
    # What stands out is drawn last, above the rest.
    for line in sorted(lines, key=lambda line: line.name in colours):
        drawn += _line(line, across, down, colours.get(line.name, GREY))
    return svg(HEIGHT, label, drawn) + _legend(colours, len(names) - len(colours), lines)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    ends: tuple[float, float]
    log: bool

    def at(self, value: float) -> float:
        change: Callable[[float], float] = math.log if self.log else float
        low, high = change(self.low), change(self.high)
        share = (change(value) - low) / ((high - low) or 1.0)
        return self.ends[0] + (self.ends[1] - self.ends[0]) * share

    @property
    def ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high)
        first, last = (math.log10(value) for value in (self.low, self.high))
        powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
        if len(powers) > MOST_TICKS:
            powers = powers[:: -(-len(powers) // MOST_TICKS)]
        if len(powers) >= 2:
            return [10.0**power for power in powers]
        scaled = (
            m * 10.0**e for e in range(math.floor(first), math.ceil(last) + 1) for m in (1, 2, 5)
        )
        return [value for value in scaled if self.low <= value <= self.high]


def _scale(values: Sequence[float], ends: tuple[float, float], *, log: bool) -> _Scale:
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    elif not log:
        room = 0.04 * (high - low)
        low, high = low - room, high + room
    return _Scale(low, high, ends, log)


def _axes(
    across: _Scale, down: _Scale, marks: Sequence[float], x_name: str, y_name: str
) -> Iterable[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in down.ticks:
        y = down.at(value)
        yield (
            f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity="0.12"/>'
        )
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>'
    for value in marks:
        x = across.at(value)
        yield (f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_tick(value)}</text>')
    yield (
        f'<line x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="currentColor" '
        'stroke-opacity="0.5"/>'
    )
    middle = (LEFT + right) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
    half = (TOP + bottom) / 2
    yield (
        f'<text x="14" y="{half}" text-anchor="middle" transform="rotate(-90 14 {half})">'
        f"{escape(y_name)}</text>"
    )


def _tick(value: float) -> str:
    if abs(value) < 1e5:
        return f"{value:g}"
    digits, _, power = f"{value:.3e}".partition("e")
    return f"{float(digits):g}e{int(power)}"


def _line(line: Line, across: _Scale, down: _Scale, colour: str) -> Iterable[str]:
    places = [f"{across.at(x):.1f},{down.at(y):.1f}" for x, y in line.points]
    title = f"<title>{escape(line.name)}</title>"
    width = "1" if colour == GREY else "2"
    if line.closed:
        yield (
            f'<polygon points="{" ".join(places)}" fill="{colour}" fill-opacity="0.2" '
            f'stroke="{colour}">{title}</polygon>'
        )
    elif line.joined:
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        opacity = ' stroke-opacity="0.4"' if colour == GREY else ""
        yield (
            f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}"{dash}{opacity}>{title}</polyline>'
        )
    if line.dots or not (line.joined or line.closed):
        for place in places:
            x, y = place.split(",")
            yield f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}">{title}</circle>'


def _legend(colours: Mapping[str, str], hidden: int, lines: Sequence[Line]) -> str:
    """The names below a picture, where a narrow screen has room for them."""
    others = len({line.name for line in lines if line.grey}) + hidden
    entries = [*colours.items(), *([(f"{others} more", GREY)] if others > 0 else [])]
    shown = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in entries
    )
    return f'<div class="legend">{" ".join(shown)}</div>'


def intervals(ranking: Ranking, label: str) -> str:
    """A line for each variant from the low to the high end of its gap."""
    ends = [end for item in ranking.ranks for end in (item.low, item.high, 0.0)]
    height = ROW * len(ranking.ranks) + 30
    across = _scale(ends, (NAMES, WIDTH - 30), log=False)
    zero = f"{across.at(0):.1f}"
    lines = [f'<line x1="{zero}" x2="{zero}" y1="0" y2="{height - 26}" stroke="#999"/>']
    for index, item in enumerate(ranking.ranks):
        y = ROW * index + ROW / 2 + 2
        colour = {"better": BETTER, "worse": WORSE}.get(item.reading, GREY)
        lines += [
            f'<text x="{NAMES - 10}" y="{y + 4:.1f}" text-anchor="end">'
            f"{short(item.variant, 20)}</text>",
            f'<line x1="{across.at(item.low):.1f}" x2="{across.at(item.high):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="3"/>',
            f'<circle cx="{across.at(item.gap):.1f}" cy="{y:.1f}" r="4.5" fill="{colour}">'
            f"<title>{escape(item.variant)}: {item.gap:+.4f}</title></circle>",
        ]
    for tick in across.ticks:
        lines.append(
            f'<text x="{across.at(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>'
        )
    return svg(height, label, lines)


def svg(height: float, label: str, lines: Iterable[str]) -> str:
    """A picture with what it shows for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(label)}" font-size="12">{"".join(lines)}</svg>'
    )


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers from low to high.

    >>> ticks(0.0, 1.0), ticks(2.91, 3.04)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [2.92, 2.94, 2.96, 2.98, 3.0, 3.02, 3.04])
    """
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10(high - low))
    widths = [factor * power for factor in (0.1, 0.2, 0.5, 1.0)]
    width = next((size for size in widths if (high - low) / size <= MOST_TICKS), widths[-1])
    first, last = math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9)
    return [round(number * width, 10) for number in range(first, last + 1)]


def short(text: str, most: int = 24) -> str:
    """A name as far as there is room, escaped."""
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
