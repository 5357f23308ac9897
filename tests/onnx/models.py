"""What the tests of the ONNX backend share: models with lively weights, and walks over a graph."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.graph import Rounds
from rinsc.layers import model_input
from rinsc.spec import ModelSpec, model_spec

TOLERANCE = 1e-4  # fp32 in two runtimes


def small_spec(signature: str = "(A^3)B", **changes: Any) -> ModelSpec:
    """Two blocks of two layers at dimensions that no swap leaves unchanged; ``changes`` win."""
    spec = model_spec(
        signature,
        layers=4,
        width=24,
        heads=4,
        kv_heads=2,
        mlp_width=37,
        vocab_size=53,
        context=19,
    )
    if changes.get("kind") == "siglip_image":  # whose context follows from its pictures
        settings = {"siglip_image": {"image_size": 12, "patch_size": 3}}
        changes = {**changes, "context": 16, "settings": settings}
    return dataclasses.replace(spec, **changes)


def lively_model(spec: ModelSpec, seed: int = 0) -> CompiledModule:
    """A module whose every weight, norms and biases too, moves the logits."""
    torch.manual_seed(seed)
    model = to_torch(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def random_ids(spec: ModelSpec, batch: int, seq: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, spec.vocab_size, (batch, seq))


def random_given(spec: ModelSpec, batch: int, seq: int, seed: int = 0) -> npt.NDArray[Any]:
    """Token ids, or patches where the model takes those."""
    if model_input(spec).dtype == "int64":
        return random_ids(spec, batch, seq, seed)
    own = model_input(spec).shape[2:] if len(model_input(spec).shape) == 3 else None
    shape = (batch, seq, *map(int, own)) if own else (batch, *map(int, model_input(spec).shape[1:]))
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_logits(
    model: nn.Module, given: npt.NDArray[Any], rounds: Rounds = None
) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model(torch.from_numpy(given), rounds).numpy()
    return logits


def rounding(model: nn.Module, given: npt.NDArray[Any], rounds: Rounds = None) -> float:
    """How far fp32 itself is from fp64: of some random models, far."""
    exact = copy.deepcopy(model).double()
    patches = given.dtype.kind == "f"
    wide = torch_logits(exact, given.astype(np.float64) if patches else given, rounds)
    return float(np.abs(torch_logits(model, given, rounds) - wide).max())


def unique_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def all_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """The graph and the bodies of its loops, outer before inner."""
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from all_graphs(attribute.as_graph())


def all_nodes(graph: ir.Graph) -> list[ir.Node]:
    return [node for each in all_graphs(graph) for node in each]
