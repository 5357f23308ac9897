"""Drawings of a block graph, each a pure function from graph and parameter counts to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from rinsc.graph.draw.dot import to_dot
from rinsc.graph.draw.json_tree import to_json
from rinsc.graph.draw.mermaid import to_mermaid
from rinsc.graph.draw.svg import to_svg
from rinsc.graph.draw.terminal import schedule_lines, tree_lines
from rinsc.graph.nodes import BlockGraph

Drawing: TypeAlias = Callable[[BlockGraph, Mapping[str, int]], str]

FORMATS: dict[str, Drawing] = {
    ".svg": to_svg,
    ".mmd": to_mermaid,
    ".dot": to_dot,
    ".json": to_json,
}

__all__ = [
    "FORMATS",
    "Drawing",
    "schedule_lines",
    "to_dot",
    "to_json",
    "to_mermaid",
    "to_svg",
    "tree_lines",
]
