"""Pass: a run of visits to one block becomes a loop, so that ``ABBA`` has the repeat ``B``."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from rinsc.graph.nodes import BlockGraph, Loop, Visit


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
