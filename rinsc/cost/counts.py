"""How often everything runs in one pass, with and without gradients, and what a cache must hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from rinsc.errors import Problem, SpecError, plural
from rinsc.graph import BlockGraph, Loop, Visit, verified
from rinsc.graph.law import loop_law
from rinsc.layers import fixed_length, trace_loop, trace_programs
from rinsc.ops.program import Program
from rinsc.scalars import whole
from rinsc.spec import ModelSpec
from rinsc.spec.checks import shown

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

    def share(self, layers: int, some: int) -> BlockRuns:
        """Those of ``some`` of the block's layers."""
        return replace(
            self,
            layer_runs=Fraction(self.layer_runs) * some / layers,
            layer_runs_with_grad=Fraction(self.layer_runs_with_grad) * some / layers,
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
    fixed = rounds or {}
    return _run_counts(
        graph,
        {
            loop.name: exactly(loop, fixed) if loop.name in fixed else in_expectation(loop)
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
        for layer, layers in programs.layer_counts(name):
            own = runs if layers == block.layers else runs.share(block.layers, layers)
            yield ProgramRuns(name, layer, own.layer_runs, own.layer_runs_with_grad)
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


MAX_COUNT = 10**18  # tokens or sequences; no run comes near


def checked_counts(**counts: int) -> tuple[int, ...]:
    """The counts as Python's own numbers.

    Raises `SpecError` for those that are not whole numbers from 1 to `MAX_COUNT`.
    """
    problems, numbers = [], []
    for name, count in counts.items():
        number = whole(count)
        if number is not None and 1 <= number <= MAX_COUNT:
            numbers.append(number)
        else:
            limits = f"from 1 to {MAX_COUNT:.0e}".replace("e+", "e")
            message = f"{name} must be a whole number {limits}, not {shown(count)}"
            hint = f"give {name} as a whole number {limits}"
            problems.append(Problem("bad-count", message, place=name, hint=hint))
    if problems:
        raise SpecError.of(*problems)
    return tuple(numbers)


def checked_sequence(spec: ModelSpec, length: int) -> int:
    """The length of a sequence; raises `SpecError` for one that the model cannot take."""
    (seq,) = checked_counts(seq=length)
    fixed = fixed_length(spec)
    if fixed is not None and seq != fixed:
        message = f"a picture of '{spec.text}' has {fixed} patches, not {seq}"
        hint = "leave the length out, or change image_size or patch_size"
        raise SpecError("patch-mismatch", message, place="seq", hint=hint)
    if seq > spec.context:
        message = (
            f"{plural(seq, 'token')} are beyond the context of {spec.context} of '{spec.text}'"
        )
        hint = "shorten the sequence, or raise the context"
        raise SpecError("beyond-context", message, place="seq", hint=hint)
    return seq
