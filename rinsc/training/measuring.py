"""What is measured beside the steps: time, evaluations, and the metrics that come of both."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from rinsc.objectives import HeldOut, Objective
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import Metrics, MetricsLog
from rinsc.training.result import Observer
from rinsc.training.trainer import RinscTrainer

RATE_STEPS = 20  # tokens per second are of so many last steps


class Measuring(TrainerCallback):
    """Times steps, evaluates now and then, and writes both down."""

    def __init__(
        self,
        trainer: RinscTrainer,
        objective: Objective,
        held_out: HeldOut,
        log: MetricsLog,
        observer: Observer | None,
        *,
        peak_flops: float | None,
        seconds: float,
        training_flops: int,
    ) -> None:
        config = trainer.config
        self._trainer, self._config, self._objective = trainer, config, objective
        self._log, self._observer = log, observer
        self._sample = held_out.spread(config.eval_windows)
        self._part = held_out.part(config.eval_windows)
        self._peak_flops = peak_flops
        self.seconds, self.training_flops = seconds, training_flops
        self._recent: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS)
        self._begun = time.perf_counter()

    def on_step_begin(self, *given: Any, **named: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        step, flops = state.global_step, self._trainer.depths.flops(state.global_step - 1)
        self._recent.append((time.perf_counter() - self._begun, flops))
        self.seconds += self._recent[-1][0]
        self.training_flops += flops
        metrics = self._metrics(step, self._evaluate_if_due(step, self._trainer.model_wrapped))
        self._trainer.measured = metrics
        if is_due(self._config, metrics):
            self._log.write(metrics)
            self._trainer.log(_for_trackers(metrics))  # in place of what the Trainer would log
        if self._observer is not None:
            self._observer.stepped(metrics)

    def _metrics(self, step: int, quality: float | None) -> Metrics:
        tokens, use = self._rates()
        return Metrics(
            step=step,
            tokens=step * self._config.batch_tokens,
            training_flops=self.training_flops,
            loss_nats=self._trainer.loss_nats,
            learning_rate=self._trainer.learning_rate_of(step - 1),
            tokens_per_second=tokens,
            seconds=self.seconds,
            quality=quality,
            figure=self._objective.figures[0].name,
            held_out=None if quality is None else self._part,
            rounds=self._trainer.depths.shown_rounds(step - 1),
            gradient_norm=self._trainer.gradient_norm,
            model_flops_utilization=use,
        )

    def _rates(self) -> tuple[float, float | None]:
        """Tokens per second, and the share of the device's peak, over the last steps."""
        seconds = sum(each for each, _ in self._recent)
        flops = sum(each for _, each in self._recent)
        use = None if self._peak_flops is None else flops / seconds / self._peak_flops
        return len(self._recent) * self._config.batch_tokens / seconds, use

    def _evaluate_if_due(self, step: int, model: nn.Module) -> float | None:
        """A sample of the held-out data now and then, always the same, and after the last step."""
        config = self._config
        if step != config.steps and step % config.eval_every != 0:
            return None
        quality = self._objective.measure(
            *(model, self._sample),
            rounds=config.evaluation_rounds,
            precision=config.precision,
        )
        return quality.figures[self._objective.figures[0].name]


def is_due(config: TrainConfig, metrics: Metrics) -> bool:
    """Whether a step is written down: every few, and those with an evaluation."""
    return metrics.step % config.log_every == 0 or metrics.quality is not None


def _for_trackers(metrics: Metrics) -> dict[str, float]:
    """The numbers of the metrics file, some by the names that the Trainer gives them."""
    values = {
        "loss": metrics.loss_nats,
        "grad_norm": metrics.gradient_norm,
        "learning_rate": metrics.learning_rate,
        metrics.figure: metrics.quality,
        "training_flops": float(metrics.training_flops),
        "tokens_per_second": metrics.tokens_per_second,
        "model_flops_utilization": metrics.model_flops_utilization,
    }
    return {name: value for name, value in values.items() if value is not None}
