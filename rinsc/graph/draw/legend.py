"""The legend under small boxes: what there is no room for inside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rinsc.graph.draw.palette import INK, PAPER, block_colours
from rinsc.graph.draw.shapes import LINE, MUTED, fill_of, fit, rect, text, wrap
from rinsc.graph.draw.words import layers_text, params_text
from rinsc.graph.nodes import BlockGraph

CELL_WIDTH, CELL_HEIGHT = 240, 34
NOTE_SIZE, NOTE_HEIGHT = 13, 19
_CHIP_WIDTH, _CHIP_HEIGHT = 36, 24


def legend_height(graph: BlockGraph, width: float, *, shared: bool) -> float:
    entries = len(graph.blocks) + shared
    return CELL_HEIGHT * -(-entries // _columns(entries, width))


def legend(
    graph: BlockGraph, param_counts: Mapping[str, int], width: float, *, shared: bool
) -> Iterator[str]:
    """A cell for each block, and one for what dashes mean where there are any.

    From left to right, then down, with the origin at the upper left.
    """
    columns = _columns(len(graph.blocks) + shared, width)
    colours = block_colours(graph)
    for index, block in enumerate(graph.blocks.values()):
        x, y = _corner(index, columns, width)
        words = f"{layers_text(block.layers)} · {params_text(param_counts[block.name])}"
        name, size = fit(block.name, _CHIP_WIDTH - 6, 15, 7, bold=True)
        colour = colours[block.name]
        yield rect(x, y, _CHIP_WIDTH, _CHIP_HEIGHT, 7, fill_of(colour))
        yield text(name, x + _CHIP_WIDTH / 2, y + 12 + 0.36 * size, size, colour.text, bold=True)
        yield _words(words, x, y)
    if shared:
        x, y = _corner(len(graph.blocks), columns, width)
        yield rect(x, y, _CHIP_WIDTH, _CHIP_HEIGHT, 7, PAPER, LINE, dashed=True)
        yield _words("shared, drawn before", x, y)


def notes(words: Iterable[str], width: float) -> tuple[list[str], float]:
    """Sentences below the picture, in lines that fit, and how high they are together."""
    lines = [line for each in words for line in wrap(each, width, NOTE_SIZE)]
    drawn = [
        text(line, 0, NOTE_HEIGHT * (index + 0.7), NOTE_SIZE, MUTED, anchor="start")
        for index, line in enumerate(lines)
    ]
    return drawn, NOTE_HEIGHT * len(lines)


def _columns(entries: int, width: float) -> int:
    return max(1, min(entries, int(width // CELL_WIDTH)))


def _corner(index: int, columns: int, width: float) -> tuple[float, float]:
    """The upper left of a cell; the cells as a whole stand in the middle of the width."""
    cell = min(width / columns, 1.25 * CELL_WIDTH)
    row, column = divmod(index, columns)
    return (width - cell * columns) / 2 + column * cell, row * CELL_HEIGHT


def _words(words: str, x: float, y: float) -> str:
    shown, size = fit(words, CELL_WIDTH - _CHIP_WIDTH - 18, 13, 8)
    return text(shown, x + _CHIP_WIDTH + 10, y + 17, size, INK, anchor="start")
