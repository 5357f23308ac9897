"""The SVG picture as PNG or PDF, by matplotlib, which brings a font of its own.

It reads the few elements that `rinsc.graph.draw.svg` writes, and no other SVG.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from rinsc.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch
    from matplotlib.path import Path as Outline

POINTS = 0.75  # of a pixel: 72 to 96 in an inch
DPI = 192  # of a PNG: twice the pixels of the SVG
MAX_SIDE = 16_384  # pixels of a PNG; a larger picture is drawn with fewer
_CORNER = 0.5523  # of a radius, where the control points of a quarter circle stand
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def to_figure(svg: str, form: Literal["png", "pdf"]) -> bytes:
    """The picture in a file of this form; the same bytes each time for the same matplotlib.

    Raises `MissingExtraError` without matplotlib.
    """
    require("matplotlib")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    root = ElementTree.fromstring(svg)
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    # Not of the user's settings, so that a picture is the same everywhere; text stays text in PDF.
    with matplotlib.rc_context({"pdf.fonttype": 42, "font.family": "DejaVu Sans"}):
        dpi = min(DPI, MAX_SIDE * 96 / max(width, height))
        figure = Figure(figsize=(width / 96, height / 96), dpi=dpi)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        _Painter(axes, _patterns(root)).paint(root, 0, 0)
        file = io.BytesIO()
        metadata = {"CreationDate": None} if form == "pdf" else {"Software": None}
        figure.savefig(file, format=form, dpi=dpi, metadata=metadata)
    return file.getvalue()


def _patterns(root: ElementTree.Element) -> dict[str, tuple[str, str, int, float]]:
    """By name: fill, colour of the stripes, their angle from upright, their spacing."""
    patterns = {}
    for pattern in root.iter(_name("pattern")):
        ground, stripe = pattern.iter(_name("rect"))
        (angle,) = _NUMBERS.findall(pattern.attrib["patternTransform"])
        patterns[f"url(#{pattern.attrib['id']})"] = (
            *(ground.attrib["fill"], stripe.attrib["fill"]),
            *(int(angle), float(pattern.attrib["width"])),
        )
    return patterns


def _name(tag: str) -> str:
    return f"{{http://www.w3.org/2000/svg}}{tag}"


class _Painter:
    """Puts elements onto axes whose units are the pixels of the SVG."""

    def __init__(self, axes: Axes, patterns: dict[str, tuple[str, str, int, float]]) -> None:
        self.axes = axes
        self.patterns = patterns
        self.order = 0  # what comes later stands above

    def paint(self, element: ElementTree.Element, left: float, top: float) -> None:
        for child in element:
            self.order += 1
            match child.tag.rpartition("}")[2]:
                case "g":
                    moved = [float(n) for n in _NUMBERS.findall(child.get("transform", ""))]
                    x, y = moved or (0.0, 0.0)
                    self.paint(child, left + x, top + y)
                case "rect":
                    self.rect(child, left, top)
                case "path":
                    self.shape(child, _outline(child.attrib["d"], left, top))
                case "circle":
                    self.circle(child, left, top)
                case "text":
                    self.text(child, left, top)

    def rect(self, element: ElementTree.Element, left: float, top: float) -> None:
        from matplotlib.collections import LineCollection

        numbers = (float(element.attrib[name]) for name in ("x", "y", "width", "height", "rx"))
        x, y, width, height, radius = numbers
        outline = _rounded(left + x, top + y, width, height, min(radius, width / 2, height / 2))
        stripes = self.patterns.get(element.attrib["fill"])
        if stripes is None:
            self.shape(element, outline)
            return
        fill, colour, angle, spacing = stripes
        drawn = self.shape(element, outline, fill)
        middle = left + x + width / 2, top + y + height / 2
        lines = list(_stripes(*middle, math.hypot(width, height) / 2, angle, spacing))
        thickness = 3 * POINTS
        drawn_lines = LineCollection(lines, colors=colour, linewidths=thickness, zorder=self.order)
        self.axes.add_collection(drawn_lines, autolim=False)
        drawn_lines.set_clip_path(drawn)

    def circle(self, element: ElementTree.Element, left: float, top: float) -> None:
        x, y, r = (float(element.attrib[name]) for name in ("cx", "cy", "r"))
        self.shape(element, _rounded(left + x - r, top + y - r, 2 * r, 2 * r, r))

    def shape(self, element: ElementTree.Element, outline: Outline, fill: str = "") -> Patch:
        from matplotlib.patches import PathPatch

        stroke = element.get("stroke", "none")
        look: dict[str, Any] = {"facecolor": fill or element.attrib["fill"], "edgecolor": stroke}
        dashes = element.get("stroke-dasharray")
        if dashes is not None:
            width = float(element.attrib["stroke-width"])
            look["linestyle"] = (0, tuple(float(n) / width for n in dashes.split()))
        thickness = 0 if stroke == "none" else float(element.attrib["stroke-width"]) * POINTS
        patch = PathPatch(outline, linewidth=thickness, zorder=self.order, **look)
        self.axes.add_patch(patch)
        return patch

    def text(self, element: ElementTree.Element, left: float, top: float) -> None:
        self.axes.text(
            left + float(element.attrib["x"]),
            top + float(element.attrib["y"]),
            (element.text or "").replace("$", r"\$"),  # no formula
            fontsize=float(element.attrib["font-size"]) * POINTS,
            fontweight="bold" if element.get("font-weight") == "700" else "normal",
            color=element.attrib["fill"],
            horizontalalignment=_ANCHORS[element.attrib["text-anchor"]],
            verticalalignment="baseline",
            zorder=self.order,
        )


def _stripes(
    x: float, y: float, reach: float, angle: int, spacing: float
) -> Iterator[list[tuple[float, float]]]:
    """Lines through a circle round (x, y), turned by ``angle`` degrees from upright."""
    turn = math.radians(angle)
    along, across = (-math.sin(turn), math.cos(turn)), (math.cos(turn), math.sin(turn))
    for index in range(-int(reach / spacing) - 1, int(reach / spacing) + 2):
        cx, cy = x + index * spacing * across[0], y + index * spacing * across[1]
        dx, dy = reach * along[0], reach * along[1]
        yield [(cx - dx, cy - dy), (cx + dx, cy + dy)]


def _rounded(x: float, y: float, width: float, height: float, radius: float) -> Outline:
    """A rectangle with round corners, from the upper left on."""
    from matplotlib.path import Path

    r, c = radius, radius * (1 - _CORNER)
    right, bottom = x + width, y + height
    points = [(x + r, y), (right - r, y)]
    points += [(right - c, y), (right, y + c), (right, y + r), (right, bottom - r)]
    points += [(right, bottom - c), (right - c, bottom), (right - r, bottom), (x + r, bottom)]
    points += [(x + c, bottom), (x, bottom - c), (x, bottom - r), (x, y + r)]
    points += [(x, y + c), (x + c, y), (x + r, y), (x + r, y)]
    side = [Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    return Path(points, [Path.MOVETO, *side * 4, Path.CLOSEPOLY])


def _outline(data: str, left: float, top: float) -> Outline:
    """The path of an SVG ``d`` in the commands that our pictures have: M, H, V, l, h, v, q, z."""
    from matplotlib.path import Path

    points: list[tuple[float, float]] = []
    codes: list[Any] = []
    x = y = 0.0

    def add(code: Any, *more: tuple[float, float]) -> None:
        points.extend(more)
        codes.extend([code] * len(more))

    for command, text in re.findall(r"([A-Za-z])([^A-Za-z]*)", data):
        n = [float(number) for number in _NUMBERS.findall(text)]
        match command:
            case "M":
                x, y = left + n[0], top + n[1]
                add(Path.MOVETO, (x, y))
            case "H" | "h":
                x = left + n[0] if command == "H" else x + n[0]
                add(Path.LINETO, (x, y))
            case "V" | "v":
                y = top + n[0] if command == "V" else y + n[0]
                add(Path.LINETO, (x, y))
            case "l":
                x, y = x + n[0], y + n[1]
                add(Path.LINETO, (x, y))
            case "q":
                add(Path.CURVE3, (x + n[0], y + n[1]), (x + n[2], y + n[3]))
                x, y = x + n[2], y + n[3]
            case "z":
                add(Path.CLOSEPOLY, points[0])
            case _:
                raise ValueError(f"a path of ours has no command {command}")
    return Path(points, codes)
