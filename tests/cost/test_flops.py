"""FLOPs against PyTorch's counter on the meta device: exact, forward and backward."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rinsc.backends.torch import to_torch
from rinsc.cost import FlopConvention, cost_report, forward_flops, training_flops
from rinsc.graph import build_graph
from rinsc.ops import Linear
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from tests.specs import specs


def counted(spec: ModelSpec, batch: int, seq: int, *, backward: bool) -> int:
    """FLOPs that PyTorch sees; on the meta device attention is counted in full."""
    model = to_torch(spec, device="meta")
    input_ids = torch.zeros(batch, seq, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids)
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


@given(spec=specs(), batch=st.integers(1, 3), seq=st.integers(1, 13))
def test_flops_equal_the_counter(spec: ModelSpec, batch: int, seq: int) -> None:
    graph = build_graph(spec)
    forward = forward_flops(graph, seq, batch=batch).total
    assert forward == counted(spec, batch, seq, backward=False)
    assert training_flops(graph, seq, batch=batch) == counted(spec, batch, seq, backward=True)


def test_the_counter_would_see_a_wrong_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = model_spec("A^2B", preset="tiny")
    monkeypatch.setattr(Linear, "matmul_flops", lambda self, *sizes, causal: 2)
    assert forward_flops(build_graph(spec), 8).total != counted(spec, 1, 8, backward=False)


def test_both_splits_sum_to_the_total() -> None:
    split = forward_flops(build_graph(model_spec("((A^2)B)^2C", preset="tiny")), 17)
    assert sum(split.by_part.values()) == sum(split.by_block.values()) == split.total


def test_half_counts_the_pairs_that_the_mask_lets_through() -> None:
    spec = model_spec("A^2B", preset="tiny")
    seq = 19
    full = forward_flops(build_graph(spec), seq).total
    half = forward_flops(build_graph(spec), seq, convention=FlopConvention(causal="half")).total
    pairs = sum(1 for query in range(seq) for key in range(seq) if key <= query)
    layers = 3 * 6
    assert full - half == 4 * layers * spec.heads * spec.head_dim * (seq * seq - pairs)


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
