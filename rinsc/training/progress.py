"""What a person sees of training: a task of `rinsc.progress`, and a line for each evaluation."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from rinsc.errors import plural
from rinsc.objectives import figure
from rinsc.progress import Observer, Progress
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import Metrics

if TYPE_CHECKING:
    from rinsc.training.result import TrainResult
    from rinsc.training.warm_start import Source, Takeover


class TrainingProgress:
    """Tells one run to a `Progress`, as one task; an observer of training, and a context manager.

    The task has steps, loss, the last quality and tokens per second as its state.
    """

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress
        self._steps, self._quality = 1, ""
        self._task = ExitStack()
        self._observe: Observer = lambda done, state="": None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._task.close()

    def started(self, config: TrainConfig, step: int) -> None:
        self._steps = config.steps
        if step:
            self._line(f"goes on after step {step}")
        self._observe = self._task.enter_context(self._progress.task(self._name))

    def took_over(self, source: Source, takeover: Takeover) -> None:
        """What a run that begins with another's weights has of them."""
        count = source.record["step"]
        history = f" after {plural(count, 'step', f'{count:,}')}"
        if not source.record.get("is_training_known", True):
            history = ", of whose training not all is known"
        self._line(f"begins with the weights of {source.path}{history}")
        for line in takeover.lines():
            self._line(line)

    def stepped(self, metrics: Metrics) -> None:
        if metrics.quality is not None:
            sample = "" if metrics.held_out is None else f" ({metrics.held_out})"
            head = figure(metrics.figure).head
            self._quality = f"{metrics.quality:.3f} {head}{sample} · "
        state = f"step {metrics.step}/{self._steps} · loss {metrics.loss_nats:.3f} · "
        state += f"{self._quality}{metrics.tokens_per_second:,.0f} tokens/s"
        self._observe(metrics.step / self._steps, state)
        if metrics.quality is not None:
            self._line(state)

    def finished(self, result: TrainResult) -> None:
        self._task.close()
        quality = f"{result.figure_words} on {result.held_out_words}"
        self._line(f"done · {quality} · {result.seconds:.0f} s")

    def _line(self, text: str) -> None:
        self._progress.line(f"{self._name} · {text}")
