"""Quality against cost as a picture: one model, a point for each number of rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rinsc.extras import require
from rinsc.files import atomic_path
from rinsc.train.curves import COLOURS, FORMATS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = "#e4e4e4"
SPACING = 0.09  # of the width of the picture, between two ticks of tokens per second
CROWDED_WIDTH, CROWDED_HEIGHT = 0.03, 0.06  # of the picture, where labels would overlap
LEAST_HEIGHT = 0.02  # bits per byte; what differs by less is not to look like much
MARGIN = 0.15  # inches, around all of it
DIGITS = (7, 5, 4, 3, 2, 1.5, 1)  # that such a tick may start with


@dataclass(frozen=True)
class Point:
    """A model at some rounds, which ``label`` says; a ring marks those it was ``written`` with."""

    label: str
    decode_ms: float
    bits_per_byte: float
    written: bool = False


def draw_tradeoff(points: Sequence[Point], title: str, path: Path, *, subtitle: str = "") -> None:
    """Write ``path``, whose suffix is one of `FORMATS`: bits per byte over milliseconds a token.

    Below the title stands what was measured and where, the ``subtitle``.

    Points are joined in the order that they are given in; those that are not finite are left out.
    Raises OutputError, and MissingExtraError where matplotlib is not installed.
    """
    require("matplotlib")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
    figure = Figure(figsize=(8, 5), dpi=150, layout=margins)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = [each for each in points if math.isfinite(each.bits_per_byte)]
    _frame(axes, title, subtitle)
    _points(axes, drawn)
    _speed_axis(axes, drawn)
    form = path.suffix.lower().removeprefix(".")
    # A fixed salt and no date: the same data give the same file.
    with atomic_path(path) as part, rc_context({"svg.hashsalt": "rinsc"}):
        figure.savefig(part, format=form, metadata=FORMATS[form])


def _frame(axes: Axes, title: str, subtitle: str) -> None:
    lower = axes.set_title(subtitle, loc="left", fontsize=11, color=INK, pad=10, parse_math=False)
    axes.annotate(
        title,
        (0, 1.5),  # of the line below
        xycoords=lower,
        fontsize=15,
        color=INK,
        parse_math=False,
    )
    axes.set_xlabel(
        "ms per token (labels: rounds at run time; ringed: as written)", fontsize=12, color=INK
    )
    axes.set_ylabel("bits per byte (lower is better)", fontsize=12, color=INK)
    axes.tick_params(labelsize=11, colors=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["right"].set_visible(False)


def _points(axes: Axes, points: Sequence[Point]) -> None:
    """The line, its points, and beside each the number of its rounds."""
    x, y = [each.decode_ms for each in points], [each.bits_per_byte for each in points]
    axes.plot(x, y, "-o", color=COLOURS[0], linewidth=2, markersize=6)
    for each in points:
        if each.written:
            (ring,) = axes.plot(each.decode_ms, each.bits_per_byte, "o", color=COLOURS[0])
            ring.set(markersize=13, markeredgewidth=1.8, fillstyle="none")
    axes.margins(y=0.14)
    if points and max(y) - min(y) < LEAST_HEIGHT:
        middle = (max(y) + min(y)) / 2
        axes.set_ylim(middle - LEAST_HEIGHT, middle + LEAST_HEIGHT)
    if points:
        axes.set_xlim(left=0, right=1.08 * max(x))
    _label(axes, points)


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Above the points; below, where the label of a neighbour stands there already."""
    width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    above: list[Point] = []
    for each in points:
        crowded = any(
            abs(each.decode_ms - other.decode_ms) < CROWDED_WIDTH * width
            and abs(each.bits_per_byte - other.bits_per_byte) < CROWDED_HEIGHT * height
            for other in above
        )
        if not crowded:
            above.append(each)
        axes.annotate(
            each.label,
            (each.decode_ms, each.bits_per_byte),
            xytext=(5, -19 if crowded else 9),  # clear of a line that falls
            textcoords="offset points",
            fontsize=12,
            color=INK,
            parse_math=False,
        )


def _speed_axis(axes: Axes, points: Sequence[Point]) -> None:
    """Tokens per second along the top, at round numbers that have room."""
    left, right = axes.get_xlim()
    gap = SPACING * (right - left)
    last = 0.8 * min((each.decode_ms for each in points), default=left) - gap
    places: dict[float, str] = {}
    for speed in (digit * 10.0**power for power in range(6, -7, -1) for digit in DIGITS):
        place = 1e3 / speed
        if max(last + gap, left) <= place <= right:
            places[place] = f"{speed:,.6g}"
            last = place
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(places), list(places.values()))
    top.set_xlabel("tokens per second", fontsize=12, color=INK)
    top.tick_params(labelsize=11, colors=INK)
