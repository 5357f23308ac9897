"""The programs of a model, and how often a pass runs each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rinsc.cost.counts import Number, RunCounts
from rinsc.graph import BlockGraph
from rinsc.layers import trace_loop, trace_programs
from rinsc.program import Program

FRAME = "embedding and head"


@dataclass(frozen=True)
class ProgramRuns:
    """A program of ``owner``, a row of a report, with its runs and those with gradients."""

    owner: str
    program: Program
    runs: Number
    with_grad: Number
    is_head: bool = False


def repeat_row(name: str) -> str:
    """What a report calls a repeat, whose own name may be that of a block."""
    return f"repeat {name}"


def program_runs(graph: BlockGraph, counts: RunCounts) -> Iterator[ProgramRuns]:
    """Every program of the graph once: embedding, blocks, repeats, head."""
    programs = trace_programs(graph.spec)
    yield ProgramRuns(FRAME, programs.embed, 1, 1)
    for name, block in graph.blocks.items():
        runs = counts.blocks[name]
        layer = programs.layer[block.kind]
        yield ProgramRuns(name, layer, runs.layer_runs, runs.layer_runs_with_grad)
        for ends in (programs.enter, programs.leave):
            if block.kind in ends:
                yield ProgramRuns(name, ends[block.kind], runs.visits, runs.visits_with_grad)
    for name, loop in {loop.name: loop for loop in graph.loops()}.items():
        around = trace_loop(graph.spec, loop)
        trips = counts.loops[name]
        if around.start is not None:
            yield ProgramRuns(repeat_row(name), around.start, trips.entries, 0)
        for program in (around.before, around.after):
            if program is not None:
                yield ProgramRuns(repeat_row(name), program, trips.rounds, trips.rounds_with_grad)
    yield ProgramRuns(FRAME, programs.head, 1, 1, is_head=True)
