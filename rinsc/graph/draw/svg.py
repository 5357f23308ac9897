"""The block graph as a picture: boxes from left to right, repeats as arcs over what they repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from rinsc.graph.draw.boxes import elided_box, facts_of, visit_box
from rinsc.graph.draw.layout import END_HEIGHT, END_WIDTH, ROW_GAP, Arc, Layout, Row, arrange
from rinsc.graph.draw.legend import legend, legend_height, notes
from rinsc.graph.draw.palette import INK, PAPER, block_colours
from rinsc.graph.draw.shapes import (
    FONT,
    LINE,
    MUTED,
    arrow_right,
    fit,
    line,
    num,
    pattern,
    rect,
    text,
)
from rinsc.graph.draw.words import caption, cut, times_text
from rinsc.graph.nodes import BlockGraph
from rinsc.graph.verify import verified
from rinsc.syntax.problems import plural

MARGIN = 32
HEAD_HEIGHT = 88  # title and caption
MIN_WIDTH = 560  # room for the caption
OPTIONS_SIZE, SMALLEST_OPTIONS = 12, 9  # of the letters beside the count of an arc


def to_svg(graph: BlockGraph, param_counts: Mapping[str, int]) -> str:
    """A self-contained SVG document on its own white ground.

    A block has one colour; its visits after the first drawn one are marked as shared. A picture
    of many visits has small boxes in several rows, and a legend. Options of a repeat for which
    there is no room at its arc stand below the picture.
    """
    layout = arrange(verified(graph))
    footnotes = _footnotes(layout)
    inner = max(layout.width, MIN_WIDTH)
    width, left = inner + 2 * MARGIN, MARGIN + (inner - layout.width) / 2
    top = MARGIN + HEAD_HEIGHT
    height = top + layout.height + MARGIN
    body = [
        _group(
            left,
            top,
            [*_wires(layout), *_arcs(layout, footnotes), *_boxes(layout, graph, param_counts)],
        )
    ]
    if not layout.style.detailed:
        shared = any(box.shared for box in layout.boxes)
        body.append(_group(MARGIN, height, legend(graph, param_counts, inner, shared=shared)))
        height += legend_height(graph, inner, shared=shared) + MARGIN / 2
    if footnotes:
        words = [f"[{number}] {_title(arc)}" for arc, number in footnotes.items()]
        lines_of_notes, notes_height = notes(words, inner)
        body.append(_group(MARGIN, height, lines_of_notes))
        height += notes_height + MARGIN / 2
    patterns = "".join(map(pattern, block_colours(graph).values()))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {num(width)} {num(height)}" '
        f'width="{num(width)}" height="{num(height)}" role="img" font-family={quoteattr(FONT)}>',
        f"<title>{escape(cut(graph.spec.text, 200))}</title>",
        f"<desc>{escape(caption(graph, param_counts))}</desc>",
        *([f"<defs>{patterns}</defs>"] if patterns else []),
        rect(1, 1, width - 2, height - 2, 18, PAPER, "#d5dae1"),
        *_head(graph, param_counts, width),
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _group(x: float, y: float, lines: Iterable[str]) -> str:
    return "\n".join([f'<g transform="translate({num(x)} {num(y)})">', *lines, "</g>"])


def _boxes(layout: Layout, graph: BlockGraph, param_counts: Mapping[str, int]) -> Iterator[str]:
    colours = block_colours(graph)
    for box in layout.boxes:
        if box.visit is None:
            yield from elided_box(box)
        else:
            name = box.visit.block
            facts = facts_of(graph, box.visit, param_counts[name], shared=box.shared)
            yield from visit_box(box, layout.style, facts, colours[name])


def _head(graph: BlockGraph, param_counts: Mapping[str, int], width: float) -> Iterator[str]:
    title, size = fit(graph.spec.text, width - 2 * MARGIN, 28, 15, bold=True)
    yield text(title, width / 2, MARGIN + 26, size, INK, bold=True)
    totals, size = fit(caption(graph, param_counts), width - 2 * MARGIN, 15, 10)
    yield text(totals, width / 2, MARGIN + 54, size, MUTED)


def _wires(layout: Layout) -> Iterator[str]:
    """The flow line of each row with its ends, and the way from each row to the next."""
    first, last = layout.rows[0], layout.rows[-1]
    for row in layout.rows:
        left = row.left if row is first else row.left / 2
        right = row.right if row is last else row.right - layout.style.gap / 2
        yield line(f"M{num(left)} {num(row.y)}H{num(right)}")
    for above, below in pairwise(layout.rows):
        yield _return_wire(above, below, layout.style.gap)
    for box in layout.boxes:
        yield arrow_right(box.x, box.y)
    yield arrow_right(last.right, last.y)
    yield from _end("tokens", first.left - END_WIDTH, first.y)
    yield from _end("logits", last.right, last.y)


def _return_wire(above: Row, below: Row, gap: float) -> str:
    right, left = above.right - gap / 2, below.left / 2
    middle, r = above.bottom + ROW_GAP / 2, 10
    return line(
        f"M{num(right)} {num(above.y)}q{r} 0 {r} {r}V{num(middle - r)}q0 {r} {-r} {r}"
        f"H{num(left)}q{-r} 0 {-r} {r}V{num(below.y - r)}q0 {r} {r} {r}"
    )


def _end(label: str, x: float, y: float) -> Iterator[str]:
    radius = END_HEIGHT / 2
    yield rect(x, y - radius, END_WIDTH, END_HEIGHT, radius, "#eef1f5", LINE)
    yield text(label, x + END_WIDTH / 2, y + 5, 14, INK)


def _footnotes(layout: Layout) -> dict[Arc, int]:
    """The arcs whose options do not fit beside their count, with a number each."""
    arcs = [arc for arc in layout.arcs if arc.options and _options_size(arc) < SMALLEST_OPTIONS]
    return {arc: number for number, arc in enumerate(arcs, start=1)}


def _options_size(arc: Arc) -> float:
    """The size at which the options of an arc fit between its count and its right end."""
    room = (arc.right - arc.left) / 2 - _pill_width(times_text(arc.rounds)) / 2 - 24
    _, size = fit(arc.options, max(room, 1), OPTIONS_SIZE, 0.1)
    return size


def _pill_width(label: str, mark: str = "") -> float:
    return 16 + 12 * len(label) + 7 * len(mark)


def _title(arc: Arc) -> str:
    title = f"repeat {arc.name}: {plural(arc.rounds, 'round')}"
    return f"{title}, {arc.options}" if arc.options else title


def _arcs(layout: Layout, footnotes: Mapping[Arc, int]) -> Iterator[str]:
    for arc in layout.arcs:
        yield f'<g class="loop"><title>{escape(_title(arc))}</title>'
        yield from _arc(arc, footnotes.get(arc))
        yield "</g>"


def _arc(arc: Arc, footnote: int | None) -> Iterator[str]:
    """Up from the right foot, over the body, down to an arrow head; the count on top."""
    r = 16
    yield line(
        f"M{num(arc.right)} {num(arc.y)}V{num(arc.top + r)}q0 {-r} {-r} {-r}"
        f"H{num(arc.left + r)}q{-r} 0 {-r} {r}V{num(arc.y - 8)}",
        INK,
        2.25,
    )
    yield f'<circle cx="{num(arc.right)}" cy="{num(arc.y)}" r="3.5" fill="{INK}"/>'
    yield f'<path d="M{num(arc.left)} {num(arc.y)}l-6 -11h12z" fill="{INK}"/>'
    middle, label = (arc.left + arc.right) / 2, times_text(arc.rounds)
    mark = "" if footnote is None else f"[{footnote}]"
    pill = _pill_width(label, mark)
    yield rect(middle - pill / 2, arc.top - 13, pill, 26, 13, PAPER, INK)
    yield text(label, middle - 3.5 * len(mark), arc.top + 6, 17, INK, bold=True)
    if mark:
        yield text(mark, middle + pill / 2 - 7, arc.top + 4, 11, MUTED, anchor="end")
    elif arc.options:
        size = _options_size(arc)
        yield text(arc.options, middle + pill / 2 + 8, arc.top - 4, size, MUTED, anchor="start")
