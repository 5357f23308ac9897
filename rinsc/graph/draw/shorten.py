"""Long sequences, shortened in the middle, so that no picture grows without bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rinsc.graph.nodes import BlockGraph, Loop, Visit

MAX_STEPS = 48  # drawn of one sequence; some 30 visits still read well
_TAIL = 8


@dataclass(frozen=True)
class Elided:
    """Stands for this many steps that are not drawn."""

    steps: int


Shown: TypeAlias = Visit | Loop | Elided


def shorten(graph: BlockGraph) -> list[Shown]:
    """The steps of a graph or a loop's body, the middle of a long one replaced by one mark."""
    steps: list[Shown] = list(graph.steps())
    if len(steps) <= MAX_STEPS:
        return steps
    head = MAX_STEPS - _TAIL
    return [*steps[:head], Elided(len(steps) - MAX_STEPS), *steps[-_TAIL:]]
