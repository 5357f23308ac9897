"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from rinsc.syntax.problems import plural
from rinsc.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of ``step``, counted from 0."""
    return config.learning_rate * learning_rate_share(config, step)


def schedule_note(config: TrainConfig) -> str | None:
    """What a user may not expect of the schedule, in words; None where there is nothing."""
    if config.warmup_steps < config.steps:
        return None
    last = learning_rate(config, config.steps - 1)
    return (
        f"the warm-up of {plural(config.warmup_steps, 'step')} is as long as the run of "
        f"{config.steps} or "
        f"longer: the learning rate ends at {last:.2g} and never reaches {config.learning_rate:g}"
    )


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Share of the highest learning rate at ``step``: a linear warm-up, then the schedule.

    ``cosine`` is half a cosine down; ``wsd`` (warm-up, stable, decay) stays at the peak and falls
    linearly over the last ``decay_share`` of the steps. The peak is reached at the first step after
    the warm-up; the last step has ``final_learning_rate_share`` of it. A warm-up longer than the
    run never reaches the peak.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    start = config.warmup_steps
    if config.schedule == "wsd":
        decay_steps = max(1, round(config.decay_share * config.steps))
        start = max(start, config.steps - 1 - decay_steps)
    last = max(1, config.steps - 1 - start)
    progress = min(1.0, max(0.0, (step - start) / last))
    final = config.final_learning_rate_share
    fall = progress if config.schedule == "wsd" else 0.5 * (1 - math.cos(math.pi * progress))
    return 1 - (1 - final) * fall
