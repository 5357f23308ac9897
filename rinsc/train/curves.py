"""Training results as pictures: quality against training FLOPs, and quality against rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.extras import require
from rinsc.files import atomic_path
from rinsc.train.metrics import Metrics, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which most colour-blind readers tell apart; yellow is left out on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS: Mapping[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}}
LABEL_GAP = 0.055  # of the height of the picture, between two labels
INK = "#333333"


@dataclass(frozen=True)
class Curve:
    """One variant's held-out bits per byte along its training."""

    name: str
    training_flops: tuple[float, ...]
    bits_per_byte: tuple[float, ...]
    held_out: Part = "sample"


def curve(name: str, metrics: Iterable[Metrics]) -> Curve:
    """The evaluated points of a run."""
    points = [m for m in metrics if m.bits_per_byte is not None]
    whole = bool(points) and all(m.held_out == "whole" for m in points)
    return Curve(
        name,
        tuple(m.training_flops for m in points),
        tuple(m.bits_per_byte for m in points if m.bits_per_byte is not None),
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
    figure, axes = _canvas(f"{text} against training compute", "training FLOPs")
    for index, line in enumerate(curves):
        _line(axes, index, line.training_flops, line.bits_per_byte)
    _compute_axis(axes)
    _name_lines(axes, [(c.name, c.training_flops[-1], c.bits_per_byte[-1]) for c in curves])
    return _save(figure, path)


def draw_rounds(
    qualities: Mapping[str, Mapping[int, float]], trained_rounds: Mapping[str, int], path: Path
) -> tuple[Path, ...]:
    """Write ``path`` with .png and with .svg: bits per byte of each model at each of the rounds.

    A ring marks the rounds that a model was trained with. Raises as `draw_training` does.
    """
    figure, axes = _canvas(
        "The same weights, run with fewer and more rounds",
        "rounds at run time (ringed: as trained)",
    )
    for index, (name, quality) in enumerate(qualities.items()):
        _line(axes, index, tuple(quality), tuple(quality.values()))
        trained = trained_rounds.get(name)
        if trained is not None and trained in quality:
            _ring(axes, index, trained, quality[trained])
    axes.set_xticks(sorted({r for quality in qualities.values() for r in quality}))
    ends = [(name, max(q), q[max(q)]) for name, q in qualities.items()]
    _name_lines(axes, ends)
    return _save(figure, path)


def _canvas(title: str, x_label: str) -> tuple[Figure, Axes]:
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=15, color=INK, pad=14)
    axes.set_xlabel(x_label, fontsize=12, color=INK)
    axes.set_ylabel("bits per byte (lower is better)", fontsize=12, color=INK)
    axes.margins(x=0.03, y=0.08)
    axes.tick_params(labelsize=11, colors=INK)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


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


def _ring(axes: Axes, index: int, x: float, y: float) -> None:
    colour = _style(index)["color"]
    axes.plot(x, y, "o", markersize=13, fillstyle="none", color=colour, markeredgewidth=1.8)


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
        for place, index in enumerate(stack):
            moved[index] = _bottom(stack, heights, gap) + place * gap
    return moved


def _bottom(stack: Sequence[int], heights: Sequence[float], gap: float) -> float:
    """Where the lowest label of a stack goes, so that the stack is centred on its heights."""
    middle = sum(heights[index] for index in stack) / len(stack)
    return middle - gap * (len(stack) - 1) / 2


def _top(stack: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return _bottom(stack, heights, gap) + gap * (len(stack) - 1)


def _save(figure: Figure, path: Path) -> tuple[Path, ...]:
    from matplotlib import rc_context

    written = []
    for file_format in FORMATS:
        target = path.with_name(f"{path.name}.{file_format}")
        # A fixed salt and no date: the same data give the same file.
        with atomic_path(target) as part, rc_context({"svg.hashsalt": "rinsc"}):
            figure.savefig(part, format=file_format, metadata=FORMATS[file_format])
        written.append(target)
    return tuple(written)
