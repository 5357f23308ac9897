"""Quality against cost as a picture: one model, a point for each number of rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.train.curves import INK
from rinsc.train.marks import Mark, canvas, draw_marks, finite, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPACING = 0.09  # of the width of the picture, between two ticks of tokens per second
DIGITS = (7, 5, 4, 3, 2, 1.5, 1)  # that such a tick may start with
X_LABEL = "ms per token (labels: rounds at run time; ringed: as written)"


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
    figure, axes = canvas(title, subtitle, X_LABEL)
    marks = finite(
        [Mark(each.label, each.decode_ms, each.bits_per_byte, each.written) for each in points]
    )
    draw_marks(axes, marks)
    _speed_axis(axes, marks)
    save(figure, path)


def _speed_axis(axes: Axes, marks: Sequence[Mark]) -> None:
    """Tokens per second along the top, at round numbers that have room."""
    left, right = axes.get_xlim()
    gap = SPACING * (right - left)
    last = 0.8 * min((each.x for each in marks), default=left) - gap
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
