"""The block graph as JSON, complete and stable: for programs, not for eyes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rinsc.graph.draw.labels import Drawn, first_layers, towers_of
from rinsc.graph.nodes import BlockGraph, Visit
from rinsc.graph.towers_graph import TowersGraph

FORMAT = "rinsc-graph"
VERSION = 1


def to_json(graph: Drawn, param_counts: Mapping[str, int]) -> str:
    """JSON text of the graph.

    Keys: ``format`` and ``version`` of this layout; ``signature``; ``blocks``, in order of first
    use, each with ``name``, ``kind``, ``layers``, ``first_layer`` (counted from 0) and
    ``parameters``, and ``tie`` where it has one; ``steps``, in order of execution, each ``{"type":
    "visit", "block"}``, with ``each`` and ``reverse`` where they are used, or ``{"type": "loop",
    "name", "rounds", "steps"}``, with ``options`` as written where it has some; ``totals`` with
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
    for step in graph.steps():
        if isinstance(step, Visit):
            steps.append({"type": "visit", "block": step.block, **_visit_options(step)})
        else:
            body = _steps(step.body)
            loop = {"type": "loop", "name": step.name, "rounds": step.rounds}
            options = {"options": step.options.text} if step.options.text else {}
            steps.append({**loop, **options, "steps": body})
    return steps


def _visit_options(visit: Visit) -> dict[str, Any]:
    each = {"each": visit.each} if visit.each > 1 else {}
    return {**each, "reverse": True} if visit.reverse else each
