"""What a person sees of training: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from rinsc.errors import plural, printable
from rinsc.objectives import figure
from rinsc.progress import Progress, ShownProgress, in_notebook
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import Metrics

if TYPE_CHECKING:
    from rich.console import Console

    from rinsc.training.result import TrainResult
    from rinsc.training.warm_start import Source, Takeover

LINE_SECONDS = 10.0  # between two lines where there is no terminal


class TrainingProgress:
    """Shows one run on standard error; an `Observer`, and a context manager.

    On a terminal: name, bar, steps, loss, bits per byte, tokens per second, time left. Elsewhere:
    the same as plain lines, one every ten seconds, one an evaluation, one at the end.
    """

    def __init__(self, name: str, console: Console | None = None, *, silent: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._name = name = printable(name)
        self._console = console or Console(file=sys.stderr, quiet=silent)
        self._quality: str | None = None
        self._steps = 0
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=silent or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(_escaped(name), total=None, state="")

    def __enter__(self) -> TrainingProgress:
        with _maybe_gone():
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with _maybe_gone():
            self._bar.stop()

    def started(self, config: TrainConfig, step: int) -> None:
        self._steps = config.steps
        if step:
            self._line(f"goes on after step {step}")
        with _maybe_gone():
            self._bar.reset(self._task, total=config.steps, completed=step, state="")

    def took_over(self, source: Source, takeover: Takeover) -> None:
        """What a run that begins with another's weights has of them."""
        for line in _takeover_lines(source, takeover):
            self._line(line)

    def stepped(self, metrics: Metrics) -> None:
        evaluated = metrics.quality is not None
        if evaluated:
            self._quality = _quality(metrics)
        if not self._bar.disable:
            with _maybe_gone():
                self._bar.update(self._task, completed=metrics.step, state=self._state(metrics))
        elif evaluated or time.monotonic() - self._last_line >= LINE_SECONDS:
            self._line(f"step {metrics.step}/{self._steps} · {self._state(metrics)}")

    def finished(self, result: TrainResult) -> None:
        if self._bar.disable:
            self._line(_end(result))

    def _state(self, metrics: Metrics) -> str:
        parts = [f"loss {metrics.loss_nats:.3f}"]
        if self._quality is not None:
            parts.append(self._quality)
        parts.append(f"{metrics.tokens_per_second:,.0f} tokens/s")
        return " · ".join(parts)

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        line = f"{self._name} · {text}"
        with _maybe_gone():
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class ToldProgress:
    """Tells one run to a `Progress`, as one task; an `Observer`, and a context manager."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress
        self._steps = 1
        self._task = ExitStack()
        self._observe: Callable[[float], None] = lambda done: None

    def __enter__(self) -> ToldProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._task.close()

    def started(self, config: TrainConfig, step: int) -> None:
        self._steps = config.steps
        if step:
            self._progress.line(f"{self._name} · goes on after step {step}")
        task = self._progress.task(f"training {self._name}")
        self._observe = self._task.enter_context(task)

    def took_over(self, source: Source, takeover: Takeover) -> None:
        """What a run that begins with another's weights has of them."""
        for line in _takeover_lines(source, takeover):
            self._progress.line(f"{self._name} · {line}")

    def stepped(self, metrics: Metrics) -> None:
        self._observe(metrics.step / self._steps)
        if metrics.quality is not None:
            loss = f"loss {metrics.loss_nats:.3f} · {_quality(metrics)}"
            self._progress.line(f"{self._name} · step {metrics.step}/{self._steps} · {loss}")

    def finished(self, result: TrainResult) -> None:
        self._progress.line(f"{self._name} · {_end(result)}")


def training_progress(
    name: str, progress: Progress | None, *, silent: bool
) -> TrainingProgress | ToldProgress:
    """Where a run is shown: in what is given, in the cell of a notebook, else on standard error.

    Of several processes, those that are ``silent`` show nothing.
    """
    if silent:
        return TrainingProgress(name, silent=True)
    if progress is None and in_notebook():
        progress = ShownProgress()
    return TrainingProgress(name) if progress is None else ToldProgress(name, progress)


def _takeover_lines(source: Source, takeover: Takeover) -> list[str]:
    count = source.record["step"]
    step = f" after {plural(count, 'step', f'{count:,}')}"
    if not source.record.get("is_training_known", True):
        step = ", of whose training not all is known"
    return [f"begins with the weights of {source.path}{step}", *takeover.lines()]


def _quality(metrics: Metrics) -> str:
    """``2.346 bits/byte (sample)``."""
    part = "" if metrics.held_out is None else f" ({metrics.held_out})"
    return f"{metrics.quality:.3f} {figure(metrics.figure).head}{part}"


def _end(result: TrainResult) -> str:
    return f"done · {result.figure_words} on {result.held_out_words} · {result.seconds:.0f} s"


def _maybe_gone() -> suppress:
    """Within, nothing is raised by a terminal that was closed: a signal ends the run, not this."""
    return suppress(OSError)


def _escaped(name: str) -> str:
    """The name as it stands: signatures hold brackets, which rich reads as markup."""
    from rich.markup import escape

    return escape(name)
