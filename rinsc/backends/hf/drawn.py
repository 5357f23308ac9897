"""Which step a model draws its rounds for, told by transformers' Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from rinsc.sampling import checked_seed


class RoundsCallback(TrainerCallback):
    """Makes a Trainer's model draw its rounds, and the seed of its noise, once an optimizer step.

    All parts of an accumulated batch run the same rounds, and a run that is resumed draws what an
    unbroken one draws: those of ``draw_rounds(spec, seed, step)`` at ``state.global_step``.
    Without the callback each forward pass draws. ``seed`` is that of the ``TrainingArguments``
    unless you give one.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = None if seed is None else checked_seed(seed)

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        for draws in _draws(named["model"]):
            draws.seed = args.seed if self.seed is None else self.seed
            draws.hold(state.global_step)

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        for draws in _draws(named["model"]):
            draws.release()


def _draws(model: nn.Module) -> Iterator[Any]:
    """Of every emitted module in the model, however it is wrapped."""
    for module in model.modules():
        draws = vars(module).get("draws")
        if draws is not None:
            yield draws
