"""AdamW, and which parameters it lets decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rinsc.backends.torch import CompiledModule
from rinsc.graph import BlockGraph
from rinsc.layers import loop_prefix, trace_loop
from rinsc.ops import Row
from rinsc.train.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices alone, not on norms, biases and other vectors."""
    vectors = vector_tables(model.graph) if isinstance(model, CompiledModule) else set()
    decayed: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and name not in vectors
            (decayed if is_matrix else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def vector_tables(graph: BlockGraph) -> set[str]:
    """Parameters that hold a vector for each adapter of a repeat: tables, but not matrices."""
    return {
        f"{loop_prefix(loop.name)}{param.name}"
        for loop in graph.loops()
        for program in trace_loop(graph.spec, loop).every
        for node in program.nodes
        if isinstance(node.op, Row) and len(node.op.shape) < 2
        for param in node.params
    }
