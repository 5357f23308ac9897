"""What happens beside the steps: evaluations, metrics, an observer, and stopping when asked to."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from rinsc.train.config import TrainConfig
from rinsc.train.evaluate import HeldOut, bits_per_byte
from rinsc.train.metrics import Metrics, MetricsLog

if TYPE_CHECKING:
    from rinsc.train.run import TrainResult
    from rinsc.train.trainer import RinscTrainer

RATE_STEPS = 20  # tokens per second are of so many last steps


class Observer(Protocol):
    """Is told how training goes on, for a progress bar or a tracker."""

    def started(self, config: TrainConfig, step: int) -> None: ...

    def stepped(self, metrics: Metrics) -> None: ...

    def finished(self, result: TrainResult) -> None: ...


class Measuring(TrainerCallback):
    """Times steps, evaluates now and then, and writes both down."""

    def __init__(
        self,
        config: TrainConfig,
        held_out: HeldOut,
        log: MetricsLog,
        observer: Observer | None,
        *,
        peak_flops: float | None,
        seconds: float,
        training_flops: int,
    ) -> None:
        self._config, self._log, self._observer = config, log, observer
        self._sample = held_out.spread(config.eval_windows)
        self._part = held_out.part(config.eval_windows)
        self._peak_flops = peak_flops
        self.seconds, self.training_flops = seconds, training_flops
        self._recent: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS)
        self._begun = time.perf_counter()
        self.trainer: RinscTrainer | None = None  # set once it is made

    def on_step_begin(self, *given: Any, **named: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        assert self.trainer is not None
        step, flops = state.global_step, self.trainer.depths.flops(state.global_step - 1)
        self._recent.append((time.perf_counter() - self._begun, flops))
        self.seconds += self._recent[-1][0]
        self.training_flops += flops
        metrics = self._metrics(step, self._evaluate_if_due(step, self.trainer.model_wrapped))
        self.trainer.measured = metrics
        if is_due(self._config, metrics):
            self._log.write(metrics)
            self.trainer.log(_for_trackers(metrics))  # in place of what the Trainer would log
        if self._observer is not None:
            self._observer.stepped(metrics)

    def _metrics(self, step: int, quality: float | None) -> Metrics:
        assert self.trainer is not None
        tokens, use = self._rates()
        return Metrics(
            step=step,
            tokens=step * self._config.batch_tokens,
            training_flops=self.training_flops,
            loss_nats=self.trainer.loss_nats,
            learning_rate=self.trainer.learning_rate_of(step - 1),
            tokens_per_second=tokens,
            seconds=self.seconds,
            bits_per_byte=quality,
            held_out=None if quality is None else self._part,
            rounds=self.trainer.depths.shown_rounds(step - 1),
            gradient_norm=self.trainer.gradient_norm,
            model_flops_utilization=use,
        )

    def _rates(self) -> tuple[float, float | None]:
        """Tokens per second, and the share of the device's peak, over the last steps."""
        seconds = sum(each for each, _ in self._recent)
        flops = sum(each for _, each in self._recent)
        use = None if self._peak_flops is None else flops / seconds / self._peak_flops
        return len(self._recent) * self._config.batch_tokens / seconds, use

    def _evaluate_if_due(self, step: int, model: nn.Module) -> float | None:
        """A sample of the held-out text now and then, always the same, and after the last step."""
        config = self._config
        if step != config.steps and step % config.eval_every != 0:
            return None
        return bits_per_byte(
            model, self._sample, rounds=config.evaluation_rounds, precision=config.precision
        )


def is_due(config: TrainConfig, metrics: Metrics) -> bool:
    """Whether a step is written down: every few, and those with an evaluation."""
    return metrics.step % config.log_every == 0 or metrics.bits_per_byte is not None


def _for_trackers(metrics: Metrics) -> dict[str, float]:
    """The numbers of the metrics file, some by the names that the Trainer gives them."""
    values = {
        "loss": metrics.loss_nats,
        "grad_norm": metrics.gradient_norm,
        "learning_rate": metrics.learning_rate,
        "bits_per_byte": metrics.bits_per_byte,
        "training_flops": float(metrics.training_flops),
        "tokens_per_second": metrics.tokens_per_second,
        "model_flops_utilization": metrics.model_flops_utilization,
    }
    return {name: value for name, value in values.items() if value is not None}


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
