"""The block graph as text: plain lines for a terminal, without colour or markup, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

from rinsc.graph.draw.labels import (
    Drawn,
    Elided,
    block_text,
    cut,
    feeds,
    first_layers,
    layers_text,
    params_text,
    shared_text,
    shorten,
    times_text,
    towers_of,
    visit_text,
)
from rinsc.graph.nodes import BlockGraph, Visit
from rinsc.graph.towers_graph import TowersGraph

MAX_SCHEDULE_VISITS = 64
_HEADS = ("visits  ", "layers  ")


def tree_lines(graph: Drawn, param_counts: Mapping[str, int]) -> list[str]:
    """The rolled tree: the signature, then a line for each repeat and each block in it.

    Of several towers, a tree for each below its name.
    """
    lines, drawn = [cut(graph.spec.text, 100)], set[str]()
    for name, tower in towers_of(graph).items():
        lines += ["", f"{name}  {tower.spec.kind}"] if name else []
        lines += _branches(tower, param_counts, drawn)
    shared = shared_text(graph)
    return [*lines, "", shared] if shared else lines


def schedule_lines(graph: Drawn, width: int = 80) -> list[str]:
    """Visits in order of execution, and below each the physical layers it runs.

    Folded to ``width`` columns; all but the first `MAX_SCHEDULE_VISITS` are only counted.
    """
    lines: list[str] = []
    starts = first_layers(graph)
    for name, tower in towers_of(graph).items():
        lines += [*[""] * bool(lines), name] if name else []
        lines += _schedule(tower, starts, width)
    return lines


def _schedule(graph: BlockGraph, starts: Mapping[str, int], width: int) -> list[str]:
    visits = list(islice(graph.visits(), MAX_SCHEDULE_VISITS))
    columns = [
        (visit.block, _layer_range(visit, starts[visit.block], graph.blocks[visit.block].layers))
        for visit in visits
    ]
    lines: list[str] = []
    room = max(width - len(_HEADS[0]), 1)
    while columns:
        fitting = _fitting(columns, room)
        for row, head in enumerate(_HEADS):
            cells = [column[row].ljust(max(map(len, column))) for column in columns[:fitting]]
            lines.append((head + "  ".join(cells)).rstrip())
        columns = columns[fitting:]
        lines += [""] if columns else []
    left_out = sum(1 for _ in graph.visits()) - len(visits)
    return [*lines, f"… and {left_out} more visits"] if left_out else lines


def _branches(graph: BlockGraph, param_counts: Mapping[str, int], drawn: set[str]) -> list[str]:
    lines: list[str] = []
    steps, fed = shorten(graph), feeds(graph)
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        branch, trunk = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if isinstance(step, Visit):
            own = "shared" if step.block in drawn else params_text(param_counts[step.block])
            block = graph.blocks[step.block]
            special = (block_text(block, graph.spec), visit_text(step))
            facts = ", ".join(filter(None, (layers_text(block.layers), own, *special)))
            lines.append(f"{branch}{step.block}  {facts}")
            drawn.add(step.block)
        elif isinstance(step, Elided):
            lines.append(f"{branch}… {step.steps} more steps")
        else:
            options = f"  {{{step.options.text}}}" if step.options.text else ""
            source = f"  fed by {fed[step.name].source}" if step.name in fed else ""
            title = f"{times_text(step.rounds)}  repeat {step.name}{options}{source}"
            lines.append(branch + title)
            lines += [trunk + line for line in _branches(step.body, param_counts, drawn)]
    return lines


def _fitting(columns: list[tuple[str, str]], room: int) -> int:
    """How many columns fit into the room, two spaces apart; at least one."""
    used = 0
    for index, column in enumerate(columns):
        used += max(map(len, column)) + (2 if index else 0)
        if used > room:
            return max(index, 1)
    return len(columns)


def _layer_range(visit: Visit, first: int, layers: int) -> str:
    ends = [first, first + layers - 1][: min(layers, 2)]
    text = "-".join(map(str, reversed(ends) if visit.reverse else ends))
    return f"{text} each {times_text(visit.each)}" if visit.each > 1 else text


FORMAT = "rinsc-graph"
VERSION = 1


def to_json(graph: Drawn, param_counts: Mapping[str, int]) -> str:
    """JSON text of the graph.

    Keys: ``format`` and ``version`` of this layout; ``signature``; ``blocks``, in order of first
    use, each with ``name``, ``kind``, ``layers``, ``first_layer`` (counted from 0) and
    ``parameters``, and ``tie`` where it has one; ``steps``, in order of execution, each ``{"type":
    "visit", "block"}``, with ``each`` and ``reverse`` where they are used, or ``{"type": "loop",
    "name", "rounds", "steps"}``, with ``options`` as written where it has some, and ``injection``
    where its rounds are fed: the step whose state that is, counted from 1, or 0 for the state that
    comes in; ``totals`` with
    ``parameters`` (of the blocks), ``layers_stored``, ``layers_executed`` and ``visits`` at the
    rounds written. Several towers have ``towers`` in place of ``steps``: of each, under its name,
    its ``kind`` and its ``steps``; and ``shared``, the blocks that several of them visit. Where
    outputs meet, ``joins`` has the towers of each join.
    """
    towers = towers_of(graph)
    starts = first_layers(graph)
    flow: dict[str, Any] = {}
    if isinstance(graph, TowersGraph):
        flow["towers"] = {
            name: {"kind": tower.spec.kind, "steps": _steps(tower)}
            for name, tower in towers.items()
        }
        flow["shared"] = list(graph.spec.shared_blocks)
        if graph.joins:
            flow["joins"] = {name: list(joined) for name, joined in graph.joins.items()}
    else:
        flow["steps"] = _steps(graph)
    blocks = [
        {
            "name": block.name,
            "kind": block.kind,
            "layers": block.layers,
            "first_layer": starts[block.name],
            "parameters": param_counts[block.name],
            **({"tie": block.tie} if block.tie else {}),
        }
        for block in graph.blocks.values()
    ]
    document = {
        "format": FORMAT,
        "version": VERSION,
        "signature": graph.spec.text,
        "blocks": blocks,
        **flow,
        "totals": {
            "parameters": sum(param_counts[name] for name in graph.blocks),
            "layers_stored": graph.stored_layers,
            "layers_executed": graph.executed_layers(),
            "visits": sum(1 for tower in towers.values() for _ in tower.visits()),
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _steps(graph: BlockGraph) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for step, _, source in graph.wired():
        if isinstance(step, Visit):
            steps.append({"type": "visit", "block": step.block, **_visit_options(step)})
        else:
            body = _steps(step.body)
            loop = {"type": "loop", "name": step.name, "rounds": step.rounds}
            options = {"options": step.options.text} if step.options.text else {}
            injection = {} if source is None else {"injection": source}
            steps.append({**loop, **options, **injection, "steps": body})
    return steps


def _visit_options(visit: Visit) -> dict[str, Any]:
    repeated = {"each": visit.each} if visit.each > 1 else {}
    return {**repeated, "reverse": True} if visit.reverse else repeated
