"""How often everything runs in one pass, with and without gradients, and what a cache must hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from rinsc.graph import BlockGraph, Loop, Visit, verified
from rinsc.graph.law import loop_law

Number: TypeAlias = int | Fraction  # a fraction where rounds are drawn


@dataclass(frozen=True)
class BlockRuns:
    """How often a block and its layers run; ``_with_grad`` counts what is back-propagated through.

    ``layer_runs`` is over all its layers; ``cache_slots`` is what each layer keeps for a token.
    """

    visits: Number = 0
    visits_with_grad: Number = 0
    layer_runs: Number = 0
    layer_runs_with_grad: Number = 0
    cache_slots: Number = 0

    def __add__(self, other: BlockRuns) -> BlockRuns:
        return BlockRuns(
            self.visits + other.visits,
            self.visits_with_grad + other.visits_with_grad,
            self.layer_runs + other.layer_runs,
            self.layer_runs_with_grad + other.layer_runs_with_grad,
            self.cache_slots + other.cache_slots,
        )


@dataclass(frozen=True)
class LoopRuns:
    """How often a loop is entered, and how many rounds it then runs, over all its entries."""

    entries: Number = 0
    rounds: Number = 0
    rounds_with_grad: Number = 0

    def __add__(self, other: LoopRuns) -> LoopRuns:
        return LoopRuns(
            self.entries + other.entries,
            self.rounds + other.rounds,
            self.rounds_with_grad + other.rounds_with_grad,
        )


@dataclass(frozen=True)
class RunCounts:
    """Runs of every block and every loop, by name."""

    blocks: Mapping[str, BlockRuns]
    loops: Mapping[str, LoopRuns]

    @property
    def layer_runs(self) -> Number:
        """Layers that the pass runs, every visit counted."""
        return sum(block.layer_runs for block in self.blocks.values())


@dataclass(frozen=True)
class LoopRounds:
    """Rounds of a loop, and how many of them are back-propagated through."""

    rounds: Number
    with_grad: Number


def run_counts(graph: BlockGraph, rounds: Mapping[str, int]) -> RunCounts:
    """The counts of a pass at these rounds, which name every dial of the graph."""
    return _run_counts(
        graph, {loop.name: exactly(loop, rounds) for loop in verified(graph).loops()}
    )


def expected_run_counts(graph: BlockGraph, rounds: Mapping[str, int] | None = None) -> RunCounts:
    """The expected counts of a training step in which only the repeats of ``rounds`` are set.

    The others follow the law of their options. Every count is a product over loops of the rounds
    of each, which are drawn independently, so that the expectation is the product of expectations.
    """
    given = rounds or {}
    return _run_counts(
        graph,
        {
            loop.name: exactly(loop, given) if loop.name in given else in_expectation(loop)
            for loop in verified(graph).loops()
        },
    )


def exactly(loop: Loop, rounds: Mapping[str, int]) -> LoopRounds:
    """Of the rounds, the last ``grad`` run with gradients."""
    count = loop.rounds_of(rounds)
    grad = loop.options.grad
    return LoopRounds(count, count if grad is None else min(count, grad))


def in_expectation(loop: Loop) -> LoopRounds:
    """The same under the law of the loop's rounds in training."""
    law, grad = loop_law(loop), loop.options.grad
    return LoopRounds(law.mean, law.mean if grad is None else law.mean_upto(grad))


@dataclass(frozen=True)
class _Times:
    """How often the graph at hand runs, with gradients, and each time with a cache of its own."""

    runs: Number = 1
    with_grad: Number = 1
    cached: Number = 1

    def inside(self, loop: Loop, rounds: LoopRounds) -> _Times:
        slots = rounds.rounds if loop.options.cache == "own" else 1
        return _Times(
            self.runs * rounds.rounds, self.with_grad * rounds.with_grad, self.cached * slots
        )


def _run_counts(graph: BlockGraph, rounds: Mapping[str, LoopRounds]) -> RunCounts:
    blocks = {name: BlockRuns() for name in graph.blocks}
    loops = {name: LoopRuns() for name in rounds}
    for step, times in _walk(graph, rounds, _Times()):
        if isinstance(step, Visit):
            layers = graph.blocks[step.block].layers * step.each
            blocks[step.block] += BlockRuns(
                times.runs,
                times.with_grad,
                times.runs * layers,
                times.with_grad * layers,
                times.cached * step.each,
            )
        else:
            inner = times.inside(step, rounds[step.name])
            loops[step.name] += LoopRuns(times.runs, inner.runs, inner.with_grad)
    return RunCounts(blocks, loops)


def _walk(
    graph: BlockGraph, rounds: Mapping[str, LoopRounds], times: _Times
) -> Iterator[tuple[Visit | Loop, _Times]]:
    """Every visit and loop as it is written, and how often it runs."""
    for step in graph.steps():
        yield step, times
        if isinstance(step, Loop):
            yield from _walk(step.body, rounds, times.inside(step, rounds[step.name]))
