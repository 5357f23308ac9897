"""Text from a PyTorch model: each token by a full forward pass, without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rinsc.graph import Rounds
from rinsc.sampling import Sampling, continue_tokens


def generate_ids(
    model: nn.Module,
    prompt: Sequence[int],
    new_tokens: int,
    *,
    context: int,
    sampling: Sampling,
    rounds: Rounds = None,
) -> list[int]:
    """The ``new_tokens`` ids after ``prompt``; the model sees the last ``context`` ids of it.

    Raises UsageError for an empty prompt or a negative count.
    """
    device = next(model.parameters()).device

    def next_logits(ids: Sequence[int]) -> npt.NDArray[np.floating]:
        input_ids = torch.tensor([ids], dtype=torch.int64, device=device)
        logits: npt.NDArray[np.floating] = (
            model(input_ids, rounds=rounds)[0, -1].float().numpy(force=True)
        )
        return logits

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return continue_tokens(next_logits, prompt, new_tokens, context, sampling)
    finally:
        model.train(was_training)
