"""The training loop: batches, gradients, and one step of the optimizer after the other.

Step ``s`` of a run with a batch of 8 in 2 parts (``accumulate = 2``), on one process:

1. windows 8s to 8s + 3, then 8s + 4 to 8s + 7, in the order of the run;
2. the rounds and the noise of step s, the same for both parts and on every rank;
3. forward and backward of both parts; their losses are shares of the mean over all targets;
4. clipping; a loss or gradient that is not finite ends the run here;
5. the optimizer, at the learning rate of step s;
6. what was measured, and now and then a checkpoint, in one folder that appears whole; with the
   schedule ``wsd`` one where the decay begins, which is kept for longer runs to begin from.

Everything in 1, 2 and 5 is a function of (seed, s). So a run resumes with weights, optimizer and s:

    >>> import rinsc
    >>> spec = rinsc.model_spec("(A^4{skip=0.5})B", preset="tiny")
    >>> depths = Depths(spec, TrainConfig(steps=100, seed=1))
    >>> [depths.rounds(step) for step in (0, 1, 2, 1)]
    [{'A': 1}, {'A': 3}, {'A': 2}, {'A': 3}]
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, cast

import torch
from torch import nn

from rinsc.backends.torch.device import autocast
from rinsc.errors import RinscError
from rinsc.objectives import Examples, HeldOut, Objective
from rinsc.training.checkpoint import Checkpoint, checkpoints
from rinsc.training.config import TrainConfig
from rinsc.training.devices import Devices
from rinsc.training.metrics import Metrics, MetricsLog, Observer, is_due
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import Depths, learning_rate, stable_steps
from rinsc.training.state import TrainableModel, TrainingState

RATE_STEPS = 20  # tokens per second are of so many last steps


class StopOnSignal:
    """SIGINT, SIGTERM and SIGHUP end the run after the step at hand, with a checkpoint.

    A SIGHUP that is ignored, as nohup has it, stays ignored. Of several processes, any may be told
    first: they agree on the step before they end.
    """

    def __init__(self) -> None:
        self.was_asked = False

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


class TrainingLoop:
    """Trains a model in place, into a run folder, as its settings say."""

    def __init__(
        self,
        module: TrainableModel,
        objective: Objective,
        examples: Examples,
        config: TrainConfig,
        folder: RunFolder,
        devices: Devices,
        depths: Depths,
        stop: StopOnSignal,
        start: Checkpoint | None = None,
    ) -> None:
        self.config, self.folder, self.devices, self.depths = config, folder, devices, depths
        self.model = devices.spread(cast(nn.Module, module))
        self.state = TrainingState(module, config, devices)
        self.loss_nats, self.gradient_norm = math.nan, math.nan
        self._is_asked_to_stop = False
        self._objective, self._examples, self._stop = objective, examples, stop
        if start is not None:
            self.state.restore(start)

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.state.step

    @property
    def learning_rate(self) -> float:
        """The highest rate of the last step; blocks may have shares of it."""
        return learning_rate(self.config, self.step - 1)

    def run(self, measure: Callable[[], Metrics]) -> None:
        """Train up to the last step, or until a signal; ``measure`` is called after each step."""
        config = self.config
        self.model.train()
        is_stopped, stable = False, stable_steps(config)
        while self.step < config.steps and not is_stopped:
            is_stopped = self._train_step()
            metrics = measure()
            is_last = is_stopped or self.step == config.steps
            is_due = self.step % config.checkpoint_every == 0 or self.step == stable
            if is_last or is_due:
                self.state.save(self.folder.path, metrics)

    def _train_step(self) -> bool:
        """One step of the optimizer; returns whether a process was asked to stop."""
        batches = self._batches()
        targets = torch.stack([self._objective.targets(batch) for batch in batches]).sum()
        targets = self.devices.total(targets.to(self.devices.device))
        targets = targets.float().clamp(min=1)  # none where every document has one token
        losses = []
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            with nullcontext() if is_last else self.devices.gradients_kept_apart(self.model):
                losses.append(self._add_gradients(index, batch, targets))
        self._finish_gradients(torch.stack(losses).sum())
        self.state.take_step()
        return self._is_asked_to_stop

    def _batches(self) -> list[dict[str, torch.Tensor]]:
        """This rank's shares of the batch: it is its parts in a row, and each part the shares of
        the ranks in a row."""
        devices, parts_of_batch = self.devices, self.config.accumulate
        size = self.config.batch_sequences // (parts_of_batch * devices.count)
        batches = []
        for number in range(parts_of_batch):
            first = size * ((self.step * parts_of_batch + number) * devices.count + devices.rank)
            examples = [self._examples.window(index) for index in range(first, first + size)]
            batches.append(self._objective.collate(examples))
        return batches

    def _add_gradients(
        self, index: int, batch: dict[str, torch.Tensor], targets: torch.Tensor
    ) -> torch.Tensor:
        """Forward and backward of one share of the batch; its loss is its part of the mean.

        Autocast is around the forward pass alone, so that the loss sees logits once.
        """
        devices = self.devices
        arguments: dict[str, Any] = {
            name: tensor.to(devices.device, non_blocking=True) for name, tensor in batch.items()
        }
        arguments |= {"rounds": self.depths.rounds(self.step), "num_items_in_batch": targets}
        if self.state.module.model.takes_noise_seed:
            first_row = (index * devices.count + devices.rank) * len(batch["labels"])
            arguments["noise_seed"] = self.depths.noise_seed(self.step, first_row)
        with autocast(devices.device, self.config.precision):
            loss = self.model(**arguments)["loss"]
            loss = loss * devices.count  # the gradients of all ranks are averaged
        loss.backward()
        return loss.detach()  # type: ignore[no-any-return]

    def _finish_gradients(self, loss: torch.Tensor) -> None:
        """Clip, and stop before anything that is not finite reaches the weights."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        was_asked = loss.new_tensor(self._stop.was_asked)
        self.loss_nats, share_asked = self.devices.mean(torch.stack([loss, was_asked])).tolist()
        self.gradient_norm = float(whole.detach())
        self._is_asked_to_stop = share_asked > 0
        if not (math.isfinite(self.loss_nats) and math.isfinite(self.gradient_norm)):
            raise self._diverged()

    def _diverged(self) -> RinscError:
        written = checkpoints(self.folder.path)
        state = "no checkpoint had been written yet"
        if written:
            state = f"the last good checkpoint is that of step {written[-1].step}"
        message = f"step {self.step + 1} gave loss {self.loss_nats} and gradient norm "
        message += f"{self.gradient_norm}"
        hint = f"lower the learning rate or lengthen its warm-up; {state}"
        return RinscError("loss-not-finite", message, hint=hint)


class Measuring:
    """Times the steps of a loop, evaluates now and then, and writes both down."""

    def __init__(
        self,
        loop: TrainingLoop,
        objective: Objective,
        held_out: HeldOut,
        log: MetricsLog,
        observer: Observer | None,
        *,
        peak_flops: float | None,
        seconds: float,
        training_flops: int,
    ) -> None:
        config = loop.config
        self._loop, self._config, self._objective = loop, config, objective
        self._log, self._observer = log, observer
        self._sample = held_out.spread(config.eval_windows)
        self._part = held_out.part(config.eval_windows)
        self._peak_flops = peak_flops
        self.seconds, self.training_flops = seconds, training_flops
        self._recent: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS)
        self._begun = time.perf_counter()

    def __call__(self) -> Metrics:
        """The metrics of the step that has just ended."""
        flops = self._loop.depths.flops(self._loop.step - 1)
        self._recent.append((time.perf_counter() - self._begun, flops))
        self.seconds += self._recent[-1][0]
        self.training_flops += flops
        metrics = self._metrics(self._evaluate_if_due())
        if is_due(self._config, metrics):
            self._log.write(metrics)
        if self._observer is not None:
            self._observer.stepped(metrics)
        self._begun = time.perf_counter()
        return metrics

    def _metrics(self, quality: float | None) -> Metrics:
        tokens, use = self._rates()
        loop = self._loop
        return Metrics(
            step=loop.step,
            tokens=loop.step * self._config.batch_tokens,
            training_flops=self.training_flops,
            loss_nats=loop.loss_nats,
            learning_rate=loop.learning_rate,
            tokens_per_second=tokens,
            seconds=self.seconds,
            quality=quality,
            figure=self._objective.figures[0].name,
            held_out=None if quality is None else self._part,
            rounds=loop.depths.shown_rounds(loop.step - 1),
            gradient_norm=loop.gradient_norm,
            model_flops_utilization=use,
        )

    def _rates(self) -> tuple[float, float | None]:
        """Tokens per second, and the share of the device's peak, over the last steps."""
        seconds = sum(spent for spent, _ in self._recent)
        flops = sum(spent for _, spent in self._recent)
        use = None if self._peak_flops is None else flops / seconds / self._peak_flops
        return len(self._recent) * self._config.batch_tokens / seconds, use

    def _evaluate_if_due(self) -> float | None:
        """A sample of the held-out data now and then, always the same, and after the last step."""
        config, step = self._config, self._loop.step
        if step != config.steps and step % config.eval_every != 0:
            return None
        quality = self._objective.measure(
            *(self._loop.model, self._sample),
            rounds=config.evaluation_rounds,
            precision=config.precision,
        )
        return quality.figures[self._objective.figures[0].name]
