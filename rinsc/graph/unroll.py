"""Pass: the rounds written out, for a given number of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rinsc.errors import GraphError, Problem
from rinsc.graph.nodes import BlockGraph, Loop, Visit
from rinsc.graph.rounds import Rounds, resolve_rounds
from rinsc.graph.verify import has_no_dials, verify

MAX_UNROLLED_VISITS = 4096


def unroll(graph: BlockGraph, rounds: Rounds = None) -> BlockGraph:
    """Every round written out as visits, over the same blocks.

    A repeat whose rounds do more than run its body stays one loop, at fixed rounds.

    Raises `GraphError` for rounds that `resolve_rounds` refuses, and for more than
    `MAX_UNROLLED_VISITS` visits, before any of them is made.
    """
    counts = resolve_rounds(graph, rounds)
    total = sum(graph.visit_counts(counts).values())
    if total > MAX_UNROLLED_VISITS:
        message = f"{total} visits are too many to write out; the limit is {MAX_UNROLLED_VISITS}"
        raise GraphError(Problem("too-many-visits", message, hint="ask for fewer rounds"))
    flat = graph.with_steps(_steps(graph, counts))
    verify(flat, after="unroll", rules=(has_no_dials,))
    return flat


def at_rounds(graph: BlockGraph, rounds: Rounds = None) -> BlockGraph:
    """The same loops, written with these rounds. Raises `GraphError` as `resolve_rounds` does."""
    return graph.with_steps(_resized(graph, resolve_rounds(graph, rounds)))


def _resized(graph: BlockGraph, counts: Mapping[str, int]) -> Iterator[Visit | Loop]:
    for step in graph.steps():
        if isinstance(step, Visit):
            yield step
        else:
            body = step.body.with_steps(_resized(step.body, counts))
            yield replace(step, body=body, rounds=step.rounds_of(counts))


def _steps(graph: BlockGraph, counts: Mapping[str, int]) -> Iterator[Visit | Loop]:
    for step in graph.steps():
        if isinstance(step, Visit):
            yield step
            continue
        rounds = step.rounds_of(counts)
        if step.options.keeps_its_loop:
            body = step.body.with_steps(_steps(step.body, counts))
            yield replace(step, body=body, rounds=rounds, fixed=True)
        else:
            for _ in range(rounds):
                yield from _steps(step.body, counts)
