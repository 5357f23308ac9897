"""Text from a PyTorch model: each token behind a cache of those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.continuation import cached_module
from rinsc.errors import LoweringError
from rinsc.graph import Rounds
from rinsc.sampling import CachedLogits, Sampling, continue_tokens

Past: TypeAlias = list[torch.Tensor]


def generate_ids(
    model: CompiledModule,
    prompt: Sequence[int],
    new_tokens: int,
    *,
    sampling: Sampling,
    rounds: Rounds = None,
    cache: bool = True,
) -> list[int]:
    """The ``new_tokens`` ids after ``prompt``; the model sees the last ``context`` ids of it.

    Without ``cache``, and for layer kinds that have none, each token runs the whole sequence: the
    same tokens, but for repeats whose rounds share their slots. Raises UsageError for an empty
    prompt or a negative count.
    """
    device = next(model.parameters()).device
    cached = None
    if cache:
        try:
            cached = cached_module(model).eval()
        except LoweringError:
            cached = None  # the kind looks back in a way that no cache holds

    def step(ids: Sequence[int], past: Past | None) -> tuple[npt.NDArray[np.floating], Past]:
        assert cached is not None
        logits, present = cached(_row(ids, device), past, rounds=rounds)
        return _last(logits), present

    def whole(ids: Sequence[int]) -> npt.NDArray[np.floating]:
        return _last(model(_row(ids, device), rounds=rounds))

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            next_logits = whole if cached is None else CachedLogits(step)
            context = model.spec.context
            return continue_tokens(next_logits, prompt, new_tokens, context, sampling)
    finally:
        model.train(was_training)


def _row(ids: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([list(ids)], dtype=torch.int64, device=device)


def _last(logits: torch.Tensor) -> npt.NDArray[np.floating]:
    row: npt.NDArray[np.floating] = logits[0, -1].float().numpy(force=True)
    return row
