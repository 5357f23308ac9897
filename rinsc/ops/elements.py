"""Operations on each element, norms, and operations that move elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from rinsc.errors import GraphError, plural
from rinsc.ops.base import Op, Param, Shape, require_one_of, static

Function: TypeAlias = Literal["silu", "gelu_tanh", "gelu", "relu", "sigmoid", "tanh"]


@dataclass(frozen=True)
class Activation(Op):
    """A function of each element. ``gelu`` is exact, ``gelu_tanh`` the tanh form of
    arXiv 1606.08415, section 2."""

    function: Function

    def __post_init__(self) -> None:
        require_one_of(self.function, get_args(Function), "a function of elements")

    @property
    def saves_inputs(self) -> bool:  # type: ignore[override]  # differs between functions
        return not self.saves_output

    @property
    def saves_output(self) -> bool:  # type: ignore[override]
        """Of some functions the result alone gives the derivative: 1 − tanh² of tanh."""
        return self.function in ("relu", "sigmoid", "tanh")


@dataclass(frozen=True)
class Add(Op):
    """Sum of two inputs; the second may lack leading dimensions."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


@dataclass(frozen=True)
class Sub(Op):
    """First input minus the second; the second may lack leading dimensions."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


@dataclass(frozen=True)
class Mul(Op):
    """Product of two inputs, element by element; the second may lack leading dimensions."""

    saves_inputs: ClassVar[bool] = True

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


@dataclass(frozen=True)
class Scale(Op):
    """x times a constant."""

    factor: float


@dataclass(frozen=True)
class Weigh(Op):
    """x times a trained vector over the last dimension, which starts as ones."""

    saves_inputs: ClassVar[bool] = True

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (static(shapes[0][-1]),), "ones"),)


@dataclass(frozen=True)
class ZerosLike(Op):
    """Zeros in the shape of the input."""


@dataclass(frozen=True)
class Noise(Op):
    """Standard normal numbers in the shape of a state (batch, seq, width), from a seed ().

    A third input gives the positions (batch, seq) where they do not start at 0. A number depends
    on the seed and on its own place alone: the same in every runtime, in a
    longer sequence and in a larger batch. Not differentiable.
    """


@dataclass(frozen=True)
class Concat(Op):
    """Two inputs side by side over the last dimension."""

    def output_shape(self, *shapes: Shape) -> Shape:
        left, right = shapes
        if left[:-1] != right[:-1]:
            message = f"shapes {left} and {right} cannot stand side by side"
            hint = "all dimensions but the last must be equal"
            raise GraphError("shapes-differ", message, hint=hint)
        return (*left[:-1], static(left[-1]) + static(right[-1]))


@dataclass(frozen=True)
class Shift(Op):
    """Each position of (batch, seq, width) gets what stood ``steps`` before; the first get zeros.

    Raises `GraphError` for steps below 0, which would show a position what comes after it.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            message = f"a shift by {plural(self.steps, 'step')} would look ahead"
            raise GraphError("bad-shift", message, hint="give 0 or more steps")


@dataclass(frozen=True)
class MeanPool(Op):
    """Mean over positions: (batch, seq, width) to (batch, width)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, _, width = shapes[0]
        return (batch, width)


def _same_trailing(left: Shape, right: Shape) -> Shape:
    """The first shape, once the second is known to end it."""
    if left[len(left) - len(right) :] != right:
        message = f"shapes {left} and {right} cannot be combined element by element"
        hint = "the second must equal the last dimensions of the first"
        raise GraphError("shapes-differ", message, hint=hint)
    return left


@dataclass(frozen=True)
class RMSNorm(Op):
    """x / rms(x) · weight over the last dimension (arXiv 1910.07467, equation 4)."""

    saves_inputs: ClassVar[bool] = True
    eps: float

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (static(shapes[0][-1]),), "ones"),)


@dataclass(frozen=True)
class UnitRMSNorm(Op):
    """x / rms(x) over the last dimension: `RMSNorm` without a trained scale."""

    saves_inputs: ClassVar[bool] = True
    eps: float


@dataclass(frozen=True)
class LayerNorm(Op):
    """(x − mean) / deviation · weight + bias over the last dimension (arXiv 1607.06450)."""

    saves_inputs: ClassVar[bool] = True
    eps: float

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        width = (static(shapes[0][-1]),)
        return (Param("weight", width, "ones"), Param("bias", width, "zeros"))
