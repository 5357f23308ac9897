"""Parameters: every stored one counted once, whoever owns it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from rinsc.backends.torch import to_torch
from rinsc.cost import (
    adapter_params,
    block_params,
    executed_params,
    repeat_params,
    stored_params,
)
from rinsc.graph import build_graph, unroll
from rinsc.layers import weight_shapes
from rinsc.spec import ModelSpec
from tests.cost.models import graph_of, optioned_specs


@given(spec=optioned_specs())
def test_stored_parameters_are_those_of_files_and_modules(spec: ModelSpec) -> None:
    graph = build_graph(spec)
    expected = sum(map(math.prod, weight_shapes(graph).values()))
    assert stored_params(graph) == expected
    assert stored_params(unroll(graph)) == expected
    module = to_torch(graph, device="meta")
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


def test_a_weight_counted_twice_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of("A{tie=mlp}B", layers=4)
    monkeypatch.setattr("rinsc.cost.params._tied_params", lambda programs, block: 0)
    assert stored_params(graph) != sum(map(math.prod, weight_shapes(graph).values()))


def test_a_tied_part_is_owned_once() -> None:
    whole, tied = (block_params(graph_of(f"A[5]{tie}B"))["A"] for tie in ("", "{tie=attention}"))
    alone = block_params(graph_of("A[1]B"))["A"]
    rest = alone - (whole - tied) // 4
    assert tied == alone + 4 * rest
    assert 0 < rest < alone


WIDTH = 12


@pytest.mark.parametrize(
    ("options", "adapters", "others"),
    [
        ("adapter=scale", 3 * WIDTH, 0),
        ("adapter=embed", 3 * WIDTH, 0),
        ("adapter=gate", 3 * WIDTH, 0),
        ("adapter=linear", 3 * WIDTH**2, 0),
        ("adapter=lora(2)", 3 * 2 * 2 * WIDTH, 0),
        ("adapter=shared(5)", 2 * 5 * WIDTH + 3 * 5, 0),
        ("adapter=scale, sample=uniform(1, 5)", 5 * WIDTH, 0),
        ("inject=gate", 0, WIDTH),
        ("inject=concat, init=learned, adapter=scale", 3 * WIDTH, 2 * WIDTH**2 + WIDTH),
    ],
)
def test_repeats_own_what_their_options_say(options: str, adapters: int, others: int) -> None:
    graph = graph_of(f"A^3{{{options}}}B")
    assert adapter_params(graph) == adapters
    assert repeat_params(graph) == {"repeat A": adapters + others}
    plain = graph_of("A^3B")
    assert stored_params(graph) == stored_params(plain) + adapters + others
    each = adapters // (5 if "uniform" in options else 3)
    if "shared" in options:
        each = 2 * 5 * WIDTH + 5  # what all rounds share runs in each of them
    start = WIDTH if "learned" in options else 0
    extra = 3 * (each + others - start) + start
    assert executed_params(graph) == executed_params(plain) + extra


def test_a_repeat_without_weights_has_no_row() -> None:
    assert repeat_params(graph_of("A^3{inject=add, init=noise}B")) == {}


def test_each_runs_the_same_parameters_again() -> None:
    twice, plain = graph_of("A{each=2}B"), graph_of("AB")
    assert stored_params(twice) == stored_params(plain)
    assert executed_params(twice) == executed_params(plain) + block_params(plain)["A"]
