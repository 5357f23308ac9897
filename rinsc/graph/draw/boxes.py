"""The boxes of the SVG picture: a visit with its block's name, size and parameters."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from rinsc.graph.draw.layout import Box, Style
from rinsc.graph.draw.palette import PAPER, Colour
from rinsc.graph.draw.shapes import LINE, MUTED, fit, rect, text
from rinsc.graph.draw.words import layers_text, params_text
from rinsc.graph.nodes import Block


def visit_box(
    box: Box, style: Style, block: Block, colour: Colour, param_count: int
) -> Iterator[str]:
    """One visit; a dashed inner line marks weights that an earlier box shows already."""
    top, height = box.y - style.box_height / 2, style.box_height
    hover = f"block {block.name}: {layers_text(block.layers)}, {param_count:,} parameters"
    yield f'<g class="visit" data-block={quoteattr(block.name)}><title>{escape(hover)}</title>'
    yield rect(box.x, top, box.width, height, 14, colour.fill)
    if box.shared:
        inner = (box.x + 4, top + 4, box.width - 8, height - 8, 10)
        yield rect(*inner, "none", colour.text, dashed=True)
    if style.detailed:
        yield from _details(box, block, colour, param_count)
    else:
        name, size = fit(block.name, box.width - 12, 25, 9, bold=True)
        yield text(name, _middle(box), box.y + 0.36 * size, size, colour.text, bold=True)
    yield "</g>"


def elided_box(box: Box) -> Iterator[str]:
    yield rect(box.x, box.y - 16, box.width, 32, 16, PAPER, LINE, dashed=True)
    yield text(box.text, _middle(box), box.y + 5, 14, MUTED)


def _details(box: Box, block: Block, colour: Colour, param_count: int) -> Iterator[str]:
    room = box.width - 12
    name, size = fit(block.name, room, 38, 12, bold=True)
    yield text(name, _middle(box), box.y - 6, size, colour.text, bold=True)
    weights = "shared" if box.shared else params_text(param_count)
    for words, below in ((layers_text(block.layers), 20), (weights, 39)):
        shown, size = fit(words, room, 12.5, 8)
        yield text(shown, _middle(box), box.y + below, size, colour.text)


def _middle(box: Box) -> float:
    return box.x + box.width / 2
