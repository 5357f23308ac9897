"""Bits per byte as labelled points: the canvas, the points and the file, one look for all."""

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
    from matplotlib.figure import Figure

GRID = "#e4e4e4"
CROWDED_WIDTH, CROWDED_HEIGHT = 0.03, 0.06  # of the picture, where labels would overlap
LABEL_WIDTH = 0.3  # of the picture, the label of a square at most
LEAST_HEIGHT = 0.02  # bits per byte; what differs by less is not to look like much
MARGIN = 0.15  # inches, around all of it


@dataclass(frozen=True)
class Mark:
    """A point with a label, and a ring where it is ``ringed``."""

    label: str
    x: float
    bits_per_byte: float
    ringed: bool = False


def canvas(title: str, subtitle: str, x_label: str) -> tuple[Figure, Axes]:
    """An empty picture; raises MissingExtraError where matplotlib is not installed."""
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
    figure = Figure(figsize=(8, 5), dpi=150, layout=margins)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lower = axes.set_title(subtitle, loc="left", fontsize=11, color=INK, pad=10, parse_math=False)
    axes.annotate(
        title,
        (0, 1.5),  # of the line below
        xycoords=lower,
        fontsize=15,
        color=INK,
        parse_math=False,
    )
    axes.set_xlabel(x_label, fontsize=12, color=INK)
    axes.set_ylabel("bits per byte (lower is better)", fontsize=12, color=INK)
    axes.tick_params(labelsize=11, colors=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["right"].set_visible(False)
    return figure, axes


def finite(marks: Sequence[Mark]) -> list[Mark]:
    """Those that can be drawn."""
    return [each for each in marks if math.isfinite(each.bits_per_byte)]


def draw_marks(axes: Axes, marks: Sequence[Mark], others: Sequence[Mark] = ()) -> None:
    """``marks`` joined by a line, ``others`` alone as squares; all with labels."""
    x, y = [each.x for each in marks], [each.bits_per_byte for each in marks]
    axes.plot(x, y, "-o", color=COLOURS[0], linewidth=2, markersize=6)
    room = LABEL_WIDTH * max((each.x for each in [*marks, *others]), default=0)
    for other in others:
        (square,) = axes.plot(other.x, other.bits_per_byte, "s", color=COLOURS[1])
        square.set(markersize=10, markeredgewidth=1.8, fillstyle="none")
        # Left of it, as the line may begin above it and goes to the right, where there is room.
        side, align = (1, "left") if other.x < room else (-1, "right")
        axes.annotate(
            other.label,
            (other.x, other.bits_per_byte),
            xytext=(11 * side, 0),
            textcoords="offset points",
            fontsize=12,
            color=COLOURS[1],
            ha=align,
            va="center",
            parse_math=False,
        )
    for each in marks:
        if each.ringed:
            (ring,) = axes.plot(each.x, each.bits_per_byte, "o", color=COLOURS[0])
            ring.set(markersize=13, markeredgewidth=1.8, fillstyle="none")
    _limit(axes, [*marks, *others])
    _label(axes, marks)


def _limit(axes: Axes, marks: Sequence[Mark]) -> None:
    axes.margins(y=0.14)
    if not marks:
        return
    y = [each.bits_per_byte for each in marks]
    if max(y) - min(y) < LEAST_HEIGHT:
        middle = (max(y) + min(y)) / 2
        axes.set_ylim(middle - LEAST_HEIGHT, middle + LEAST_HEIGHT)
    axes.set_xlim(left=0, right=1.08 * max(each.x for each in marks))


def _label(axes: Axes, marks: Sequence[Mark]) -> None:
    """Above the points; below, where the label of a neighbour stands there already."""
    width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    above: list[Mark] = []
    for each in marks:
        crowded = any(
            abs(each.x - other.x) < CROWDED_WIDTH * width
            and abs(each.bits_per_byte - other.bits_per_byte) < CROWDED_HEIGHT * height
            for other in above
        )
        if not crowded:
            above.append(each)
        axes.annotate(
            each.label,
            (each.x, each.bits_per_byte),
            xytext=(5, -19 if crowded else 9),  # clear of a line that falls
            textcoords="offset points",
            fontsize=12,
            color=INK,
            parse_math=False,
        )


def save(figure: Figure, path: Path) -> None:
    """Write ``path``, whose suffix is one of `FORMATS`; raises OutputError."""
    from matplotlib import rc_context

    form = path.suffix.lower().removeprefix(".")
    # A fixed salt and no date: the same data give the same file.
    with atomic_path(path) as part, rc_context({"svg.hashsalt": "rinsc"}):
        figure.savefig(part, format=form, metadata=FORMATS[form])
