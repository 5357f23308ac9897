"""The boxes of the SVG picture: a visit with its block's name, size and parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from rinsc.graph.draw.layout import Box, Style
from rinsc.graph.draw.palette import PAPER, Colour
from rinsc.graph.draw.shapes import LINE, MUTED, fill_of, fit, rect, text
from rinsc.graph.draw.words import (
    block_text,
    layers_text,
    params_text,
    times_text,
    visit_text,
)
from rinsc.graph.nodes import BlockGraph, Visit
from rinsc.syntax.problems import plural


@dataclass(frozen=True)
class Facts:
    """What is said in a box and when it is pointed at."""

    name: str
    mark: str
    lines: tuple[str, ...]
    hover: str


def facts_of(graph: BlockGraph, visit: Visit, param_count: int, *, shared: bool) -> Facts:
    block = graph.blocks[visit.block]
    weights = "shared" if shared else params_text(param_count)
    special = ", ".join(filter(None, (block_text(block, graph.spec), visit_text(visit))))
    exact = plural(param_count, "parameter", f"{param_count:,}")
    hover = f"block {block.name}: {layers_text(block.layers)}, {exact}"
    return Facts(
        block.name,
        ("←" if visit.reverse else "") + (times_text(visit.each) if visit.each > 1 else ""),
        (layers_text(block.layers), weights, *filter(None, (special,))),
        f"{hover}, {special}" if special else hover,
    )


def visit_box(box: Box, style: Style, facts: Facts, colour: Colour) -> Iterator[str]:
    """One visit; a dashed inner line marks weights that an earlier box shows already."""
    top, height = box.y - style.box_height / 2, style.box_height
    yield f'<g class="visit" data-block={quoteattr(facts.name)}>'
    yield f"<title>{escape(facts.hover)}</title>"
    yield rect(box.x, top, box.width, height, 14, fill_of(colour))
    if box.shared:
        inner = (box.x + 4, top + 4, box.width - 8, height - 8, 10)
        yield rect(*inner, "none", colour.text, dashed=True)
    if style.detailed:
        yield from _details(box, facts, colour)
    else:
        name, size = fit(facts.name + facts.mark, box.width - 12, 25, 9, bold=True)
        yield text(name, _middle(box), box.y + 0.36 * size, size, colour.text, bold=True)
    yield "</g>"


def elided_box(box: Box) -> Iterator[str]:
    yield rect(box.x, box.y - 16, box.width, 32, 16, PAPER, LINE, dashed=True)
    yield text(box.text, _middle(box), box.y + 5, 14, MUTED)


def _details(box: Box, facts: Facts, colour: Colour) -> Iterator[str]:
    room = box.width - 12
    lift = 12 * (len(facts.lines) - 2)  # three lines need more room than two
    name, size = fit(facts.name + facts.mark, room, 38 - lift, 12, bold=True)
    yield text(name, _middle(box), box.y - 6 - lift, size, colour.text, bold=True)
    for index, words in enumerate(facts.lines):
        shown, size = fit(words, room, 12.5, 8)
        yield text(shown, _middle(box), box.y + 20 - lift + 18 * index, size, colour.text)


def _middle(box: Box) -> float:
    return box.x + box.width / 2
