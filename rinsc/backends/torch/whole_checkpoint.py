"""Spread weights and optimizer states that one process wrote whole over the shards of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def shard_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Fill a sharded model with whole weights of the same names; every process has them all."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, dict(weights), options=options)


def shard_moments(optimizers: Iterable[Optimizer], states: Iterable[Mapping[str, Any]]) -> None:
    """Fill optimizers of a sharded model with the state dicts of optimizers built alike over the
    whole model; every process has them all."""
    for optimizer, state in zip(optimizers, states, strict=True):
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        spread = {
            index: {key: _like(parameters[index], value) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": spread})


def _like(parameter: torch.Tensor, value: Any) -> Any:
    """A moment, which has the shape of its parameter, spread as that is; a count as it is."""
    is_moment = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    if not (is_moment and isinstance(parameter, DTensor)):
        return value
    place = parameter.device
    return distribute_tensor(
        value.to(place), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
