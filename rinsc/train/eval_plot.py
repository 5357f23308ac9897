"""Quality against the FLOPs of a forward pass as a picture, a point for each number of rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rinsc.train.marks import Mark, canvas, draw_marks, finite, save

X_LABEL = "forward FLOPs per token (labels: rounds at run time; ringed: as trained)"
UNITS = {10**18: "E", 10**15: "P", 10**12: "T", 10**9: "G", 10**6: "M", 10**3: "k"}


def draw_evaluation(
    marks: Sequence[Mark],
    baseline: Mark | None,
    title: str,
    path: Path,
    *,
    subtitle: str = "",
) -> None:
    """Write ``path``, whose suffix is one of `FORMATS`: bits per byte over forward FLOPs per token.

    The points of one model are joined in their order, that of its baseline stands alone; those
    that are not finite are left out. Raises OutputError, and MissingExtraError where matplotlib is
    not installed.
    """
    from matplotlib.ticker import FuncFormatter

    figure, axes = canvas(title, subtitle, X_LABEL)
    draw_marks(axes, finite(marks), finite([] if baseline is None else [baseline]))
    axes.spines["top"].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda flops, _: with_unit(flops)))
    save(figure, path)


def with_unit(flops: float) -> str:
    """``1.5M``; 0 and what is below a thousand stand as they are."""
    for size, unit in UNITS.items():
        if abs(flops) >= size:
            return f"{flops / size:g}{unit}"
    return f"{flops:g}"
