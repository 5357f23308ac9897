"""Sums over everything that runs, as statements over the rounds of each repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from rinsc.backends.hf.facts import slots_of_visit
from rinsc.cost.convention import PYTORCH
from rinsc.cost.counts import BlockRuns, LoopRuns, RunCounts
from rinsc.cost.flops import flops_of_a_step
from rinsc.graph import BlockGraph, Loop, Visit, build_graph

# A number, or what each token and each pair of tokens adds to one.
Amount: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Sum:
    """What each visit and each round adds to the variable ``name``, over ``counts``."""

    name: str
    of_visit: Callable[[Visit], Amount]
    of_round: Callable[[Loop], Amount] = lambda loop: (0, 0)
    is_shared: Callable[[Loop], bool] = lambda loop: False  # its rounds count as one
    of_tokens: bool = False

    def text(self, amount: Amount) -> str:
        if not self.of_tokens:
            return str(amount[0])
        terms = ["seq"] if amount[0] == 1 else [f"{amount[0]} * seq"] if amount[0] else []
        terms += [f"{amount[1]} * seq**2"] if amount[1] else []
        return " + ".join(terms) or "0"


def total(graph: BlockGraph, wanted: Sum) -> list[str]:
    """Statements after which the variable holds the sum."""
    return list(_lines(graph, wanted, wanted.name, (0, 0)))


def _lines(graph: BlockGraph, wanted: Sum, variable: str, more: Amount) -> Iterator[str]:
    """A repeat's own sum has a variable of its own, which is made before those around it."""
    amount, terms = more, []
    for step in graph.steps():
        if isinstance(step, Visit):
            amount = _plus(amount, wanted.of_visit(step))
            continue
        inner = f"{wanted.name}_{step.name.lower()}"
        yield from _lines(step.body, wanted, inner, wanted.of_round(step))
        terms.append(inner if wanted.is_shared(step) else f'counts["{step.name}"] * {inner}')
    yield f"{variable} = {wanted.text(amount)}"
    yield from (f"{variable} += {term}" for term in terms)


def _plus(left: Amount, right: Amount) -> Amount:
    return left[0] + right[0], left[1] + right[1]


def executed_layers(graph: BlockGraph) -> Sum:
    """Layers that run."""
    return Sum("layers", lambda visit: (graph.blocks[visit.block].layers * visit.each, 0))


def cache_slots(graph: BlockGraph) -> Sum:
    """Pairs of keys and values that are kept."""
    return Sum(
        "slots",
        lambda visit: (slots_of_visit(graph, visit.block) * visit.each, 0),
        is_shared=lambda loop: loop.options.cache != "own",
    )


def step_flops(graph: BlockGraph) -> list[str]:
    """The body of ``step_flops``: what runs forward, twice that of what runs with gradients."""
    costs = _UnitCosts(graph)
    vocabulary = _UnitCosts(_with_one_more_token(graph)).frame[0] - costs.frame[0]
    windows = {
        loop.name: f'min(counts["{loop.name}"], {loop.options.grad})'
        for loop in graph.loops()
        if loop.options.grad is not None
    }
    repeated = total(graph, Sum("flops", costs.visit, costs.round, of_tokens=True))
    frame = _frame_text(costs.frame, vocabulary, graph.spec.vocab_size)
    factor = PYTORCH.gradient_factor
    if not windows:
        return [*repeated, f"frame = {frame}", f"return batch * (frame + {1 + factor} * flops)"]
    return [
        f"frame = {frame}",
        "",
        "def forward(counts: dict[str, int]) -> int:",
        *(f"    {line}" for line in repeated),
        "    return flops",
        "",
        "with_gradients = dict(counts)",
        *(f'with_gradients["{name}"] = {rounds}' for name, rounds in windows.items()),
        f"return batch * (frame + forward(counts) + {factor} * forward(with_gradients))",
    ]


def _frame_text(frame: Amount, of_a_token: int, vocab_size: int) -> str:
    """What embedding and head cost, of a vocabulary that may be resized."""
    rest = Sum("frame", lambda visit: (0, 0), of_tokens=True).text(
        (frame[0] - of_a_token * vocab_size, frame[1])
    )
    head = f'{of_a_token} * self.spec["vocab_size"] * seq'
    return head if rest == "0" else f"{head} + {rest}"


def _with_one_more_token(graph: BlockGraph) -> BlockGraph:
    return build_graph(replace(graph.spec, vocab_size=graph.spec.vocab_size + 1))


@dataclass(frozen=True)
class _UnitCosts:
    """FLOPs of one sequence: in a training step of the embedding and the head, and forward of one
    visit or round. Every cost is a multiple of ``seq`` and one of its square."""

    graph: BlockGraph

    @property
    def frame(self) -> Amount:
        return self._fitted({}, {})

    def visit(self, visit: Visit) -> Amount:
        layers = self.graph.blocks[visit.block].layers * visit.each
        return self._beyond({visit.block: BlockRuns(visits=1, layer_runs=layers)}, {})

    def round(self, loop: Loop) -> Amount:
        return self._beyond({}, {loop.name: LoopRuns(rounds=1)})

    def _beyond(self, blocks: dict[str, BlockRuns], loops: dict[str, LoopRuns]) -> Amount:
        all_of_it, frame = self._fitted(blocks, loops), self.frame
        return all_of_it[0] - frame[0], all_of_it[1] - frame[1]

    def _fitted(self, blocks: dict[str, BlockRuns], loops: dict[str, LoopRuns]) -> Amount:
        every = {name: BlockRuns() for name in self.graph.blocks} | blocks
        trips = {loop.name: LoopRuns() for loop in self.graph.loops()} | loops
        counts = RunCounts(every, trips)
        one, two = (int(flops_of_a_step(self.graph, counts, 1, seq, PYTORCH)) for seq in (1, 2))
        pairs = (two - 2 * one) // 2
        return one - pairs, pairs
