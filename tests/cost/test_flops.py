"""FLOPs against PyTorch's counter on the meta device: exact, forward and backward."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from rinsc.backends.torch import to_torch
from rinsc.cost import (
    PYTORCH,
    FlopConvention,
    cost_report,
    forward_flops,
    run_counts,
    training_flops,
)
from rinsc.cost.counts import LoopRounds
from rinsc.cost.flops import flops_of_a_step
from rinsc.errors import GraphError
from rinsc.graph import build_graph, resolve_rounds, unroll
from rinsc.layers import fixed_length
from rinsc.ops import Linear
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from tests.cost.models import (
    counted_flops,
    counted_passes,
    graph_of,
    input_of,
    optioned_specs,
    rounds_for,
    small_spec,
)
from tests.specs import specs


@given(spec=specs(), batch=st.integers(1, 3), seq=st.integers(1, 13))
def test_flops_equal_the_counter(spec: ModelSpec, batch: int, seq: int) -> None:
    graph, seq = build_graph(spec), fixed_length(spec) or seq
    forward = forward_flops(graph, seq, batch=batch).total
    written = resolve_rounds(graph, None)
    exact = training_flops(graph, seq, batch=batch, rounds=written)
    assert (forward, exact) == counted_passes(spec, batch, seq)


@given(spec=optioned_specs(), seq=st.integers(1, 9), data=st.data())
def test_flops_with_options_equal_the_counter(
    spec: ModelSpec, seq: int, data: st.DataObject
) -> None:
    graph, seq = build_graph(spec), fixed_length(spec) or seq
    rounds = data.draw(rounds_for(graph))
    forward = forward_flops(graph, seq, batch=2, rounds=rounds).total
    exact = training_flops(graph, seq, batch=2, rounds=rounds)
    assert (forward, exact) == counted_passes(spec, 2, seq, rounds=rounds)


@pytest.mark.parametrize(
    "text",
    [
        "A^5{inject=add, grad=2}B",
        "A[2]{each=2} A{reverse} B{tie=mlp}",
        "A^3{adapter=lora(2)}B^2{adapter=linear, adapter_by=count}",
        "A^3{adapter=shared(5)}B",
        "P R^6{inject=concat, init=noise, grad=2} C",
        "((A^4{inject=gate, grad=3})B)^3{inject=add, init=noise, grad=2}C",
    ],
)
@pytest.mark.parametrize("rounds", [None, 1, 4])
def test_what_runs_without_gradients_is_not_back_propagated(text: str, rounds: int | None) -> None:
    spec = small_spec(text)
    if rounds and not any(build_graph(spec).dials()):
        return
    exact = training_flops(spec, 7, rounds=rounds)
    assert exact == counted_flops(spec, 1, 7, backward=True, rounds=rounds)
    if "grad" in text and rounds is None:
        assert exact < 3 * forward_flops(build_graph(spec), 7).total


def test_rounds_that_cut_gradients_off_have_no_training_flops() -> None:
    """PyTorch counts less than the formula would: nothing before the repeat is trained."""
    spec = small_spec("PA^3{grad=3}C")
    graph = build_graph(spec)
    for model, rounds in ((graph, 5), (graph, {"A": 4}), (unroll(graph, 5), None)):
        for count in (training_flops, cost_report):
            with pytest.raises(GraphError, match="no gradient") as caught:
                count(model, seq=7, rounds=rounds)
            assert caught.value.hint
    counts = run_counts(graph, {"A": 5})
    formula = flops_of_a_step(graph, counts, 1, 7, PYTORCH)
    assert formula > counted_flops(spec, 1, 7, backward=True, rounds=5)
    assert training_flops(graph, 7, rounds=3) == counted_flops(spec, 1, 7, backward=True)
    injected = small_spec("PA^3{grad=3, inject=add}C")
    exact = training_flops(injected, 7, rounds=5)
    assert exact == counted_flops(injected, 1, 7, backward=True, rounds=5)


def test_gradients_through_all_rounds_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec("A^5{inject=add, grad=2}B")
    monkeypatch.setattr(
        "rinsc.cost.counts.exactly", lambda loop, rounds: LoopRounds(loop.rounds, loop.rounds)
    )
    exact = training_flops(spec, 7, rounds=5)
    assert exact != counted_flops(spec, 1, 7, backward=True)


def test_what_repeats_do_between_rounds_has_rows_of_its_own() -> None:
    graph = graph_of("(AB)^3{inject=concat, adapter=lora(2)}C")
    split = forward_flops(graph, 7)
    width = graph.spec.width
    inject, adapter = 3 * 2 * 7 * width * 2 * width, 3 * 2 * 7 * 2 * 2 * width
    assert (split.by_part["inject"], split.by_part["adapter"]) == (inject, adapter)
    assert split.by_block["repeat AB"] == inject + adapter
    assert sum(split.by_part.values()) == sum(split.by_block.values()) == split.total


@pytest.mark.parametrize("text", ["A^3B", "A^5{inject=add, grad=2}B"])
def test_recomputation_repeats_what_runs_with_gradients(text: str) -> None:
    """PyTorch runs every part of the model once more, where it is in a checkpoint of its own."""
    spec = small_spec(text)
    model = to_torch(spec, device="meta")
    for part in map(model.get_submodule, (*model.graph.blocks, "head")):
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(False):
        model(input_of(spec, 2, 7, "meta")).sum().backward()
    again = training_flops(spec, 7, batch=2, convention=FlopConvention(recompute=True))
    assert again == counter.get_total_flops()


def test_the_counter_would_see_a_wrong_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = model_spec("A^2B", preset="tiny")
    monkeypatch.setattr(Linear, "matmul_flops", lambda self, *sizes, causal: 2)
    assert forward_flops(build_graph(spec), 8).total != counted_flops(spec, 1, 8, backward=False)


def test_half_counts_the_pairs_that_the_mask_lets_through() -> None:
    spec = model_spec("A^2B", preset="tiny")
    seq = 19
    full = forward_flops(build_graph(spec), seq).total
    half = forward_flops(build_graph(spec), seq, convention=FlopConvention(causal="half")).total
    pairs = sum(1 for query in range(seq) for key in range(seq) if key <= query)
    layers = 3 * 6
    assert full - half == 4 * layers * spec.heads * spec.head_size * (seq * seq - pairs)


def test_the_head_and_recomputation_follow_the_convention() -> None:
    spec = model_spec("A^3B", preset="tiny")
    seq = 32
    graph = build_graph(spec)
    whole, headless = (
        forward_flops(graph, seq, convention=FlopConvention(head=head)).total
        for head in (True, False)
    )
    assert whole - headless == 2 * seq * spec.width * spec.vocab_size
    assert training_flops(graph, seq) == 3 * whole
    assert training_flops(graph, seq, convention=FlopConvention(recompute=True)) == 4 * whole


def test_the_report_names_every_choice_of_its_convention() -> None:
    names = {
        FlopConvention(causal, head, recompute).name
        for causal in ("full", "half")
        for head in (True, False)
        for recompute in (True, False)
    }
    assert len(names) == 8
    report = cost_report(model_spec("AB", preset="tiny"))
    assert report.as_dict()["convention"] == report.convention.name


def test_per_token_is_exact() -> None:
    for causal in ("full", "half"):
        report = cost_report(
            model_spec("A^3B", preset="tiny"), seq=77, convention=FlopConvention(causal=causal)
        )
        assert report.forward_flops_per_token * 77 == report.forward_flops
        assert report.training_flops_per_token * 77 == report.training_flops


@given(spec=specs())
def test_powers_change_no_parameter(spec: ModelSpec) -> None:
    report = cost_report(spec)
    module = to_torch(spec, device="meta")
    assert report.stored_params == sum(parameter.numel() for parameter in module.parameters())
    assert cost_report(baseline(spec)).stored_params == report.stored_params


def baseline(spec: ModelSpec) -> ModelSpec:
    """The same blocks, visited once each."""
    word = "".join(f"B{index}[{layers}]" for index, layers in enumerate(spec.parts.values()))
    return dataclasses.replace(spec, signature=parse(word))
