"""The trainer: steps, checkpoints and measurements, in one thin loop over separate pieces."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.compile import compile_blocks
from rinsc.backends.torch.memory import allocation_errors
from rinsc.backends.torch.weights import save_weights
from rinsc.errors import Problem, RinscError
from rinsc.files import write_atomically
from rinsc.spec import ModelSpec, spec_to_toml
from rinsc.train.batches import TokenizedCorpus, TrainingBatches, cut_windows, evenly_spaced
from rinsc.train.checkpoint import Position, load_checkpoint, save_checkpoint
from rinsc.train.config import TrainConfig, config_to_toml
from rinsc.train.depth import Depths
from rinsc.train.evaluate import bits_per_byte, token_loss
from rinsc.train.fits import check_fits
from rinsc.train.metrics import Metrics, MetricsLog, drop_metrics_after
from rinsc.train.optimizer import build_optimizer
from rinsc.train.precision import autocast
from rinsc.train.run_folder import RunFolder, require_same_run, write_inputs, write_result
from rinsc.train.schedule import learning_rate

RATE_STEPS = 20  # tokens per second are of so many last steps


class Observer(Protocol):
    """Is told how training goes on, for a progress bar or a tracker."""

    def started(self, config: TrainConfig, step: int) -> None: ...

    def stepped(self, metrics: Metrics) -> None: ...

    def finished(self, result: TrainResult) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """What a finished run comes to; ``bits_per_byte`` is over all of the held-out text."""

    steps: int
    tokens: int
    epochs: float
    training_flops: int
    loss_nats: float
    bits_per_byte: float
    seconds: float


@allocation_errors()
def train(
    model: CompiledModule,
    spec: ModelSpec,
    corpus: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    *,
    observer: Observer | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train ``model`` in place and keep everything about it in ``folder``.

    With ``resume`` the run goes on from the folder's checkpoint, where there is one, to the very
    weights that an unbroken run on the CPU ends with. Raises SpecError or DataError where model,
    text and settings do not fit each other, CheckpointError for another model, text or settings
    than those that the run was begun with and for a checkpoint that cannot be used, LoweringError
    where memory is too small, and RinscError, with the last good weights kept in ``model``, where
    the loss stops being finite.
    """
    if resume:
        require_same_run(folder, spec, config, corpus.record)
    check_fits(spec, corpus, config, next(model.parameters()).device)
    torch.manual_seed(config.seed)
    if config.compile:
        compile_blocks(model)
    trainer = _Trainer(model, spec, corpus, config)
    if resume and folder.checkpoint.exists():
        trainer.load(folder)
    else:
        write_inputs(folder, spec, config, corpus.record)
        write_atomically(folder.metrics, "")
    if observer is not None:
        observer.started(config, trainer.position.step)
    with MetricsLog(folder.metrics) as log:
        while trainer.position.step < config.steps:
            metrics = trainer.step()
            if metrics.step % config.log_every == 0 or metrics.bits_per_byte is not None:
                log.write(metrics)
            if metrics.step % config.checkpoint_every == 0 or metrics.step == config.steps:
                trainer.save(folder)
            if observer is not None:
                observer.stepped(metrics)
    result = trainer.result()
    save_weights(model, folder.weights)
    write_result(folder, dataclasses.asdict(result))
    if observer is not None:
        observer.finished(result)
    return result


class _Trainer:
    """A run in memory: model, optimizer and position, and what moves them one step on."""

    def __init__(
        self, model: CompiledModule, spec: ModelSpec, corpus: TokenizedCorpus, config: TrainConfig
    ) -> None:
        length = config.sequence_length
        train_windows = cut_windows(corpus.train, length)
        self.model = model
        self.config = config
        self.position = Position(step=0, seconds=0.0, loss_nats=math.nan)
        self._device = next(model.parameters()).device
        self._optimizer = build_optimizer(model, config)
        self._batches = TrainingBatches(train_windows, config.batch_sequences, config.seed)
        self._held_out = cut_windows(corpus.held_out, length)
        self._token_bytes = corpus.token_bytes
        self._depths = Depths(spec, config)
        self._training_flops = 0
        self._step_seconds: deque[float] = deque(maxlen=RATE_STEPS)
        self._identity = {
            "model": spec_to_toml(spec),
            "configuration": config_to_toml(config),
            "text": json.dumps(corpus.record, sort_keys=True),
        }

    def step(self) -> Metrics:
        """One update, and an evaluation where one is due."""
        step, rate = self.position.step, learning_rate(self.config, self.position.step)
        start = time.perf_counter()
        loss = self._update(step, rate)
        self._step_seconds.append(time.perf_counter() - start)
        self._training_flops += self._depths.flops(step)
        seconds = self.position.seconds + self._step_seconds[-1]
        self.position = Position(step + 1, seconds, loss)
        tokens = (step + 1) * self.config.batch_tokens
        recent = len(self._step_seconds) * self.config.batch_tokens
        return Metrics(
            step=step + 1,
            tokens=tokens,
            training_flops=self._training_flops,
            loss_nats=loss,
            learning_rate=rate,
            tokens_per_second=recent / sum(self._step_seconds),
            seconds=seconds,
            bits_per_byte=self._evaluate_if_due(step + 1),
            rounds=self._depths.drawn_rounds(step),
        )

    def _update(self, step: int, rate: float) -> float:
        """One optimizer step; returns the loss. Nothing is updated where it is not finite."""
        batch = torch.from_numpy(self._batches.batch(step)).to(self._device)
        self.model.train()
        with autocast(self._device, self.config.precision):
            loss = token_loss(
                self.model, batch, self._depths.rounds(step), "mean", **self._noise(step)
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        loss_nats, grad_norm = torch.stack([loss.detach(), norm]).tolist()
        if not (math.isfinite(loss_nats) and math.isfinite(grad_norm)):
            raise _diverged(step + 1, loss_nats, grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return float(loss_nats)

    def _noise(self, step: int) -> dict[str, int]:
        """Another noise each step for loops that start from one."""
        return {"noise_seed": self._depths.noise_seed(step)} if self.model.takes_noise_seed else {}

    def _evaluate_if_due(self, step: int) -> float | None:
        """A sample of the held-out text now and then, always the same, and after the last step."""
        if step == self.config.steps or step % self.config.eval_every == 0:
            return self._bits_per_byte(self.config.eval_windows)
        return None

    def _bits_per_byte(self, windows: int | None) -> float:
        chosen = evenly_spaced(self._held_out, windows)
        config = self.config
        return bits_per_byte(
            self.model, chosen, self._token_bytes, rounds=config.rounds, precision=config.precision
        )

    def result(self) -> TrainResult:
        steps, tokens = self.config.steps, self.config.tokens
        return TrainResult(
            steps=steps,
            tokens=tokens,
            epochs=self._batches.epochs(steps),
            training_flops=self._training_flops,
            loss_nats=self.position.loss_nats,
            bits_per_byte=self._bits_per_byte(None),
            seconds=self.position.seconds,
        )

    def save(self, folder: RunFolder) -> None:
        path = folder.checkpoint
        save_checkpoint(path, self.model, self._optimizer, self.position, self._identity)

    def load(self, folder: RunFolder) -> None:
        path = folder.checkpoint
        self.position = load_checkpoint(path, self.model, self._optimizer, self._identity)
        self._training_flops = self._depths.flops_until(self.position.step)
        if folder.metrics.exists():
            drop_metrics_after(folder.metrics, self.position.step)


def _diverged(step: int, loss_nats: float, grad_norm: float) -> RinscError:
    return RinscError(
        Problem(
            code="loss-not-finite",
            message=f"step {step} gave loss {loss_nats} and gradient norm {grad_norm}",
            hint="lower learning_rate or lengthen warmup_steps; the run's files are kept",
        )
    )
