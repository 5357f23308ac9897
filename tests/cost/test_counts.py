"""What runs how often: against a run of the graph, step by step, that counts as it goes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.cost import expected_run_counts, run_counts, training_flops
from rinsc.cost.counts import LoopRounds, RunCounts
from rinsc.cost.flops import PYTORCH, flops_of_a_step
from rinsc.graph import BlockGraph, Visit, build_graph
from rinsc.graph.law import draw_rounds, drawn_loops, loop_law
from rinsc.spec import ModelSpec
from tests.cost.models import graph_of, optioned_specs, rounds_for


class Run:
    """One pass over a graph, one round after the other."""

    def __init__(self, graph: BlockGraph, rounds: dict[str, int]) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.slots: set[tuple[Any, ...]] = set()
        self._rounds = rounds
        self._blocks = graph.blocks
        self._run(graph, grad=True, place=())

    def _run(self, graph: BlockGraph, *, grad: bool, place: tuple[Any, ...]) -> None:
        for position, step in enumerate(graph.steps()):
            if isinstance(step, Visit):
                self._count("visits", step.block, grad)
                for layer in range(self._blocks[step.block].layers):
                    for time in range(step.each):
                        self._count("layer_runs", step.block, grad)
                        self.slots.add((step.block, layer, place, position, time))
                continue
            self.counts["entries", step.name] += 1
            rounds = self._rounds[step.name]
            for index in range(rounds):
                last = step.options.grad is None or index >= rounds - step.options.grad
                slot = index if step.options.cache == "own" else 0
                self._count("rounds", step.name, grad and last)
                self._run(step.body, grad=grad and last, place=(*place, position, slot))

    def _count(self, what: str, name: str, grad: bool) -> None:
        self.counts[what, name] += 1
        self.counts[f"{what}_with_grad", name] += grad


def agrees(graph: BlockGraph, counts: RunCounts, rounds: dict[str, int]) -> bool:
    """Whether the counts are those of the run."""
    run = Run(graph, rounds)
    found: Counter[tuple[str, ...]] = Counter()
    for name, block in counts.blocks.items():
        for what in ("visits", "visits_with_grad", "layer_runs", "layer_runs_with_grad"):
            found[what, name] = getattr(block, what)
    for name, loop in counts.loops.items():
        for what in ("entries", "rounds", "rounds_with_grad"):
            found[what, name] = getattr(loop, what)
    kept = Counter(name for name, *_ in run.slots)
    slots = {n: counts.blocks[n].cache_slots * block.layers for n, block in graph.blocks.items()}
    return found == run.counts and slots == dict(kept)


@given(spec=optioned_specs(max_visits=10), data=st.data())
def test_counts_are_those_of_a_run(spec: ModelSpec, data: st.DataObject) -> None:
    graph = build_graph(spec)
    rounds = data.draw(rounds_for(graph))
    assert agrees(graph, run_counts(graph, rounds), rounds)


def test_a_wrong_count_would_be_seen() -> None:
    graph = graph_of("(A^4{inject=add, grad=2}B{each=2})^3{kv=first}")
    counts = run_counts(graph, {"AB": 3, "A": 4})
    assert agrees(graph, counts, {"AB": 3, "A": 4})
    assert not agrees(graph, counts, {"AB": 3, "A": 5})
    assert not agrees(
        graph_of("(A^4{inject=add, grad=3}B{each=2})^3{kv=first}"), counts, {"AB": 3, "A": 4}
    )
    assert not agrees(graph_of("(A^4{inject=add, grad=2}B)^3{kv=first}"), counts, {"AB": 3, "A": 4})
    assert not agrees(graph_of("(A^4{inject=add, grad=2}B{each=2})^3"), counts, {"AB": 3, "A": 4})


DRAWN = [
    "A^3{skip=0.5}B",
    "((A^4{skip=0.25})B)^3{sample=uniform(1, 4)}C",
    "A^4{sample=choice(1, 2, 8), inject=add, grad=3}B",
    "((A^3{sample=uniform(1, 5), inject=concat, grad=2})B)^2{skip=0.1, inject=add, grad=1}C",
]


def exact_mean(graph: BlockGraph, seq: int) -> Fraction:
    """The mean FLOPs of a step over every possible draw, each with its probability."""
    loops = list(graph.dials())
    laws = [loop_law(loop).pmf or {} for loop in loops]
    total = Fraction(0)
    for draw in itertools.product(*(law.items() for law in laws)):
        rounds = {loop.name: count for loop, (count, _) in zip(loops, draw, strict=True)}
        chance = math.prod((p for _, p in draw), start=Fraction(1))
        total += chance * training_flops(graph, seq, rounds=rounds)
    return total


@pytest.mark.parametrize("text", DRAWN)
def test_the_expectation_is_the_mean_over_every_draw(text: str) -> None:
    graph = graph_of(text)
    expected = flops_of_a_step(graph, expected_run_counts(graph), 1, 7, PYTORCH)
    assert expected == exact_mean(graph, 7)
    assert training_flops(graph, 7) == round(expected)


@pytest.mark.parametrize(
    "text", [*DRAWN, "A^6{sample=poisson_lognormal(6, 0.5), inject=add, grad=4}B"]
)
def test_the_expectation_is_the_mean_of_drawn_steps(text: str) -> None:
    graph = graph_of(text)
    known: dict[tuple[int, ...], int] = {}
    steps = []
    for step in range(4000):
        rounds = draw_rounds(graph, 1, step)
        key = tuple(rounds.values())
        if key not in known:
            known[key] = training_flops(graph, 7, rounds=rounds)
        steps.append(known[key])
    mean = sum(steps) / len(steps)
    deviation = math.sqrt(sum((flops - mean) ** 2 for flops in steps) / len(steps))
    assert abs(training_flops(graph, 7) - mean) < 5 * deviation / math.sqrt(len(steps))
    drawn = set(drawn_loops(graph))
    for index, loop in enumerate(graph.dials()):
        assert (len({rounds[index] for rounds in known}) > 1) == (loop in drawn)


def test_another_expectation_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "rinsc.cost.counts.in_expectation",
        lambda loop: LoopRounds(loop.rounds, min(loop.rounds, loop.options.grad or loop.rounds)),
    )
    for text in DRAWN:
        graph = graph_of(text)
        counts = expected_run_counts(graph)
        assert flops_of_a_step(graph, counts, 1, 7, PYTORCH) != exact_mean(graph, 7)


def test_gradients_of_the_mean_are_not_the_mean_of_gradients() -> None:
    """min(E[R], k) is not E[min(R, k)]."""
    graph = graph_of("A^4{sample=choice(1, 2, 9), inject=add, grad=3}B")
    runs = expected_run_counts(graph).loops["A"]
    assert (runs.rounds, runs.rounds_with_grad) == (4, 2)


def test_a_repeat_that_is_set_is_not_drawn() -> None:
    graph = graph_of("((A^4{skip=0.5})B)^3{skip=0.5}")
    both = expected_run_counts(graph, {"A": 4, "AB": 3})
    assert both == run_counts(graph, {"A": 4, "AB": 3})
    assert expected_run_counts(graph, {"A": 4}).loops["A"].rounds == 2 * 4
    assert expected_run_counts(graph).loops["A"].rounds == 2 * Fraction(5, 2)
