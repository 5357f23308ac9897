"""What the tests of costs share: specs with options, inputs of any kind, PyTorch's counts."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rinsc.backends.torch import to_torch
from rinsc.graph import BlockGraph, Rounds, build_graph
from rinsc.layers import model_input
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from tests.specs import fitting_layers
from tests.strategies import signatures


def small_spec(text: str, **dimensions: Any) -> ModelSpec:
    """A spec with odd sizes, which show a swap."""
    tree = parse(text)
    sizes: dict[str, Any] = {
        "layers": fitting_layers(tree),
        "width": 12,
        "heads": 3,
        "mlp_width": 11,
    }
    return model_spec(tree, **{**sizes, "vocab_size": 17, "context": 19, **dimensions})


@st.composite
def optioned_specs(draw: st.DrawFn, max_visits: int = 8) -> ModelSpec:
    """A spec whose signature has options of blocks, visits and repeats."""
    return small_spec(draw(signatures(max_visits=max_visits, options=True)))


@st.composite
def rounds_for(draw: st.DrawFn, graph: BlockGraph) -> dict[str, int]:
    """Rounds of every repeat; gradients reach what stands before it at any of them."""
    return {
        loop.name: draw(
            st.integers(1, 3 if loop.options.inject else min(3, loop.options.grad or 3)),
            label=loop.name,
        )
        for loop in graph.dials()
    }


def input_of(spec: ModelSpec, batch: int, seq: int, device: str = "cpu") -> torch.Tensor:
    """Zeros that the model takes."""
    given = model_input(spec)
    sizes = {"batch": batch, "seq": seq}
    shape = [sizes[dim] if isinstance(dim, str) else dim for dim in given.shape]
    return torch.zeros(shape, dtype=getattr(torch, given.dtype), device=device)


def counted_flops(
    spec: ModelSpec, batch: int, seq: int, *, backward: bool, rounds: Rounds = None
) -> int:
    """FLOPs that PyTorch sees; on the meta device attention is counted in full."""
    forward, both = counted_passes(spec, batch, seq, rounds=rounds)
    return both if backward else forward


def counted_passes(
    spec: ModelSpec, batch: int, seq: int, *, rounds: Rounds = None
) -> tuple[int, int]:
    """FLOPs that PyTorch sees in a forward pass, and in it and its backward pass."""
    model = to_torch(spec, device="meta")
    given = input_of(spec, batch, seq, "meta")
    with FlopCounterMode(display=False) as counter:
        logits = model(given, rounds=rounds or None)
        forward = int(counter.get_total_flops())
        logits.sum().backward()
    return forward, int(counter.get_total_flops())


def graph_of(text: str, **dimensions: Any) -> BlockGraph:
    return build_graph(small_spec(text, **dimensions))
