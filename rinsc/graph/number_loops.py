"""Pass: loops that share a name are numbered, outer before inner, so the dial can tell them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rinsc.graph.nodes import BlockGraph, Loop, Visit


def number_loops(graph: BlockGraph) -> BlockGraph:
    """``A``, ``A`` become ``A_1``, ``A_2``; a name that stands alone stays."""
    totals = Counter(loop.name for loop in graph.loops())
    return _number(graph, totals, Counter())


def _number(graph: BlockGraph, totals: Counter[str], seen: Counter[str]) -> BlockGraph:
    steps: list[Visit | Loop] = []
    for step in graph.steps():
        if isinstance(step, Loop):
            seen[step.name] += 1
            alone = totals[step.name] == 1
            name = step.name if alone else f"{step.name}_{seen[step.name]}"
            step = replace(step, name=name, body=_number(step.body, totals, seen))
        steps.append(step)
    return graph.with_steps(steps)
