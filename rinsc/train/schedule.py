"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from rinsc.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of ``step``, counted from 0: linear warm-up, then half a cosine down.

    The peak is reached at the first step after the warm-up; the last step has
    ``final_learning_rate_share`` of it. A warm-up longer than the run never reaches the peak.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    last = max(1, config.steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / last)
    share = config.final_learning_rate_share
    return config.learning_rate * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))
