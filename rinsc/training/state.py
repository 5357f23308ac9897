"""All that a run changes from step to step, written to a checkpoint and read back.

The files are those of transformers' Trainer, which trained the runs of rinsc 0.4.0 and 0.5.0, so
that these go on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rinsc.backends.torch.pickles import UnpicklingError, check_torch_files
from rinsc.backends.torch.sharded_checkpoint import (
    load_sharded,
    save_sharded,
    shard_moments,
    shard_weights,
)
from rinsc.backends.torch.weight_files import open_weights
from rinsc.errors import CheckpointError, RinscError
from rinsc.graph import BlockGraph, TowersGraph
from rinsc.storage.files import write_atomically
from rinsc.training.checkpoint import (
    METRICS,
    OPTIMIZER,
    RNG_STATES,
    SCHEDULER,
    SHARDED,
    TRAINER_STATE,
    WEIGHTS,
    Checkpoint,
    draft_of,
    is_of_its_step,
    publish,
    start_draft,
    writing_errors,
)
from rinsc.training.config import TrainConfig
from rinsc.training.devices import Devices
from rinsc.training.metrics import Metrics
from rinsc.training.optimizer import OptimizerPair, build_optimizer, each_optimizer, each_state
from rinsc.training.run_folder import overwriting
from rinsc.training.schedules import learning_rate_share, stable_steps


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
    def load_state_dict(self) -> Callable[..., Any]: ...
    @property
    def parameters(self) -> Callable[..., Iterator[nn.Parameter]]: ...


class TrainingState:
    """Weights, moments, the learning rate and the number of steps that are done.

    ``module`` is on its devices already, spread over them.
    """

    def __init__(self, module: TrainableModel, config: TrainConfig, devices: Devices) -> None:
        self.module, self.step = module, 0
        self._config, self._devices = config, devices
        self._optimizer = build_optimizer(module.model, module.model.graph, config)
        self._schedule = LambdaLR(self._optimizer, partial(learning_rate_share, config))

    def take_step(self) -> None:
        """Move the weights along their gradients, which go."""
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self.step += 1

    def save(self, folder: Path, metrics: Metrics) -> None:
        """Write everything as one folder that appears whole; every process calls it."""
        devices, draft = self._devices, draft_of(folder, self.step)
        devices.on_first(lambda: start_draft(folder, self.step))
        with writing_errors(draft):
            if devices.shard:
                save_sharded(draft / SHARDED, cast(nn.Module, self.module), self._optimizers, {})
            elif devices.is_first:
                self._write_whole(draft)
            torch.save(_random_states(devices), draft / _random_file(devices))
        devices.wait()
        devices.on_first(lambda: self._publish(folder, metrics))

    @property
    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return each_optimizer(self._optimizer)

    def _write_whole(self, draft: Path) -> None:
        with _no_progress_bars():
            self.module.save_pretrained(draft)
        torch.save(self._optimizer.state_dict(), draft / OPTIMIZER)
        torch.save(self._schedule.state_dict(), draft / SCHEDULER)

    def _publish(self, folder: Path, metrics: Metrics) -> None:
        draft = draft_of(folder, self.step)
        facts = {
            "global_step": self.step,
            "max_steps": self._config.steps,
            "total_flos": metrics.training_flops,
            "train_batch_size": self._config.batch_sequences
            // (self._config.accumulate * self._devices.count),
        }
        with writing_errors(draft):
            write_atomically(draft / TRAINER_STATE, json.dumps(facts, indent=2) + "\n")
            write_atomically(draft / METRICS, metrics.to_json() + "\n")
        publish(folder, self.step, self._config.keep, stable_steps(self._config))

    def restore(self, start: Checkpoint) -> None:
        """Take everything from a checkpoint; raises CheckpointError for one that is damaged."""
        check_torch_files(start.path)
        with _reading(start.path):
            if start.is_sharded or self._devices.shard:
                self._restore_spread(start)
            else:
                weights = load_file(start.path / WEIGHTS)
                self.module.load_state_dict(weights, strict=False)  # one that is tied is there once
                self._optimizer.load_state_dict(_load(start.path / OPTIMIZER, mapped=False))
                self._schedule.load_state_dict(_load(start.path / SCHEDULER))
            _restore_random_states(start.path / _random_file(self._devices))
        self.step = start.step

    def _restore_spread(self, start: Checkpoint) -> None:
        """From shards, or into them."""
        module, path = cast(nn.Module, self.module), start.path
        if start.is_sharded:
            load_sharded(path / SHARDED, module, self._optimizers)
        else:
            shard_weights(module, load_file(path / WEIGHTS))
            shard_moments(self._optimizers, each_state(_load(path / OPTIMIZER)))
        if isinstance(self._optimizer, OptimizerPair):
            self._optimizer.adopt_groups()
        # The schedule is a function of the step.
        self._schedule.last_epoch = start.step - 1
        self._schedule.step()


def _random_file(devices: Devices) -> str:
    return "rng_state.pth" if devices.count == 1 else f"rng_state_{devices.rank}.pth"


def _random_states(devices: Devices) -> dict[str, Any]:
    """Of every generator of this process."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        several = devices.count > 1
        states["cuda"] = (
            torch.cuda.get_rng_state_all() if several else torch.cuda.get_rng_state(devices.device)
        )
    return states


def _restore_random_states(path: Path) -> None:
    """Nothing of a step depends on them. A run that goes on over another number of processes has
    no file of its own, and leaves them as they are."""
    if not path.is_file():
        return
    states = _load(path)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.random.set_rng_state(states["cpu"])
    on_gpus = states.get("cuda")
    if on_gpus is not None and torch.cuda.is_available():
        if isinstance(on_gpus, torch.Tensor):
            torch.cuda.set_rng_state(on_gpus)
        else:
            torch.cuda.set_rng_state_all(on_gpus)


# What reading a damaged or foreign file with ``weights_only`` raises, and using what it holds.
READING = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
SETTINGS = {"weight_decay", "betas", "eps", "momentum", "nesterov"}  # of a group, from the config


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What libraries raise over a checkpoint that is damaged or foreign becomes one error."""
    try:
        yield
    except (RinscError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"cannot go on from this checkpoint: {reason[:200]}"
        hint = "remove it: the run then goes on from the one before; or begin with "
        hint += overwriting()
        raise CheckpointError("damaged-checkpoint", message, place=str(path), hint=hint) from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Saving is quick, and its bar would stand in the middle of ours."""
    from transformers.utils import logging

    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if is_shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def why_unusable(
    checkpoint: Checkpoint, model: nn.Module, graph: BlockGraph | TowersGraph, config: TrainConfig
) -> str | None:
    """What of a checkpoint is not of a run of ``model``, in words; None where all of it is.

    A manifest says that files are as they were written. It cannot say that they belong here: a
    file that was put there with a manifest of its own is found by its content.
    ``model`` is the model of transformers around the emitted module of ``graph``. Files are mapped,
    not read as a whole. Of a checkpoint in shards only the random numbers are looked at.
    """
    state = checkpoint.trainer_state.name
    checks: dict[str, Callable[[Path], bool]] = {state: lambda path: is_of_its_step(checkpoint)}
    if not checkpoint.is_sharded:
        checks[WEIGHTS] = lambda path: _are_weights(path, model)
        checks[OPTIMIZER] = lambda path: _are_moments(path, model, graph, config)
        checks[SCHEDULER] = lambda path: _load(path)["last_epoch"] == checkpoint.step
    checks |= {path.name: _is_rng_state for path in checkpoint.path.glob(RNG_STATES)}
    try:
        check_torch_files(checkpoint.path)
    except RinscError as error:
        return error.message
    for name, holds in checks.items():
        try:
            if holds(checkpoint.path / name):
                continue
        except (*READING, RinscError, UnpicklingError):
            pass
        return f"{name} is damaged or of another run"
    return None


# What a random state of numpy is made of.
_ARRAYS: list[Any] = [np.empty(0).__reduce__()[0], np.ndarray, np.dtype, type(np.dtype(np.uint32))]


def _load(path: Path, *, mapped: bool = True) -> Any:
    """What ``torch.save`` wrote: tensors and plain values, never code."""
    with torch.serialization.safe_globals(_ARRAYS):
        return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)


def _are_weights(path: Path, model: nn.Module) -> bool:
    """Every tensor of the model, of its shape; one that is tied may stand there once."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with open_weights(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    storages = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    there = {storages[name] for name in shapes if name in storages}
    return all(own.get(name) == shape for name, shape in shapes.items()) and all(
        storages[name] in there for name in own.keys() - shapes.keys()
    )


def _are_moments(
    path: Path, model: nn.Module, graph: BlockGraph | TowersGraph, config: TrainConfig
) -> bool:
    """The same groups of parameters, and for each a state of its shape."""
    inner = model.get_submodule("model")
    optimizers = each_optimizer(build_optimizer(inner, graph, config))
    states = each_state(_load(path))
    if len(states) != len(optimizers):
        return False
    for optimizer, state in zip(optimizers, states, strict=True):
        own = [dict(group) for group in optimizer.param_groups]
        parameters = {
            index: parameter
            for group, mine in zip(state["param_groups"], own, strict=True)
            for index, parameter in zip(group["params"], mine["params"], strict=True)
        }
        optimizer.load_state_dict({"state": {}, "param_groups": state["param_groups"]})
        if any(
            group[key] != mine[key]
            for group, mine in zip(optimizer.param_groups, own, strict=True)
            for key in SETTINGS & mine.keys()
        ):
            return False
        if not state["state"] or not all(
            _fits(values, parameters[index]) for index, values in state["state"].items()
        ):
            return False
    return True


def _fits(values: Mapping[str, Any], parameter: torch.Tensor) -> bool:
    """Moments in the shape of their parameter, and a count."""
    shapes = {
        tuple(value.shape) if isinstance(value, torch.Tensor) else () for value in values.values()
    }
    return bool(values) and tuple(parameter.shape) in shapes <= {(), tuple(parameter.shape)}


def _is_rng_state(path: Path) -> bool:
    """Whether each generator takes its state; those of the process are not touched."""
    states = _load(path)
    random.Random().setstate(states["python"])
    np.random.RandomState().set_state(states["numpy"])
    torch.Generator().set_state(states["cpu"])
    return True
