"""Bytes against what PyTorch and a real cache hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from rinsc.backends.torch import to_torch
from rinsc.cost import executed_params, memory, stored_params, visits_of_blocks
from rinsc.graph import build_graph, unroll
from rinsc.kinds import KINDS
from rinsc.spec import ModelSpec, model_spec
from tests.specs import specs


def test_weights_gradients_and_optimizer_state_are_what_torch_holds() -> None:
    spec = model_spec("(A^3)B", preset="tiny")
    model = to_torch(spec)
    optimizer = torch.optim.AdamW(model.parameters())
    loss: Any = model(torch.zeros(1, 4, dtype=torch.long)).sum()
    loss.backward()
    optimizer.step()
    report = memory(build_graph(spec), 4)
    assert report.weight_bytes == sum(p.nbytes for p in model.parameters())
    assert report.gradient_bytes == sum(
        p.grad.nbytes for p in model.parameters() if p.grad is not None
    )
    moments = [
        state[name].nbytes
        for state in optimizer.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    assert report.optimizer_bytes == sum(moments)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("text", ["AB", "(A^3)B"])
def test_activations_are_estimated_within_a_tenth(text: str, kind: str) -> None:
    """Against every distinct storage that autograd keeps, parameters and tables aside."""
    spec = model_spec(text, preset="tiny", kind=kind)
    batch, seq = 4, 64
    model = to_torch(spec)
    held: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    input_ids = torch.zeros(batch, seq, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(model(input_ids).flatten(0, 1), input_ids.flatten())
    estimate = memory(build_graph(spec), seq, batch=batch).activation_bytes
    assert loss.requires_grad
    assert estimate == pytest.approx(sum(held.values()), rel=0.10)


def test_the_cache_holds_keys_and_values_of_every_visit() -> None:
    spec = model_spec("(A^3)B", preset="tiny")
    graph = build_graph(spec)
    by_hand = (3 * 6 + 6) * 2 * spec.kv_heads * spec.head_dim
    assert memory(graph, 8).kv_bytes_per_token == by_hand * 4
    assert memory(graph, 8, precision="bf16").kv_bytes_per_token == by_hand * 2
    assert (
        memory(graph, 8, rounds=1).kv_bytes_per_token == 12 * 2 * spec.kv_heads * spec.head_dim * 4
    )


@given(spec=specs())
def test_executed_counts_are_those_of_the_unrolled_graph(spec: ModelSpec) -> None:
    graph = build_graph(spec)
    flat = unroll(graph)
    word = [step.block for step in flat.visits()]
    assert visits_of_blocks(graph) == {name: word.count(name) for name in graph.blocks}
    assert graph.executed_layers() == sum(graph.blocks[name].layers for name in word)
    assert executed_params(graph) >= stored_params(graph)
