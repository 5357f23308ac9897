"""Training written out in PyTorch alone: what `rinsc.training.run.train` is held against."""

from __future__ import annotations

import math

import torch
from torch import nn

from rinsc.backends.torch import CompiledModule
from rinsc.data.batches import TokenizedCorpus, cut_windows
from rinsc.graph import build_graph
from rinsc.graph.law import draw_rounds
from rinsc.training.config import TrainConfig
from tests.data.whole_batches import TrainingBatches

VECTORS = ("loop_A.adapter.weight",)  # one for each round, in a table


def plain_training(
    module: CompiledModule, tokens: TokenizedCorpus, config: TrainConfig
) -> list[float]:
    """Train the module in place; the loss of each step."""
    named = list(module.named_parameters())
    decayed = [weight for name, weight in named if weight.ndim > 1 and name not in VECTORS]
    others = [weight for name, weight in named if weight.ndim == 1 or name in VECTORS]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    windows = cut_windows(tokens.train, config.sequence_length)
    batches = TrainingBatches(windows, config.batch_sequences, config.seed)
    losses = []
    for step in range(config.steps):
        loss = 0.0
        batch = torch.from_numpy(batches.batch(step))
        for part in batch.chunk(config.accumulate):
            nats = _nats(module, part, config, step) / batch[:, 1:].numel()
            nats.backward()  # type: ignore[no-untyped-call]
            loss += nats.item()
        nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(config, step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def _nats(
    module: CompiledModule, ids: torch.Tensor, config: TrainConfig, step: int
) -> torch.Tensor:
    """Summed loss of the windows (batch, seq + 1), at rounds drawn here."""
    rounds = draw_rounds(build_graph(module.spec), config.seed, step) or None
    seed = 1 + (config.seed * 1_000_003 + step) % (2**31 - 1)
    more = {"noise_seed": seed} if "init=noise" in module.spec.text else {}
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        logits = module(ids[:, :-1], rounds=rounds, **more)
    return nn.functional.cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )


def plain_rate(config: TrainConfig, step: int) -> float:
    """Warm-up and half a cosine down."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    share = (step - config.warmup_steps) / (config.steps - 1 - config.warmup_steps)
    fall = 0.5 * (1 - math.cos(math.pi * share))
    return config.learning_rate * (1 - (1 - config.final_learning_rate_share) * fall)
