"""Refuse reentrant checkpointing, under which shared blocks get wrong gradients on many devices."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from rinsc.errors import LoweringError, Problem

REENTRANT = "CheckpointFunctionBackward"  # what such a part is called in autograd's graph


def refuse_reentrant(module: nn.Module) -> None:
    """Look at the graph of the first forward pass with gradients.

    That pass raises `LoweringError` where a part of it is checkpointed with
    ``use_reentrant=True``: such a part runs a backward pass of its own for every visit, and the
    reduction of a block's gradients then starts before the last of them.
    """

    def look(module: nn.Module, given: Any, result: Any) -> None:
        tensors = differentiable(result)
        if not tensors:
            return
        handle.remove()
        if any(_is_reentrant(tensor) for tensor in tensors):
            message = "reentrant checkpointing gives wrong gradients where devices share blocks"
            hint = "checkpoint with use_reentrant=False"
            raise LoweringError(Problem("reentrant-checkpointing", message, hint=hint))

    handle: RemovableHandle = module.register_forward_hook(look)


def differentiable(result: Any) -> list[torch.Tensor]:
    """The tensors of a module's result that a backward pass can start from."""
    leaves = tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def _is_reentrant(tensor: torch.Tensor) -> bool:
    waiting: list[Node | None] = [tensor.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == REENTRANT:
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False
