"""A plain training loop over a model of ours: the same on one process and on many."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.graph import Rounds, build_graph
from rinsc.graph.law import draw_rounds
from rinsc.spec import ModelSpec, model_spec

RANDOM_ROUNDS = "P(A^3{skip=0.5})B"
SEQUENCES = 4  # of all ranks together
SEQ = 7


def spec_of(signature: str, **more: Any) -> ModelSpec:
    given: dict[str, Any] = {
        "layers": 4,
        "kind": "llama",
        "width": 24,
        "heads": 4,
        "kv_heads": 2,
        "mlp_width": 34,
        "vocab_size": 31,
        "context": 16,
    }
    return model_spec(signature, **(given | more))


def fresh(spec: ModelSpec, *, seed: int = 3, reentrant: bool = False) -> CompiledModule:
    """New weights, every visit of a block checkpointed."""
    torch.manual_seed(seed)
    model = to_torch(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for name in model.graph.blocks:
        block = model.get_submodule(name)
        block.forward = partial(checkpoint, block.forward, use_reentrant=reentrant)
    return model


def batch_of(step: int, vocab: int = 31) -> torch.Tensor:
    """Token ids (SEQUENCES, SEQ + 1) of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(vocab, (SEQUENCES, SEQ + 1), generator=generator)


def own_part(batch: torch.Tensor, ranks: int | None = None) -> torch.Tensor:
    """What this rank gets of a batch: all where there is one process."""
    if not dist.is_initialized():
        return batch
    return batch.chunk(ranks or dist.get_world_size())[dist.get_rank() % (ranks or 2**30)]


def loss_of(model: nn.Module, batch: torch.Tensor, rounds: Rounds) -> torch.Tensor:
    logits = model(batch[:, :-1], rounds=rounds)
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def drawn(spec: ModelSpec, step: int) -> Rounds:
    return draw_rounds(build_graph(spec), 5, step) or None


def adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Two optimizers, as for matrices and for the rest."""
    named = list(model.named_parameters())
    groups = [[p for _, p in named if p.ndim == 2], [p for _, p in named if p.ndim != 2]]
    return [torch.optim.AdamW(group, lr=0.02, foreach=False) for group in groups if group]


def train(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    spec: ModelSpec,
    steps: range,
    *,
    whole_batch: bool = False,
) -> list[float]:
    """The mean loss of all ranks before each step."""
    losses = []
    for step in steps:
        batch = batch_of(step)
        loss = loss_of(model, batch if whole_batch else own_part(batch), drawn(spec, step))
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean = loss.detach().clone()
        if dist.is_initialized() and not whole_batch:
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        losses.append(float(mean))
    return losses
