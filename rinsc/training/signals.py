"""Stopping when asked to: a signal ends the run after the step at hand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState


class StopOnSignal(TrainerCallback):
    """SIGINT, SIGTERM and SIGHUP end the run after the step at hand, with a checkpoint.

    A SIGHUP that is ignored, as nohup has it, stays ignored. Of several processes, any may be told
    first: they agree on the step before they end.
    """

    def __init__(self) -> None:
        self.was_asked = False
        self.agreed = False  # set by the Trainer with each step's loss

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, the signals are caught; only the main thread of a program can do so."""
        names = [signal.SIGINT, signal.SIGTERM]
        hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
        if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
            names.append(hang_up)
        try:
            before = [signal.signal(name, self._caught) for name in names]
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for name, handler in zip(names, before, strict=True):
                signal.signal(name, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.was_asked:
            raise KeyboardInterrupt
        self.was_asked = True

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        if self.agreed and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
