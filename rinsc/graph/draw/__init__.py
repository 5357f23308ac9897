"""Drawings of a block graph, each a pure function from graph and parameter counts to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from rinsc.graph.draw.figure import to_figure
from rinsc.graph.draw.flowcharts import to_dot, to_mermaid
from rinsc.graph.draw.labels import Drawn
from rinsc.graph.draw.svg import to_svg
from rinsc.graph.draw.text import schedule_lines, to_json, tree_lines

Drawing: TypeAlias = Callable[[Drawn, Mapping[str, int]], str]
Picture: TypeAlias = Callable[[Drawn, Mapping[str, int]], bytes]

FORMATS: dict[str, Drawing] = {
    ".svg": to_svg,
    ".mmd": to_mermaid,
    ".dot": to_dot,
    ".json": to_json,
}


def to_png(graph: Drawn, param_counts: Mapping[str, int]) -> bytes:
    """The SVG picture in pixels, two for each of its own; needs matplotlib."""
    return to_figure(to_svg(graph, param_counts), "png")


def to_pdf(graph: Drawn, param_counts: Mapping[str, int]) -> bytes:
    """The SVG picture as PDF; needs matplotlib."""
    return to_figure(to_svg(graph, param_counts), "pdf")


PICTURES: dict[str, Picture] = {".png": to_png, ".pdf": to_pdf}

__all__ = [
    "FORMATS",
    "PICTURES",
    "Drawing",
    "Drawn",
    "Picture",
    "schedule_lines",
    "to_dot",
    "to_json",
    "to_mermaid",
    "to_pdf",
    "to_png",
    "to_svg",
    "tree_lines",
]
