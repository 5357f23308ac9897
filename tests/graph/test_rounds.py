"""Rounds at run time: what is accepted, what is refused, and what they unroll to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.errors import GraphError
from rinsc.graph import beyond_training, resolve_rounds, trained_rounds, unroll
from rinsc.graph.law import draw_rounds
from rinsc.graph.passes import MAX_UNROLLED_VISITS
from rinsc.graph.rounds import MAX_ROUNDS
from tests.graph.graphs import expand_text, graph_of, schedule, text_at
from tests.strategies import signatures


@given(signatures(max_visits=12), st.data())
def test_unroll_is_the_text_with_other_exponents(text: str, data: st.DataObject) -> None:
    graph = graph_of(text)
    asked = {
        loop.name: data.draw(st.integers(1, 3), label=loop.name)
        for loop in graph.loops()
        if data.draw(st.booleans())
    }
    rounds = {**{loop.name: loop.rounds for loop in graph.loops()}, **asked}
    if sum(graph.visit_counts(rounds).values()) > 500:
        return
    flat = unroll(graph, asked)
    assert schedule(flat) == expand_text(text_at(graph, rounds))
    assert not list(flat.loops())
    assert flat.blocks == graph.blocks
    assert sum(graph.visit_counts(rounds).values()) == len(schedule(flat))


def test_one_round_more_is_seen() -> None:
    graph = graph_of("(A^3)B")
    assert schedule(unroll(graph, 4)) != expand_text(text_at(graph, {"A": 3}))


@given(signatures(max_visits=30))
def test_no_rounds_means_those_written(text: str) -> None:
    graph = graph_of(text)
    assert schedule(unroll(graph)) == schedule(graph)


def test_one_number_sets_every_repeat() -> None:
    assert resolve_rounds(graph_of("((A^2)B)^3C^4"), 7) == {"AB": 7, "A": 7, "C": 7}


def test_a_mapping_leaves_the_others_as_written() -> None:
    assert resolve_rounds(graph_of("((A^2)B)^3C^4"), {"A": 5}) == {"AB": 3, "A": 5, "C": 4}


@pytest.mark.parametrize("rounds", [None, 1, {}])
def test_a_model_without_repeats_runs_once(rounds: Any) -> None:
    assert resolve_rounds(graph_of("AB"), rounds) == {}


@pytest.mark.parametrize(
    "count",
    [0, -1, MAX_ROUNDS + 1, True, False, 2.0, 1.5, "three", "0", [2], 10**5000, -(10**5000)],
    ids=lambda count: type(count).__name__,
)
def test_bad_rounds_are_refused(count: Any) -> None:
    for text, rounds in (("A^3B", count), ("AB", count), ("A^3B", {"A": count})):
        with pytest.raises(GraphError, match=f"whole and from 1 to {MAX_ROUNDS}") as caught:
            resolve_rounds(graph_of(text), rounds)
        assert caught.value.code == "bad-rounds"
        assert caught.value.hint


def test_bad_rounds_name_the_repeat() -> None:
    with pytest.raises(GraphError, match=r"rounds of repeat 'C' are 0"):
        resolve_rounds(graph_of("A^2BC^2"), {"A": 2, "C": 0})


def test_an_unknown_repeat_is_told_the_nearest() -> None:
    graph = graph_of("A^2BA^5")
    with pytest.raises(GraphError, match="'A_3' is not a repeat") as caught:
        resolve_rounds(graph, {"A_3": 2})
    assert caught.value.code == "unknown-repeat"
    assert caught.value.hint in ("did you mean 'A_1'?", "did you mean 'A_2'?")
    with pytest.raises(GraphError) as caught:
        resolve_rounds(graph, {"XYZ": 2})
    assert caught.value.hint == "one of: A_1, A_2"


def test_a_name_that_is_no_text_is_unknown() -> None:
    with pytest.raises(GraphError, match="'1' is not a repeat"):
        resolve_rounds(graph_of("A^2B"), {1: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize("rounds", [2, {"A": 2}])
def test_rounds_for_a_model_without_repeats(rounds: Any) -> None:
    with pytest.raises(GraphError, match="has no repeat") as caught:
        resolve_rounds(graph_of("AB"), rounds)
    assert "A^3B" in str(caught.value.hint)


def test_a_loop_whose_rounds_are_fixed_is_no_dial() -> None:
    graph = unroll(graph_of("(A^3{adapter=scale})^2B^4{grad=4}"), {"A_2": 5})
    assert {loop.rounds for loop in graph.loops()} == {5, 4}
    assert resolve_rounds(graph, None) == resolve_rounds(graph, 1) == {}
    for rounds in (2, {"A_2": 5}):
        with pytest.raises(GraphError, match="has no repeat"):
            resolve_rounds(graph, rounds)


def test_too_many_visits_are_refused_before_they_are_made() -> None:
    with pytest.raises(GraphError, match=f"the limit is {MAX_UNROLLED_VISITS}") as caught:
        unroll(graph_of("(A^2B)^2"), 100)
    assert caught.value.code == "too-many-visits"


def test_rounds_that_multiply_to_too_much_are_refused() -> None:
    graph = graph_of("((((A^2)B)^2C)^2D)^2")
    with pytest.raises(GraphError, match="at most 65536 are run") as caught:
        resolve_rounds(graph, MAX_ROUNDS)
    assert caught.value.code == "too-many-visits"
    assert resolve_rounds(graph, 8) == {"ABCD": 8, "ABC": 8, "AB": 8, "A": 8}


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("AB", {}),
        ("(A^3)B", {"A": 3}),
        ("A^3{skip=0.5}B", {"A": 3}),
        ("A^2{sample=uniform(1, 7)}B", {"A": 7}),
        ("A^8{sample=choice(1, 2, 4)}B", {"A": 4}),
        ("((A^2)B)^5", {"AB": 5, "A": 2}),
    ],
)
def test_the_most_rounds_in_training(text: str, most: dict[str, int]) -> None:
    """Those are drawn indeed, and none above them."""
    graph = graph_of(text)
    assert trained_rounds(graph) == most
    drawn = [draw_rounds(graph, 0, step) for step in range(200)]
    assert {name: max(rounds[name] for rounds in drawn) for name in most} == most


def test_a_law_without_a_bound_counts_up_to_draws_that_are_never_met() -> None:
    graph = graph_of("A^4{sample=poisson_lognormal(4, 0.5)}B")
    most = trained_rounds(graph)["A"]
    assert 4 < max(draw_rounds(graph, 0, step)["A"] for step in range(500)) <= most < MAX_ROUNDS


def test_rounds_above_the_trained_ones_are_named() -> None:
    trained = trained_rounds(graph_of("((A^2)B)^5"))
    assert beyond_training({"AB": 5, "A": 1}, trained) is None
    found = beyond_training({"AB": 6, "A": 3}, trained)
    assert found is not None
    assert "'AB' runs 6 rounds and was trained at 5" in found
    assert "'A' runs 3 rounds and was trained at 2" in found
