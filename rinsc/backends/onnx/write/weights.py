"""Weights by name as numpy arrays, from whatever holds them, checked against the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.errors import CheckpointError, Problem
from rinsc.graph import BlockGraph
from rinsc.layers import weight_shapes

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
# By the name of a matrix: sums over tokens of products of what it is multiplied with (in, in).
Moments: TypeAlias = Callable[[str], npt.NDArray[np.float32] | None]


class HasStateDict(Protocol):
    """A module: its weights by name, as tensors or arrays."""

    def state_dict(self) -> Mapping[str, Any]: ...


def weights_of(graph: BlockGraph, source: HasStateDict | Mapping[str, Any]) -> Weights:
    """The weights that ``graph`` needs, in float32; arrays share memory where they can.

    Raises `CheckpointError` for weights that are missing, left over or of another shape.
    """
    named = source if isinstance(source, Mapping) else source.state_dict()
    needed = weight_shapes(graph)
    problems = [_problem(f"the weight '{name}' is missing") for name in needed if name not in named]
    problems += [
        _problem(f"the weight '{name}' is not one of this model")
        for name in named
        if name not in needed
    ]
    problems += [
        _problem(f"the weight '{name}' holds no numbers; it is on the device 'meta'")
        for name in named
        if getattr(named[name], "is_meta", False)
    ]
    if problems:
        raise CheckpointError.of(*problems)
    weights = {name: _as_array(named[name]) for name in needed}
    problems += [
        _problem(f"the weight '{name}' is {array.shape}; the model has {needed[name]}")
        for name, array in weights.items()
        if array.shape != needed[name]
    ]
    if problems:
        raise CheckpointError.of(*problems)
    return weights


def no_moments(name: str) -> None:
    """Where nothing is known of what matrices are multiplied with."""
    return None


def _as_array(tensor: Any) -> npt.NDArray[np.float32]:
    if hasattr(tensor, "detach"):
        # numpy has no bfloat16; float() leaves a float32 tensor as it is, without a copy.
        tensor = tensor.detach().cpu().float().numpy()
    return np.asarray(tensor, dtype=np.float32)


def _problem(message: str) -> Problem:
    return Problem("wrong-weights", message, hint="take the weights of a model of the same spec")
