"""What an operation is: a shape rule, parameters and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from rinsc.errors import GraphError, did_you_mean

Dim: TypeAlias = int | str  # a name stands for a size known at run time: "batch", "seq"
Shape: TypeAlias = tuple[Dim, ...]
Sizes: TypeAlias = tuple[int, ...]
Causal: TypeAlias = Literal["full", "half"]
Init: TypeAlias = Literal["normal", "residual", "ones", "zeros", "identity", "sum"]


@dataclass(frozen=True)
class Param:
    """A trained tensor.

    ``residual`` is ``normal``, scaled down by the executed depth; of a matrix (w, 2·w),
    ``identity`` is [I 0] and ``sum`` is [I I].
    """

    name: str
    shape: Sizes
    init: Init

    def __post_init__(self) -> None:
        require_one_of(self.init, get_args(Init), "a weight's start")

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Op:
    """One primitive operation. Shapes are those of its inputs, in order."""

    saves_inputs: ClassVar[bool] = False  # kept for the backward pass
    saves_output: ClassVar[bool] = False
    owns_table: ClassVar[bool] = False  # a table that is not trained; the operation needs a name

    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the result; by default that of the first input."""
        return shapes[0]

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        """Trained tensors, named below the node that owns them."""
        return ()

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        """FLOPs of matrix products, 2 a multiply-add; all else counts as 0."""
        return 0


def require_one_of(value: object, known: Sequence[str], what: str) -> None:
    """Raises `GraphError` for a setting of an operation that is not one of those known."""
    if value not in known:
        message = f"{value!r:.40} is not {what}"
        hint = did_you_mean(str(value), known)
        raise GraphError("bad-operation", message, hint=hint)


def static(dim: Dim) -> int:
    """A size that parameters depend on; it cannot be left to run time."""
    if isinstance(dim, str):
        raise TypeError(f"dimension '{dim}' is only known at run time")
    return dim


def at_sizes(shape: Shape, sizes: Sequence[tuple[str, int]]) -> Sizes:
    """The shape with its named dimensions replaced: ``at_sizes(s, [("batch", 1), ("seq", 8)])``."""
    known = dict(sizes)
    return tuple(known[dim] if isinstance(dim, str) else dim for dim in shape)
