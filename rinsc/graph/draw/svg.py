"""The block graph as a picture: boxes from left to right, repeats as arcs over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from rinsc.errors import plural
from rinsc.graph.draw.labels import (
    INK,
    PAPER,
    Colour,
    Drawn,
    block_colours,
    block_text,
    caption,
    cut,
    joins_of,
    layers_text,
    output_text,
    params_text,
    times_text,
    towers_of,
    visit_text,
)
from rinsc.graph.draw.layout import (
    END_HEIGHT,
    END_WIDTH,
    FONT,
    FOOT,
    LINE,
    MUTED,
    ROW_GAP,
    Arc,
    Box,
    Layout,
    Row,
    Style,
    arrange,
    arrow_right,
    fill_of,
    fit,
    line,
    num,
    pattern,
    rect,
    text,
    wrap,
)
from rinsc.graph.nodes import BlockGraph, Visit

CELL_WIDTH, CELL_HEIGHT = 240, 34
NOTE_SIZE, NOTE_HEIGHT = 13, 19
_CHIP_WIDTH, _CHIP_HEIGHT = 36, 24


def legend_height(graph: BlockGraph, width: float, *, shared: bool) -> float:
    entries = len(graph.blocks) + shared
    return CELL_HEIGHT * -(-entries // _columns(entries, width))


def legend(
    graph: BlockGraph,
    param_counts: Mapping[str, int],
    width: float,
    colours: Mapping[str, Colour],
    *,
    shared: bool,
) -> Iterator[str]:
    """A cell for each block, and one for what dashes mean where there are any.

    From left to right, then down, with the origin at the upper left.
    """
    columns = _columns(len(graph.blocks) + shared, width)
    for index, block in enumerate(graph.blocks.values()):
        x, y = _corner(index, columns, width)
        count = param_counts.get(block.name)
        label = " · ".join([layers_text(block.layers), *([params_text(count)] if count else [])])
        name, size = fit(block.name, _CHIP_WIDTH - 6, 15, 7, bold=True)
        colour = colours[block.name]
        yield rect(x, y, _CHIP_WIDTH, _CHIP_HEIGHT, 7, fill_of(colour))
        yield text(name, x + _CHIP_WIDTH / 2, y + 12 + 0.36 * size, size, colour.text, bold=True)
        yield _label_text(label, x, y)
    if shared:
        x, y = _corner(len(graph.blocks), columns, width)
        yield rect(x, y, _CHIP_WIDTH, _CHIP_HEIGHT, 7, PAPER, LINE, dashed=True)
        yield _label_text("shared, drawn before", x, y)


def notes(sentences: Iterable[str], width: float) -> tuple[list[str], float]:
    """Sentences below the picture, in lines that fit, and how high they are together."""
    lines = [line for sentence in sentences for line in wrap(sentence, width, NOTE_SIZE)]
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


def _label_text(label: str, x: float, y: float) -> str:
    shown, size = fit(label, CELL_WIDTH - _CHIP_WIDTH - 18, 13, 8)
    return text(shown, x + _CHIP_WIDTH + 10, y + 17, size, INK, anchor="start")


@dataclass(frozen=True)
class Facts:
    """What is said in a box and when it is pointed at."""

    name: str
    mark: str
    lines: tuple[str, ...]
    hover: str


def facts_of(graph: BlockGraph, visit: Visit, param_count: int | None, *, shared: bool) -> Facts:
    """``param_count`` None leaves the parameters out."""
    block = graph.blocks[visit.block]
    own = "" if param_count is None else params_text(param_count)
    weights = "shared" if shared else own
    special = ", ".join(filter(None, (block_text(block, graph.spec), visit_text(visit))))
    exact = ""
    if param_count is not None:
        exact = f", {plural(param_count, 'parameter', f'{param_count:,}')}"
    hover = f"block {block.name}: {layers_text(block.layers)}{exact}"
    return Facts(
        block.name,
        ("←" if visit.reverse else "") + (times_text(visit.each) if visit.each > 1 else ""),
        (layers_text(block.layers), *filter(None, (weights, special))),
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
    for index, label in enumerate(facts.lines):
        shown, size = fit(label, room, 12.5, 8)
        yield text(shown, _middle(box), box.y + 20 - lift + 18 * index, size, colour.text)


def _middle(box: Box) -> float:
    return box.x + box.width / 2


MARGIN = 32
HEAD_HEIGHT = 88  # title and caption
MIN_WIDTH = 560  # room for the caption
JOIN_WIDTH = 112  # right of the towers, where some meet
OPTIONS_SIZE, SMALLEST_OPTIONS = 12, 9  # of the letters beside the count of an arc


def to_svg(graph: Drawn, param_counts: Mapping[str, int]) -> str:
    """A self-contained SVG document on its own white ground; towers stand below one another.

    Without counts it names no parameters.

    A block has one colour; its visits after the first drawn one are marked as shared. A picture
    of many visits has small boxes in several rows, and a legend. Options of a repeat for which
    there is no room at its arc stand below the picture.
    """
    colours, towers, drawn = block_colours(graph), towers_of(graph), set[str]()
    layouts = {name: arrange(tower, drawn) for name, tower in towers.items()}
    joins = joins_of(graph)
    inner = max(MIN_WIDTH - JOIN_WIDTH * bool(joins), *(one.width for one in layouts.values()))
    width, height = inner + JOIN_WIDTH * bool(joins) + 2 * MARGIN, float(MARGIN + HEAD_HEIGHT)
    body: list[str] = []
    ends = dict[str, tuple[float, float]]()
    for name, tower in towers.items():
        layout, last = layouts[name], layouts[name].rows[-1]
        ends[name] = MARGIN + (inner + layout.width) / 2, height + last.y
        lines, height = _tower(tower, param_counts, colours, layout, inner, height, name)
        body += lines
    for number, (name, joined) in enumerate(joins.items()):
        body += _join(name, [ends[tower] for tower in joined], inner + MARGIN, number)
    patterns = "".join(map(pattern, colours.values()))
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


def _tower(
    graph: BlockGraph,
    param_counts: Mapping[str, int],
    colours: Mapping[str, Colour],
    layout: Layout,
    inner: float,
    top: float,
    name: str,
) -> tuple[list[str], float]:
    """What is drawn of one tower below ``top``, and where that ends."""
    footnotes = _footnotes(layout)
    left = MARGIN + (inner - layout.width) / 2
    height = top + layout.height + MARGIN
    flow = [
        *_wires(layout, name or "tokens", output_text(graph)),
        *_arcs(layout, footnotes),
        *_boxes(layout, graph, param_counts, colours),
    ]
    body = [_group(left, top, flow)]
    if not layout.style.detailed:
        shared = any(box.shared for box in layout.boxes)
        cells = legend(graph, param_counts, inner, colours, shared=shared)
        body.append(_group(MARGIN, height, cells))
        height += legend_height(graph, inner, shared=shared) + MARGIN / 2
    if footnotes:
        sentences = [f"[{number}] {_title(arc)}" for arc, number in footnotes.items()]
        lines_of_notes, notes_height = notes(sentences, inner)
        body.append(_group(MARGIN, height, lines_of_notes))
        height += notes_height + MARGIN / 2
    return body, height


def _group(x: float, y: float, lines: Iterable[str]) -> str:
    return "\n".join([f'<g transform="translate({num(x)} {num(y)})">', *lines, "</g>"])


def _boxes(
    layout: Layout,
    graph: BlockGraph,
    param_counts: Mapping[str, int],
    colours: Mapping[str, Colour],
) -> Iterator[str]:
    for box in layout.boxes:
        if box.visit is None:
            yield from elided_box(box)
        else:
            name = box.visit.block
            facts = facts_of(graph, box.visit, param_counts.get(name), shared=box.shared)
            yield from visit_box(box, layout.style, facts, colours[name])


def _head(graph: Drawn, param_counts: Mapping[str, int], width: float) -> Iterator[str]:
    title, size = fit(graph.spec.text, width - 2 * MARGIN, 28, 15, bold=True)
    yield text(title, width / 2, MARGIN + 26, size, INK, bold=True)
    totals, size = fit(caption(graph, param_counts), width - 2 * MARGIN, 15, 10)
    yield text(totals, width / 2, MARGIN + 54, size, MUTED)


def _join(
    name: str, ends: Sequence[tuple[float, float]], left: float, number: int
) -> Iterator[str]:
    """A node right of all towers, where the outputs of some meet."""
    x = left + JOIN_WIDTH - END_WIDTH
    y = sum(height for _, height in ends) / len(ends) + number * (END_HEIGHT + 8)
    corner = x - 20 - 6 * number
    for start, height in ends:
        turn = "" if height == y else f"H{num(corner)}V{num(y)}"
        yield line(f"M{num(start)} {num(height)}{turn}H{num(x)}")
    yield arrow_right(x, y)
    yield from _end(name, x, y)


def _wires(layout: Layout, start: str, output: str) -> Iterator[str]:
    """The flow line of each row with its ends, and the way from each row to the next."""
    first, last = layout.rows[0], layout.rows[-1]
    for row in layout.rows:
        left = row.left if row is first else row.left / 2
        right = row.right if row is last else row.right - layout.style.gap / 2
        yield line(f"M{num(left)} {num(row.y)}H{num(right)}")
    for above, below in pairwise(layout.rows):
        yield _return_wire(above, below, layout.style.gap)
    for arc in layout.arcs:
        yield from _feed(arc)
    for box in layout.boxes:
        yield arrow_right(box.x, box.y)
    yield arrow_right(last.right, last.y)
    yield from _end(start, first.left - END_WIDTH, first.y)
    yield from _end(output, last.right, last.y)


def _feed(arc: Arc) -> Iterator[str]:
    """A dotted line into a repeat that is fed: beside the state's, or in its place."""
    if arc.feed is None:
        return
    way = f"M{num(arc.left - FOOT)} {num(arc.y)}H{num(arc.left + FOOT)}"
    if arc.feed.alone:
        yield line(way, PAPER, 4)
        yield line(way, dotted=True)
        return
    below = arc.y + 12
    yield line(f"M{num(arc.left - FOOT)} {num(below)}H{num(arc.left + FOOT)}", dotted=True)
    yield arrow_right(arc.left + FOOT, below)


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
    shown, size = fit(label, END_WIDTH - 16, 14, 8)
    yield text(shown, x + END_WIDTH / 2, y + 0.36 * size, size, INK)


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
    source = "" if arc.feed is None else f"fed by {arc.feed.source}"
    return ", ".join(filter(None, (title, arc.options, source)))


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
