"""Passes over a block graph: runs become loops, loops are named, rounds are written out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from rinsc.errors import GraphError
from rinsc.graph.nodes import BlockGraph, Loop, Visit
from rinsc.graph.rounds import Rounds, resolve_rounds
from rinsc.graph.verify import has_no_dials, verify


def fold_runs(graph: BlockGraph) -> BlockGraph:
    """Fold adjacent visits of the same block into one `Loop`, in loop bodies as well."""
    steps: list[Visit | Loop] = []
    for step, group in groupby(graph.steps()):
        run = list(group)
        if isinstance(step, Loop):
            steps += [replace(loop, body=fold_runs(loop.body)) for loop in _loops(run)]
        elif len(run) == 1:
            steps.append(step)
        else:
            steps.append(Loop(step.block, graph.with_steps([step]), len(run)))
    return graph.with_steps(steps)


def _loops(run: list[Visit | Loop]) -> list[Loop]:
    return [step for step in run if isinstance(step, Loop)]


def number_loops(graph: BlockGraph) -> BlockGraph:
    """``A``, ``A`` become ``A_1``, ``A_2``; a name that stands alone stays."""
    totals = Counter(loop.name for loop in graph.loops())
    return _number(graph, totals, Counter())


def _number(graph: BlockGraph, totals: Counter[str], numbers: Counter[str]) -> BlockGraph:
    steps: list[Visit | Loop] = []
    for step in graph.steps():
        if isinstance(step, Loop):
            numbers[step.name] += 1
            alone = totals[step.name] == 1
            name = step.name if alone else f"{step.name}_{numbers[step.name]}"
            step = replace(step, name=name, body=_number(step.body, totals, numbers))
        steps.append(step)
    return graph.with_steps(steps)


MAX_UNROLLED_VISITS = 4096


def unroll(graph: BlockGraph, rounds: Rounds = None) -> BlockGraph:
    """Every round written out as visits, over the same blocks.

    A repeat whose rounds do more than run its body stays one loop, at fixed rounds.

    Raises `GraphError` for rounds that `resolve_rounds` refuses, and for more than
    `MAX_UNROLLED_VISITS` visits, before any of them is made.

    >>> from rinsc import build_graph, model_spec
    >>> graph = build_graph(model_spec("(A^3)B", preset="tiny"))
    >>> [visit.block for visit in unroll(graph, rounds=2).visits()]
    ['A', 'A', 'B']
    """
    counts = resolve_rounds(graph, rounds)
    total = sum(graph.visit_counts(counts).values())
    if total > MAX_UNROLLED_VISITS:
        message = f"{total} visits are too many to write out; the limit is {MAX_UNROLLED_VISITS}"
        raise GraphError("too-many-visits", message, hint="ask for fewer rounds")
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
