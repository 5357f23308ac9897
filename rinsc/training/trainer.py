"""transformers' Trainer, told what it cannot know of a recursive model.

Its own loop runs: batches, accumulation, clipping, logging, callbacks, resuming. What is ours is
the rounds of each step and their cost, the optimizer's groups, the schedule, checkpoints that
appear whole or not at all, and stopping before a loss that is not finite reaches the weights.

Step ``s`` of a run with a batch of 8 in 2 parts (``accumulate = 2``), on one process:

1. windows 8s to 8s + 3, then 8s + 4 to 8s + 7, in the order of the run (`TrainingData`);
2. the rounds and the noise of step s, the same for both parts and on every rank (`compute_loss`);
3. forward and backward of both parts by the Trainer, with the FLOPs from our costs
   (`floating_point_ops`);
4. clipping; a loss or gradient that is not finite ends the run here (`_clip_grad_norm`);
5. the optimizer and the learning rate of step s (`create_optimizer`, `create_scheduler`);
6. now and then a checkpoint, in one folder that appears whole (`_save_checkpoint`).

Everything in 1, 2 and 5 is a function of (seed, s). So a run resumes with weights, optimizer and s:

    >>> import rinsc
    >>> spec = rinsc.model_spec("(A^4{skip=0.5})B", preset="tiny")
    >>> depths = Depths(spec, TrainConfig(steps=100, seed=1))
    >>> [depths.rounds(step) for step in (0, 1, 2, 1)]
    [{'A': 1}, {'A': 3}, {'A': 2}, {'A': 3}]
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from rinsc.backends.torch.device import autocast
from rinsc.backends.torch.pickles import check_torch_files
from rinsc.backends.torch.sharded_checkpoint import (
    load_sharded,
    save_sharded,
    shard_moments,
    shard_weights,
)
from rinsc.errors import CheckpointError, RinscError
from rinsc.objectives import Examples
from rinsc.storage.files import write_atomically
from rinsc.training.checkpoint import (
    METRICS,
    OPTIMIZER,
    SCHEDULER,
    SHARDED,
    WEIGHTS,
    checkpoints,
    part_of,
    publish,
    start_part,
    writing_errors,
)
from rinsc.training.config import TrainConfig
from rinsc.training.devices import Devices
from rinsc.training.metrics import Metrics
from rinsc.training.optimizer import OptimizerPair, build_optimizer, each_optimizer, each_state
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import Depths, learning_rate, learning_rate_share
from rinsc.training.signals import StopOnSignal

SCHEDULES = {"cosine": "cosine", "wsd": "warmup_stable_decay"}  # as transformers calls them
PROJECT = "rinsc"  # under which W&B (unless WANDB_PROJECT is set) and trackio keep runs


def training_arguments(
    config: TrainConfig, folder: RunFolder, devices: Devices, trackers: tuple[str, ...]
) -> TrainingArguments:
    """What the Trainer is told; what it is not told is overridden in `RinscTrainer`."""
    if "tensorboard" in trackers:  # the only place where its folder can be named
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.tensorboard)
    if "wandb" in trackers:
        os.environ.setdefault("WANDB_PROJECT", PROJECT)
    parts = config.accumulate * devices.count
    arguments = TrainingArguments(
        output_dir=str(folder.path),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_sequences // parts,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        lr_scheduler_type=SCHEDULES[config.schedule],  # this and the next for trackers to show
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.clip,
        seed=config.seed % 2**32,
        use_cpu=devices.device.type == "cpu",
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        eval_strategy="no",
        disable_tqdm=True,
        report_to=list(trackers) or "none",
        remove_unused_columns=False,
        use_cache=True,  # of the model that is saved; there is no cache in training
        project=PROJECT,
        run_name=folder.path.name,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # else one process would use all by DataParallel
    return arguments


class TrainingData(Dataset[Any]):
    """Window ``index`` of the run: step s of a batch of n sees s·n to s·n + n − 1."""

    def __init__(self, windows: Examples, config: TrainConfig) -> None:
        self._windows = windows
        self._count = config.steps * config.batch_sequences

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._windows.window(index)

    @property
    def epochs(self) -> float:
        """How often the run goes through its text."""
        return self._count / len(self._windows)


class TrainableModel(Protocol):
    """What is trained: a module around the emitted ``model``, as an objective makes it."""

    @property
    def model(self) -> Any: ...
    @property
    def set_checkpointing(self) -> Callable[..., None]: ...
    @property
    def save_pretrained(self) -> Callable[..., Any]: ...
    @property
    def state_dict(self) -> Callable[..., dict[str, Any]]: ...
    @property
    def parameters(self) -> Callable[..., Iterator[nn.Parameter]]: ...


class RinscTrainer(Trainer):
    """Trains a model in place, into a run folder, as its settings say."""

    def __init__(
        self,
        model: Any,
        data: TrainingData,
        collate: Callable[[Sequence[Any]], dict[str, torch.Tensor]],
        config: TrainConfig,
        folder: RunFolder,
        devices: Devices,
        depths: Depths,
        stop: StopOnSignal,
        *,
        trackers: tuple[str, ...] = (),
    ) -> None:
        self.config, self.run_folder, self.devices, self.depths = config, folder, devices, depths
        self.module, self.data, self._stop = model, data, stop
        self.loss_nats, self.gradient_norm = math.nan, math.nan
        self.measured: Metrics | None = None  # at the last step, for its checkpoint
        self._losses: list[torch.Tensor] = []
        super().__init__(
            model,
            training_arguments(config, folder, devices, trackers),
            data_collator=collate,
            train_dataset=data,
            callbacks=[stop],
        )
        self.remove_callback(PrinterCallback)  # what a person sees is the observer's
        # The model comes on its devices already spread over them: nothing is to be wrapped again.
        self.is_distributed_loading_by_transformers = devices.count > 1
        self.model_wrapped = devices.spread(model)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        """The data is in the order of the run."""
        return SequentialSampler(self.data)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            emitted = self.module.model
            self.optimizer = build_optimizer(emitted, emitted.graph, self.config)
        return self._plain_optimizer()

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        if self.lr_scheduler is None:
            share = partial(learning_rate_share, self.config)
            self.lr_scheduler = LambdaLR(self._plain_optimizer(), share)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Ours, around the forward pass alone: accelerate's would also copy all logits to fp32."""
        return autocast(self.args.device, self.config.precision)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *given: Any, **named: Any
    ) -> Any:
        """The Trainer's, at the rounds and with the noise of this step: the same on every rank."""
        targets = named.get("num_items_in_batch")
        if isinstance(targets, torch.Tensor):  # none where every document has one token
            named["num_items_in_batch"] = targets.clamp(min=1)
        step = self.state.global_step
        inputs = {**inputs, "rounds": self.depths.rounds(step)}
        if self.module.model.takes_noise_seed:
            # The batch is its parts in a row, and each part the shares of the ranks in a row.
            part = len(self._losses) * self.devices.count + self.devices.rank
            first_row = part * len(inputs["labels"])
            inputs["noise_seed"] = self.depths.noise_seed(step, first_row)
        return super().compute_loss(model, inputs, *given, **named)

    def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*given, **named)
        self._losses.append(loss)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of one part of the batch on one rank, from our costs; the Trainer sums them up."""
        parts = self.config.accumulate * self.devices.count
        return self.depths.flops(self.state.global_step) // parts

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Clips, and stops before anything that is not finite reaches the weights."""
        norm: torch.Tensor = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        loss = torch.stack(self._losses).sum()
        self._losses.clear()
        told = self.devices.mean(torch.stack([loss, loss.new_tensor(self._stop.was_asked)]))
        self.loss_nats, stops, self.gradient_norm = [*told.tolist(), float(whole.detach())]
        self._stop.agreed = stops > 0
        if not (math.isfinite(self.loss_nats) and math.isfinite(self.gradient_norm)):
            raise self._diverged()
        return norm

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Sharded gradients are reduced with the last part of a batch."""
        sharded = cast(FSDPModule, self.model_wrapped)
        sharded.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            sharded.set_requires_gradient_sync(True)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """All of the state at this step, as one folder that appears whole."""
        folder, step = self.run_folder.path, self.state.global_step
        self.store_flos()
        part = part_of(folder, step)
        self.devices.on_first(lambda: start_part(folder, step))
        with writing_errors(part):
            if self.devices.shard:
                optimizers = each_optimizer(self._plain_optimizer())
                save_sharded(part / SHARDED, self.module, optimizers, {})
            else:
                self.devices.on_first(lambda: self._write_whole(step))
            self._save_rng_state(str(part))
        self.devices.wait()
        self.devices.on_first(lambda: self._finish_checkpoint(step))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """For trackers; the run's own record is its metrics, so that no history is kept here."""
        done = self.state.global_step / self.config.steps
        self.state.epoch = done * self.data.epochs  # the Trainer takes the whole run for one
        super().log(logs, start_time)
        self.state.log_history.clear()

    def _write_whole(self, step: int) -> None:
        part = part_of(self.run_folder.path, step)
        with writing_errors(part), _no_progress_bars():
            self.module.save_pretrained(part)
            torch.save(self._plain_optimizer().state_dict(), part / OPTIMIZER)
            torch.save(self._schedule().state_dict(), part / SCHEDULER)

    def _finish_checkpoint(self, step: int) -> None:
        with writing_errors(part_of(self.run_folder.path, step)):
            part = part_of(self.run_folder.path, step)
            self.state.save_to_json(str(part / "trainer_state.json"))
            if self.measured is not None:
                write_atomically(part / METRICS, self.measured.to_json() + "\n")
        publish(self.run_folder.path, step, self.config.keep)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights; those that are or will be in shards are read with the optimizer."""
        check_torch_files(Path(resume_from_checkpoint))
        if not (self.devices.shard or self._is_sharded(resume_from_checkpoint)):
            with _reading(resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            self._load_moments(checkpoint)

    def _load_moments(self, checkpoint: str | None) -> None:
        sharded = checkpoint is not None and self._is_sharded(checkpoint)
        if checkpoint is None or not (self.devices.shard or sharded):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizers = each_optimizer(self._plain_optimizer())
        if sharded:
            load_sharded(f"{checkpoint}/{SHARDED}", self.module, optimizers)
        else:
            shard_weights(self.module, load_file(f"{checkpoint}/{WEIGHTS}"))
            state = torch.load(f"{checkpoint}/{OPTIMIZER}", weights_only=True, mmap=True)
            shard_moments(optimizers, each_state(state))
        if isinstance(pair := self._plain_optimizer(), OptimizerPair):
            pair.adopt_groups()
        # The schedule is a function of the step.
        self._schedule().last_epoch = self.state.global_step - 1
        self._schedule().step()

    def _is_sharded(self, checkpoint: str) -> bool:
        return any(
            str(each.path) == checkpoint and each.is_sharded
            for each in checkpoints(self.run_folder.path)
        )

    def learning_rate_of(self, step: int) -> float:
        """The highest rate of ``step``, counted from 0; blocks may have shares of it."""
        return learning_rate(self.config, step)

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of PyTorch inside accelerate's."""
        return cast(torch.optim.Optimizer, getattr(self.optimizer, "optimizer", self.optimizer))

    def _schedule(self) -> LambdaLR:
        return cast(LambdaLR, self.lr_scheduler)

    def _diverged(self) -> RinscError:
        step = self.state.global_step + 1
        kept = checkpoints(self.run_folder.path)
        where = "no checkpoint had been written yet"
        if kept:
            where = f"the last good checkpoint is that of step {kept[-1].step}"
        message = f"step {step} gave loss {self.loss_nats} and gradient norm {self.gradient_norm}"
        hint = f"lower the learning rate or lengthen its warm-up; {where}"
        return RinscError("loss-not-finite", message, hint=hint)


@contextmanager
def _reading(checkpoint: str | None) -> Iterator[None]:
    """What libraries raise over a checkpoint that is damaged or foreign becomes one error."""
    try:
        yield
    except (RinscError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"cannot go on from this checkpoint: {reason[:200]}"
        hint = "remove it: the run then goes on from the one before; or begin with --overwrite"
        raise CheckpointError("damaged-checkpoint", message, place=checkpoint, hint=hint) from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Saving is quick, and its bar would stand in the middle of ours."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
