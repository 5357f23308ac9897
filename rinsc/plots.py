"""Quality as pictures: against training FLOPs, rounds, FLOPs of a pass, tokens a second."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rinsc.errors import UsageError, setting
from rinsc.extras import require
from rinsc.objectives import Part
from rinsc.storage.files import atomic_path, check_writable
from rinsc.training.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rinsc.study.scaling import Fit

# Okabe and Ito's colours, which most colour-blind readers tell apart; yellow is left out on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS: Mapping[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}}
LABEL_GAP = 0.055  # of the height of the picture, between two labels
INK = "#333333"
BITS = "bits per byte (lower is better)"


@dataclass(frozen=True)
class Curve:
    """One variant's held-out quality along its training."""

    name: str
    training_flops: tuple[float, ...]
    quality: tuple[float, ...]
    held_out: Part = "sample"


def curve(name: str, metrics: Iterable[Metrics]) -> Curve:
    """The evaluated points of a run."""
    points = [m for m in metrics if m.quality is not None]
    whole = bool(points) and all(m.held_out == "whole" for m in points)
    return Curve(
        name,
        tuple(m.training_flops for m in points),
        tuple(m.quality for m in points if m.quality is not None),
        "whole" if whole else "sample",
    )


def draw_training(curves: Sequence[Curve], path: Path) -> tuple[Path, ...]:
    """Write ``path`` with .png and with .svg: one line a variant, named at its end.

    A curve without points is left out. Raises OutputError, and MissingExtraError where matplotlib
    is not installed.
    """
    curves = [line for line in curves if line.training_flops]
    whole = bool(curves) and all(line.held_out == "whole" for line in curves)
    text = f"Held-out text ({'the whole' if whole else 'a sample'})"
    figure, axes = canvas(f"{text} against training compute", "", "training FLOPs")
    axes.margins(x=0.03, y=0.08)
    axes.spines["top"].set_visible(False)
    for index, line in enumerate(curves):
        _line(axes, index, line.training_flops, line.quality)
    _compute_axis(axes)
    _name_lines(axes, [(c.name, c.training_flops[-1], c.quality[-1]) for c in curves])
    files = tuple(path.with_name(f"{path.name}.{form}") for form in FORMATS)
    for file in files:
        save(figure, file)
    return files


def _compute_axis(axes: Axes) -> None:
    """FLOPs on a logarithmic scale with ticks such as 1e12, 2e12, 5e12."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0e}".replace("e+", "e")))


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _line(axes: Axes, index: int, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, linewidth=2, markersize=5, clip_on=False, **_style(index))


def _name_lines(axes: Axes, ends: Sequence[tuple[str, float, float]]) -> None:
    """Name and last value right of each line's end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    axes.set_xlim(right=max((x for _, x, _ in ends), default=None))
    heights = apart([y for _, _, y in ends], LABEL_GAP * (high - low))
    for index, ((name, x, y), height) in enumerate(zip(ends, heights, strict=True)):
        text = f"   {name}  {y:.3f}"
        colour = _style(index)["color"]
        axes.text(x, height, text, fontsize=12, color=colour, va="center", parse_math=False)


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as it takes to be ``gap`` apart; their order is kept."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    stacks: list[list[int]] = []
    for index in order:
        stacks.append([index])
        while len(stacks) > 1 and _bottom(stacks[-1], heights, gap) < gap + _top(
            stacks[-2], heights, gap
        ):
            stacks[-2:] = [stacks[-2] + stacks[-1]]
    moved = list(heights)
    for stack in stacks:
        for position, index in enumerate(stack):
            moved[index] = _bottom(stack, heights, gap) + position * gap
    return moved


def _bottom(stack: Sequence[int], heights: Sequence[float], gap: float) -> float:
    """Where the lowest label of a stack goes, so that the stack is centred on its heights."""
    middle = sum(heights[index] for index in stack) / len(stack)
    return middle - gap * (len(stack) - 1) / 2


def _top(stack: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return _bottom(stack, heights, gap) + gap * (len(stack) - 1)


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
    quality: float
    ringed: bool = False
    interval: tuple[float, float] | None = None


def canvas(title: str, subtitle: str, x_label: str, y_label: str = BITS) -> tuple[Figure, Axes]:
    """An empty picture; raises MissingExtraError where matplotlib is not installed."""
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
    figure = Figure(figsize=(8, 5), dpi=150, layout=margins)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lower = axes.set_title(
        subtitle or " ", loc="left", fontsize=11, color=INK, pad=10, parse_math=False
    )
    axes.annotate(
        title,
        (0, 1.5),  # of the line below
        xycoords=lower,
        fontsize=15,
        color=INK,
        parse_math=False,
    )
    axes.set_xlabel(x_label, fontsize=12, color=INK)
    axes.set_ylabel(y_label, fontsize=12, color=INK)
    axes.tick_params(labelsize=11, colors=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["right"].set_visible(False)
    return figure, axes


def finite(marks: Sequence[Mark]) -> list[Mark]:
    """Those that can be drawn."""
    return [mark for mark in marks if math.isfinite(mark.quality)]


def draw_marks(axes: Axes, marks: Sequence[Mark], others: Sequence[Mark] = ()) -> None:
    """``marks`` joined by a line, ``others`` alone as squares; all with labels."""
    x, y = [mark.x for mark in marks], [mark.quality for mark in marks]
    axes.plot(x, y, "-o", color=COLOURS[0], linewidth=2, markersize=6)
    for mark in marks:
        if mark.interval is not None:
            axes.plot([mark.x] * 2, mark.interval, color=COLOURS[0], linewidth=1.2, alpha=0.7)
    room = LABEL_WIDTH * max((mark.x for mark in [*marks, *others]), default=0)
    for other in others:
        (square,) = axes.plot(other.x, other.quality, "s", color=COLOURS[1])
        square.set(markersize=10, markeredgewidth=1.8, fillstyle="none")
        # Left of it, as the line may begin above it and goes to the right, where there is room.
        side, align = (1, "left") if other.x < room else (-1, "right")
        axes.annotate(
            other.label,
            (other.x, other.quality),
            xytext=(11 * side, 0),
            textcoords="offset points",
            fontsize=12,
            color=COLOURS[1],
            ha=align,
            va="center",
            parse_math=False,
        )
    for mark in marks:
        if mark.ringed:
            (ring,) = axes.plot(mark.x, mark.quality, "o", color=COLOURS[0])
            ring.set(markersize=13, markeredgewidth=1.8, fillstyle="none")
    _limit(axes, [*marks, *others])
    _label(axes, marks)


def _limit(axes: Axes, marks: Sequence[Mark]) -> None:
    axes.margins(y=0.14)
    if not marks:
        return
    y = [end for mark in marks for end in (mark.quality, *(mark.interval or ()))]
    if max(y) - min(y) < LEAST_HEIGHT:
        middle = (max(y) + min(y)) / 2
        axes.set_ylim(middle - LEAST_HEIGHT, middle + LEAST_HEIGHT)
    axes.set_xlim(left=0, right=1.08 * max(mark.x for mark in marks))


def _label(axes: Axes, marks: Sequence[Mark]) -> None:
    """Above the points; below, where the label of a neighbour stands there already."""
    width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    above: list[Mark] = []
    for mark in marks:
        crowded = any(
            abs(mark.x - other.x) < CROWDED_WIDTH * width
            and abs(mark.quality - other.quality) < CROWDED_HEIGHT * height
            for other in above
        )
        if not crowded:
            above.append(mark)
        axes.annotate(
            mark.label,
            (mark.x, mark.quality),
            xytext=(5, -19 if crowded else 9),  # clear of a line that falls
            textcoords="offset points",
            fontsize=12,
            color=INK,
            parse_math=False,
        )


def require_picture(path: Path, example: str) -> None:
    """Raises UsageError, OutputError or MissingExtraError where no picture could be written.

    ``example`` is a name that could, for the hint.
    """
    suffixes = [f".{name}" for name in FORMATS]
    if path.suffix.lower() not in suffixes:
        message = f"a picture is written as {' or '.join(suffixes)}, not '{path.name}'"
        raise UsageError("usage", message, hint=f"write {setting('output', '-o')} {example}")
    check_writable(path)
    require("matplotlib")


def save(figure: Figure, path: Path) -> None:
    """Write ``path``, whose suffix is one of `FORMATS`; raises OutputError."""
    from matplotlib import rc_context

    form = path.suffix.lower().removeprefix(".")
    # A fixed salt and no date: the same data give the same file.
    with atomic_path(path) as draft, rc_context({"svg.hashsalt": "rinsc"}):
        figure.savefig(draft, format=form, metadata=FORMATS[form])


X_LABEL = "forward FLOPs per {} (labels: rounds at run time; ringed: as trained)"
UNITS = {10**18: "E", 10**15: "P", 10**12: "T", 10**9: "G", 10**6: "M", 10**3: "k"}


def draw_evaluation(
    marks: Sequence[Mark],
    baseline: Mark | None,
    title: str,
    path: Path,
    *,
    subtitle: str = "",
    y_label: str = BITS,
    unit: str = "token",
    chance: float | None = None,
) -> None:
    """Write ``path``, whose suffix is one of `FORMATS`: quality over forward FLOPs per ``unit``.

    What guessing gives is a dashed line.

    The points of one model are joined in their order, that of its baseline stands alone; those
    that are not finite are left out. Raises OutputError, and MissingExtraError where matplotlib is
    not installed.
    """
    from matplotlib.ticker import FuncFormatter

    figure, axes = canvas(title, subtitle, X_LABEL.format(unit), y_label)
    draw_marks(axes, finite(marks), finite([] if baseline is None else [baseline]))
    if chance is not None:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.axhline(chance, color=COLOURS[1], linestyle="--", linewidth=1.4)
        style: Any = {"ha": "right", "va": "bottom", "fontsize": 11, "color": COLOURS[1]}
        axes.text(axes.get_xlim()[1], chance, "by chance", **style)
    axes.spines["top"].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda flops, _: with_unit(flops)))
    save(figure, path)


def with_unit(flops: float) -> str:
    """``1.5M``; 0 and what is below a thousand stand as they are."""
    for size, unit in UNITS.items():
        if abs(flops) >= size:
            return f"{flops / size:g}{unit}"
    return f"{flops:g}"


SPACING = 0.09  # of the width of the picture, between two ticks of tokens per second
DIGITS = (7, 5, 4, 3, 2, 1.5, 1)  # that such a tick may start with
SPEED_LABEL = "ms per token (labels: rounds at run time; ringed: as written)"


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
    figure, axes = canvas(title, subtitle, SPEED_LABEL)
    marks = finite(
        [Mark(point.label, point.decode_ms, point.bits_per_byte, point.written) for point in points]
    )
    draw_marks(axes, marks)
    _speed_axis(axes, marks)
    save(figure, path)


def _speed_axis(axes: Axes, marks: Sequence[Mark]) -> None:
    """Tokens per second along the top, at round numbers that have room."""
    left, right = axes.get_xlim()
    gap = SPACING * (right - left)
    last = 0.8 * min((mark.x for mark in marks), default=left) - gap
    ticks: dict[float, str] = {}
    for speed in (digit * 10.0**power for power in range(6, -7, -1) for digit in DIGITS):
        milliseconds = 1e3 / speed
        if max(last + gap, left) <= milliseconds <= right:
            ticks[milliseconds] = f"{speed:,.6g}"
            last = milliseconds
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(ticks), list(ticks.values()))
    top.set_xlabel("tokens per second", fontsize=12, color=INK)
    top.tick_params(labelsize=11, colors=INK)


def draw_laws(fits: Sequence[Fit], x_name: str, target: float, path: Path) -> None:
    """Write ``path``, whose suffix is one of `FORMATS`: losses over what was spent, and the laws.

    A law is dashed beyond its runs, up to the ``target``, where its interval is drawn. Raises
    OutputError, and MissingExtraError where matplotlib is not installed.
    """
    title = "Scaling laws of the runs"
    figure, axes = canvas(title, "dashed: predicted, with 95 % intervals", x_name, "loss")
    ends = []
    for index, fit in enumerate(fits):
        style = _style(index)
        axes.plot(fit.curve.x, fit.curve.loss, **style, linestyle="", markersize=5)
        first, last = fit.curve.budgets[0], fit.curve.budgets[-1]
        for start, stop, line in ((first, last, "-"), (last, target, "--")):
            x = np.geomspace(start, stop, 60)
            y = [fit.law(value) for value in x]
            axes.plot(x, y, color=style["color"], linestyle=line, linewidth=1.6)
        at = fit.predict(target)
        reach = [[at.value - at.low], [at.high - at.value]]
        axes.errorbar([target], [at.value], reach, color=style["color"], capsize=4)
        ends.append((fit.curve.name, target, at.value))
    axes.set_xscale("log")
    axes.spines["top"].set_visible(False)
    _name_lines(axes, ends)
    save(figure, path)
