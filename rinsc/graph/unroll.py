"""Pass: the flat graph of visits, for a given number of rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rinsc.errors import GraphError, Problem
from rinsc.graph.nodes import BlockGraph, Visit
from rinsc.graph.rounds import Rounds, resolve_rounds
from rinsc.graph.verify import has_no_loops, verify

MAX_UNROLLED_VISITS = 4096


def unroll(graph: BlockGraph, rounds: Rounds = None) -> BlockGraph:
    """Every round written out as visits, over the same blocks.

    Raises `GraphError` for rounds that `resolve_rounds` refuses, and for more than
    `MAX_UNROLLED_VISITS` visits, before any of them is made.
    """
    counts = resolve_rounds(graph, rounds)
    total = sum(graph.visit_counts(counts).values())
    if total > MAX_UNROLLED_VISITS:
        message = f"{total} visits are too many to write out; the limit is {MAX_UNROLLED_VISITS}"
        raise GraphError(Problem("too-many-visits", message, hint="ask for fewer rounds"))
    flat = graph.with_steps(_visits(graph, counts))
    verify(flat, after="unroll", rules=(has_no_loops,))
    return flat


def _visits(graph: BlockGraph, counts: Mapping[str, int]) -> Iterator[Visit]:
    for step in graph.steps():
        if isinstance(step, Visit):
            yield step
        else:
            for _ in range(counts[step.name]):
                yield from _visits(step.body, counts)
