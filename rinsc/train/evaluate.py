"""Quality on held-out text in bits per byte, which does not depend on the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rinsc.cost.memory import Precision
from rinsc.graph import Rounds
from rinsc.train.precision import autocast
from rinsc.train.tokenizer import TokenIds

EVALUATION_BATCH = 16  # sequences at once


@dataclass(frozen=True)
class Evaluation:
    """Summed loss over the targets, and the bytes of text that they stand for."""

    nats: float
    byte_count: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.byte_count


def evaluate(
    model: nn.Module,
    windows: TokenIds,
    token_bytes: npt.NDArray[np.int64],
    *,
    rounds: Rounds = None,
    precision: Precision = "fp32",
) -> Evaluation:
    """Loss of ``model`` on ``windows``, shape ``(windows, seq + 1)``.

    The first token of each window is given, the others are predicted; only their bytes,
    ``token_bytes[target]``, count. The model is left in the mode it was in.
    """
    device = next(model.parameters()).device
    nats = 0.0
    with _eval_mode(model), torch.no_grad(), autocast(device, precision):
        for start in range(0, len(windows), EVALUATION_BATCH):
            batch = windows[start : start + EVALUATION_BATCH].astype(np.int64)
            nats += token_loss(model, torch.from_numpy(batch).to(device), rounds, "sum").item()
    targets = windows[:, 1:]
    return Evaluation(nats, int(token_bytes[targets].sum()))


def bits_per_byte(
    model: nn.Module,
    windows: TokenIds,
    token_bytes: npt.NDArray[np.int64],
    *,
    rounds: Rounds = None,
    precision: Precision = "fp32",
) -> float:
    """`evaluate`, as the one number: nats / ln 2 / bytes of text that the targets cover."""
    return evaluate(model, windows, token_bytes, rounds=rounds, precision=precision).bits_per_byte


def quality_against_rounds(
    model: nn.Module,
    windows: TokenIds,
    token_bytes: npt.NDArray[np.int64],
    rounds: Iterable[int],
) -> dict[int, float]:
    """Bits per byte of one model run at each of the given numbers of rounds."""
    return {r: bits_per_byte(model, windows, token_bytes, rounds=r) for r in rounds}


def token_loss(
    model: nn.Module, batch: torch.Tensor, rounds: Rounds, reduction: str, **noise: int
) -> torch.Tensor:
    """Cross-entropy in nats, in fp32, of ``batch`` ``(batch, seq + 1)``: a scalar tensor.

    ``noise_seed`` may be given to a model with a loop that starts from noise.
    """
    logits = model(batch[:, :-1], rounds=rounds, **noise)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), batch[:, 1:].flatten(), reduction=reduction
    )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
