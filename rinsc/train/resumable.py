"""Whether what stands in a checkpoint is the state of this very run: its weights, its optimizer,
its random numbers.

A manifest says that files are as they were written. It cannot say that they belong here: a file
that was put there with a manifest of its own, or that another run wrote, is found by its content.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.trainer_pt_utils import safe_globals

from rinsc.backends.torch.pickles import UnpicklingError, check_torch_files
from rinsc.backends.torch.weights import open_weights
from rinsc.errors import RinscError
from rinsc.graph import BlockGraph
from rinsc.train.checkpoint import (
    OPTIMIZER,
    RNG_STATES,
    SCHEDULER,
    WEIGHTS,
    Checkpoint,
    is_of_its_step,
)
from rinsc.train.config import TrainConfig
from rinsc.train.optimizer import build_optimizer, each_optimizer, each_state

# What reading a damaged or foreign file with ``weights_only`` raises, and using what it holds.
SETTINGS = {"weight_decay", "betas", "eps", "momentum", "nesterov"}  # of a group, from the config
READING = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def why_unusable(
    checkpoint: Checkpoint, model: nn.Module, graph: BlockGraph, config: TrainConfig
) -> str | None:
    """What of a checkpoint is not of a run of ``model``, in words; None where all of it is.

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


def _load(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors and plain values, never code."""
    with safe_globals():  # type: ignore[no-untyped-call]
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)


def _are_weights(path: Path, model: nn.Module) -> bool:
    """Every tensor of the model, of its shape; one that is tied may stand there once."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with open_weights(path) as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    storages = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    there = {storages[name] for name in found if name in storages}
    return all(own.get(name) == shape for name, shape in found.items()) and all(
        storages[name] in there for name in own.keys() - found.keys()
    )


def _are_moments(path: Path, model: nn.Module, graph: BlockGraph, config: TrainConfig) -> bool:
    """The same groups of parameters, and for each a state of its shape."""
    inner = model.get_submodule("model")
    optimizers = each_optimizer(build_optimizer(inner, graph, config))
    states = each_state(_load(path))
    if len(states) != len(optimizers):
        return False
    for optimizer, state in zip(optimizers, states, strict=True):
        own = [dict(group) for group in optimizer.param_groups]
        places = {
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
            _fits(values, places[index]) for index, values in state["state"].items()
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
