"""Building and the passes: the schedule is the text's, and repeats are found and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given

from rinsc.graph import BlockGraph, Loop, Visit
from rinsc.graph.build import PASSES
from rinsc.graph.passes import fold_runs, number_loops
from rinsc.spec import ModelSpec
from tests.graph.graphs import expand_text, graph_of, schedule, spec_of
from tests.specs import specs
from tests.strategies import signatures


@given(signatures(max_visits=40))
def test_visits_are_what_the_text_says(text: str) -> None:
    assert schedule(graph_of(text)) == expand_text(text)


def test_expander_can_disagree() -> None:
    assert schedule(graph_of("(A^3)B")) != expand_text("(A^2)B")


@pytest.mark.parametrize(
    ("text", "visits"),
    [
        ("(A^3)B", "A A A B"),
        ("((A^2)B)²C", "A A B A A B C"),
        ("AAB@2", "Aa Aa Ab Aa Aa Ab Ba Ba Bb"),
        ("AB2@2", "Aa Ab2 B2a B2b2"),
        ("A[1] B12[2]^{2}", "A B12 B12"),
    ],
)
def test_expander_reads_the_notation(text: str, visits: str) -> None:
    assert expand_text(text) == visits.split()


@given(specs())
def test_blocks_hold_all_layers_in_order_of_first_use(spec: ModelSpec) -> None:
    graph = graph_of(spec.text, spec.layers)
    assert list(graph.blocks) == list(dict.fromkeys(schedule(graph)))
    assert sum(block.layers for block in graph.blocks.values()) == spec.layers


def changes_schedule(run: Callable[[BlockGraph], BlockGraph], graph: BlockGraph) -> bool:
    return schedule(run(graph)) != schedule(graph)


@pytest.mark.parametrize("each", PASSES, ids=lambda each: each.run.__name__)
@given(text=signatures(max_visits=30))
def test_no_pass_changes_the_schedule(each: object, text: str) -> None:
    assert not changes_schedule(each.run, graph_of(text))  # type: ignore[attr-defined]


def test_a_pass_that_drops_a_visit_is_seen() -> None:
    def drop_last(graph: BlockGraph) -> BlockGraph:
        return graph.with_steps(list(graph.steps())[:-1])

    assert changes_schedule(drop_last, graph_of("ABA"))


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("AB", {}),
        ("A^3B", {"A": 3}),
        ("AAA", {"A": 3}),
        ("ABBA", {"B": 2}),
        ("A(A)A", {"A": 3}),
        ("(AB)^2", {"AB": 2}),
        ("(BAB)^2", {"BA": 2}),
        ("(AAB)^4", {"AB": 4, "A": 2}),
        ("A^2BA^5", {"A_1": 2, "A_2": 5}),
        ("AABAAA", {"A_1": 2, "A_2": 3}),
        ("((A^2)B)^3A^4", {"AB": 3, "A_1": 2, "A_2": 4}),
        ("(A^2)^3", {"A_1": 3, "A_2": 2}),
        ("AAB@2", {"Aa_1": 2, "Aa_2": 2, "Ba": 2}),
        ("(AB)^2@2", {"AaAbBaBb": 2, "AaAb": 2, "BaBb": 2}),
    ],
)
def test_repeats_and_their_names(text: str, loops: dict[str, int]) -> None:
    found = [(loop.name, loop.rounds) for loop in graph_of(text).loops()]
    assert found == list(loops.items())


@given(signatures(max_visits=30))
def test_repeat_names_are_unique(text: str) -> None:
    names = [loop.name for loop in graph_of(text).loops()]
    assert len(set(names)) == len(names)


def test_fold_runs_reaches_loop_bodies() -> None:
    empty = graph_of("AB")
    body = empty.with_steps([Visit("A"), Visit("A"), Visit("B")])
    folded = fold_runs(empty.with_steps([Loop("AB", body, 3)]))
    assert [(loop.name, loop.rounds) for loop in folded.loops()] == [("AB", 3), ("A", 2)]


def test_fold_runs_leaves_adjacent_loops_apart() -> None:
    empty = graph_of("A")
    loops = [Loop("A", empty, 2), Loop("A", empty, 2)]
    assert [loop.rounds for loop in fold_runs(empty.with_steps(loops)).loops()] == [2, 2]


def test_a_name_that_stands_alone_gets_no_number() -> None:
    empty = graph_of("AB")
    a, b = (empty.with_steps([Visit(name)]) for name in "AB")
    graph = number_loops(empty.with_steps([Loop("A", a, 2), Loop("B", b, 2), Loop("A", a, 2)]))
    assert [loop.name for loop in graph.loops()] == ["A_1", "B", "A_2"]


def test_passes_leave_their_input_alone() -> None:
    graph = graph_of("AB").with_steps([Visit("A"), Visit("A"), Visit("B")])
    fold_runs(graph)
    assert not list(graph.loops())
    assert graph.spec == spec_of("AB")
