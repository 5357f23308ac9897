"""The block graph as Graphviz text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rinsc.graph.draw.flow import FlowItem, FlowNode, back_edge, flow, forward_edges, loops_in
from rinsc.graph.draw.palette import Colour, block_colours
from rinsc.graph.draw.words import caption, cut, times_text
from rinsc.graph.nodes import BlockGraph


def to_dot(graph: BlockGraph, param_counts: Mapping[str, int]) -> str:
    """DOT text: loops are clusters with a dashed back edge that bears their count."""
    items = flow(graph, param_counts)
    lines = [
        "digraph rinsc {",
        f"  label={_quote(cut(graph.spec.text, 120), caption(graph, param_counts))};",
        '  rankdir=LR; labelloc=t; fontname="Helvetica"; bgcolor="white";',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fillcolor="white"];',
        '  edge [fontname="Helvetica"];',
        '  input [label="tokens", shape=plaintext];',
        *_items(items, block_colours(graph), "  "),
        '  output [label="logits", shape=plaintext];',
        *(f"  {source} -> {target};" for source, target in forward_edges(items)),
    ]
    for loop in loops_in(items):
        source, target = back_edge(loop)
        label = _quote(times_text(loop.rounds))
        look = "style=dashed, constraint=false"
        lines.append(f"  {source} -> {target} [label={label}, {look}];")
    return "\n".join([*lines, "}"]) + "\n"


def _items(
    items: tuple[FlowItem, ...], colours: Mapping[str, Colour], indent: str
) -> Iterator[str]:
    for item in items:
        if not isinstance(item, FlowNode):
            yield f"{indent}subgraph cluster_{item.key} {{"
            yield f"{indent}  label={_quote(item.title)}; style=rounded;"
            yield from _items(item.items, colours, indent + "  ")
            yield f"{indent}}}"
        elif item.block is None:
            yield f"{indent}{item.key} [label={_quote(*item.lines)}, shape=plaintext];"
        else:
            colour = colours[item.block]
            look = f'color="{colour.fill}", fillcolor="{colour.fill}", fontcolor="{colour.text}"'
            yield f"{indent}{item.key} [label={_quote(*item.lines)}, {look}];"


def _quote(*lines: str) -> str:
    """A quoted DOT string of one or more centred lines."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
