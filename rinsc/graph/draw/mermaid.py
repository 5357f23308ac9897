"""The block graph as a Mermaid flowchart, which code hosts draw inside Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from rinsc.graph.draw.flow import (
    FlowItem,
    FlowNode,
    back_edge,
    flow,
    forward_edges,
    loops_in,
    nodes_in,
)
from rinsc.graph.draw.palette import block_colours
from rinsc.graph.draw.words import caption, cut, times_text
from rinsc.graph.nodes import BlockGraph


def to_mermaid(graph: BlockGraph, param_counts: Mapping[str, int]) -> str:
    """Mermaid text: loops are subgraphs with a dotted back edge that bears their count."""
    items = flow(graph, param_counts)
    classes = {name: f"block{index}" for index, name in enumerate(graph.blocks)}
    drawn = {node.block for node in nodes_in(items)}
    title = f"{cut(graph.spec.text, 120)} · {caption(graph, param_counts)}"
    lines = ["---", f"title: {json.dumps(title, ensure_ascii=False)}", "---", "flowchart LR"]
    lines += ['  input(["tokens"])', *_items(items, classes, "  "), '  output(["logits"])']
    lines += [f"  {source} --> {target}" for source, target in forward_edges(items)]
    for loop in loops_in(items):
        source, target = back_edge(loop)
        lines.append(f'  {source} -.->|"{times_text(loop.rounds)}"| {target}')
    for name, colour in block_colours(graph).items():
        if name in drawn:
            style = f"fill:{colour.fill},stroke:{colour.fill},color:{colour.text}"
            lines.append(f"  classDef {classes[name]} {style}")
    return "\n".join(lines) + "\n"


def _items(items: tuple[FlowItem, ...], classes: Mapping[str, str], indent: str) -> Iterator[str]:
    for item in items:
        if not isinstance(item, FlowNode):
            yield f'{indent}subgraph {item.key}["{_escape(item.title)}"]'
            yield from _items(item.items, classes, indent + "  ")
            yield f"{indent}end"
        else:
            text = "<br/>".join(_escape(line) for line in item.lines)
            style = "" if item.block is None else f":::{classes[item.block]}"
            yield f'{indent}{item.key}("{text}"){style}'


def _escape(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;")
