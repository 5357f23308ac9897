"""What several processes of one run do together, and what they must not do."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from rinsc.errors import LoweringError, RinscError

Result = TypeVar("Result")

PATIENCE = timedelta(days=7)  # a text may take long to prepare; a process that dies is told at once


def process_count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def on_first(action: Callable[[], Result]) -> Result:
    """Do something in the first process while the others wait; all get its result.

    The result must be something that can be pickled. A RinscError is raised in all of them.
    """
    outcome: list[Any] = [None, None]
    waiting = _patient(dist.group.WORLD) if dist.is_initialized() else None
    if is_first():
        try:
            outcome = [None, action()]
        except RinscError as error:
            outcome = [error, None]
    if waiting is not None:
        dist.broadcast_object_list(outcome, src=0, group=waiting)
    if outcome[0] is not None:
        raise outcome[0]
    return cast(Result, outcome[1])


def end_process(status: int) -> NoReturn:
    """End a process that is one of several, once what atexit knows is done, without more ado.

    A thread of gloo that still lets go of a tensor while Python takes itself down is aborted, and
    all of this process with it (pytorch/pytorch#179291): a run that ended well would fail.
    """
    if dist.is_initialized() and status == 0:  # else another may be gone, and not be waited for
        dist.destroy_process_group()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it, closed, or none
            stream.flush()
    os._exit(status)


@lru_cache(maxsize=1)
def _patient(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """All processes, which wait for each other longer than those of ``world`` do."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    return cast(dist.ProcessGroup, group)


REENTRANT = "CheckpointFunctionBackward"  # what such a part is called in autograd's graph


def refuse_reentrant(module: nn.Module) -> None:
    """Look at the graph of the first forward pass with gradients.

    That pass raises `LoweringError` where a part of it is checkpointed with
    ``use_reentrant=True``: such a part runs a backward pass of its own for every visit, and the
    reduction of a block's gradients then starts before the last of them.
    """

    def look(module: nn.Module, inputs: Any, result: Any) -> None:
        tensors = differentiable(result)
        if not tensors:
            return
        handle.remove()
        if any(_is_reentrant(tensor) for tensor in tensors):
            message = "reentrant checkpointing gives wrong gradients where devices share blocks"
            hint = "checkpoint with use_reentrant=False"
            raise LoweringError("reentrant-checkpointing", message, hint=hint)

    handle: RemovableHandle = module.register_forward_hook(look)


def differentiable(result: Any) -> list[torch.Tensor]:
    """The tensors of a module's result that a backward pass can start from."""
    leaves = tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def _is_reentrant(tensor: torch.Tensor) -> bool:
    waiting: list[Node | None] = [tensor.grad_fn]
    visited: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        if node.name() == REENTRANT:
            return True
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False
