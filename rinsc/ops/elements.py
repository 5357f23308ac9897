"""Operations on each element, norms, and operations that move elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from rinsc.errors import GraphError, plural
from rinsc.ops.base import Init, Kept, Op, Param, Shape, require_one_of, static

Function: TypeAlias = Literal["silu", "gelu_tanh", "gelu", "relu", "sigmoid", "tanh", "exp"]


@dataclass(frozen=True)
class Activation(Op, reach="own", needs="nothing", parts="any"):
    """A function of each element. ``gelu`` is exact, ``gelu_tanh`` the tanh form of
    arXiv 1606.08415, section 2."""

    function: Function

    def __post_init__(self) -> None:
        require_one_of(self.function, get_args(Function), "a function of elements")

    @property
    def kept(self) -> Kept:  # type: ignore[override]  # differs between functions
        """Of some functions the result alone gives the derivative: 1 − tanh² of tanh."""
        return "output" if self.function in ("relu", "sigmoid", "tanh", "exp") else "inputs"


@dataclass(frozen=True)
class Softmax(Op, reach="own", needs="nothing", parts="never", kept="output"):
    """exp(x) over its sum in the last dimension."""


@dataclass(frozen=True)
class Largest(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """1 where x is one of the ``count`` largest of the last dimension, else 0: what a router
    chooses. Not differentiable."""

    count: int = 1

    def output_shape(self, *shapes: Shape) -> Shape:
        if not 1 <= self.count <= static(shapes[0][-1]):
            message = f"{self.count} of {shapes[0][-1]} cannot be the largest"
            raise GraphError("bad-operation", message, hint="choose at least 1 and at most all")
        return shapes[0]


@dataclass(frozen=True)
class Stretch(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """Each element of the last dimension so many ``times`` in a row: (…, n) to (…, n · times)."""

    times: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], static(shapes[0][-1]) * self.times)


@dataclass(frozen=True)
class Add(Op, reach="own", needs="nothing", parts="alike", kept="nothing"):
    """Sum of two inputs; the second may lack leading dimensions."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


@dataclass(frozen=True)
class Sub(Op, reach="own", needs="nothing", parts="alike", kept="nothing"):
    """First input minus the second; the second may lack leading dimensions."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


@dataclass(frozen=True)
class Mul(Op, reach="own", needs="nothing", parts="alike", kept="inputs"):
    """Product of two inputs, element by element; the second may lack leading dimensions."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


@dataclass(frozen=True)
class Scale(Op, reach="own", needs="nothing", parts="any", kept="nothing"):
    """x times a constant."""

    factor: float


@dataclass(frozen=True)
class Weigh(Op, reach="own", needs="nothing", parts="never", kept="inputs"):
    """x times a trained vector over the last dimension, which starts as ones."""

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (static(shapes[0][-1]),), "ones"),)


@dataclass(frozen=True)
class ZerosLike(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """Zeros in the shape of the input."""


@dataclass(frozen=True)
class Noise(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """Standard normal numbers in the shape of a state (batch, seq, width), from a seed ().

    A third input gives the positions (batch, seq) where they do not start at 0. A number depends
    on the seed and on its own place alone: the same in every runtime, in a
    longer sequence and in a larger batch. Not differentiable.
    """


@dataclass(frozen=True)
class Concat(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """Two inputs side by side over the last dimension."""

    def output_shape(self, *shapes: Shape) -> Shape:
        left, right = shapes
        if left[:-1] != right[:-1]:
            message = f"shapes {left} and {right} cannot stand side by side"
            hint = "all dimensions but the last must be equal"
            raise GraphError("shapes-differ", message, hint=hint)
        return (*left[:-1], static(left[-1]) + static(right[-1]))


@dataclass(frozen=True)
class Shift(Op, reach="earlier", needs="everything", parts="never", kept="nothing"):
    """Each position of (batch, seq, width) gets what stood ``steps`` before; the first get zeros.

    Raises `GraphError` for steps below 0, which would show a position what comes after it.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            message = f"a shift by {plural(self.steps, 'step')} would look ahead"
            raise GraphError("bad-shift", message, hint="give 0 or more steps")


@dataclass(frozen=True)
class MeanPool(Op, reach="any", needs="everything", parts="never", kept="nothing"):
    """Mean over positions: (batch, seq, width) to (batch, width)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, _, width = shapes[0]
        return (batch, width)


@dataclass(frozen=True)
class AtPosition(Op, reach="any", needs="everything", parts="never", kept="view"):
    """The state at one position, of which -1 is the last: (batch, seq, width) to (batch, width)."""

    index: int

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, _, width = shapes[0]
        return (batch, width)


@dataclass(frozen=True)
class UnitLength(Op, reach="own", needs="nothing", parts="never", kept="inputs"):
    """x over its length in the last dimension."""


@dataclass(frozen=True)
class TokenMean(Op, reach="any", needs="everything", parts="never", kept="nothing"):
    """Mean over all tokens of the batch: (batch, seq, n) to (n,); for an `AuxiliaryLoss`."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0][-1:]


@dataclass(frozen=True)
class AuxiliaryLoss(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """The first input as it is; in training the sum of the second, times ``weight``, is added to
    the loss of the step, once for each visit. Only the layers of a kind have it.

    What the second input is made of may look ahead, as nothing but the loss depends on it.
    """

    weight: float


def _same_trailing(left: Shape, right: Shape) -> Shape:
    """The first shape, once the second is known to end it."""
    if left[len(left) - len(right) :] != right:
        message = f"shapes {left} and {right} cannot be combined element by element"
        hint = "the second must equal the last dimensions of the first"
        raise GraphError("shapes-differ", message, hint=hint)
    return left


@dataclass(frozen=True)
class RMSNorm(Op, reach="own", needs="nothing", parts="never", kept="norm"):
    """x / rms(x) · weight over the last dimension (arXiv 1910.07467, equation 4).

    With an ``offset`` of 1 the weight is the distance from 1, as Gemma keeps it.
    """

    eps: float
    offset: Literal[1] | None = None

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        start: Init = "zeros" if self.offset else "ones"
        return (Param("weight", (static(shapes[0][-1]),), start),)


@dataclass(frozen=True)
class UnitRMSNorm(Op, reach="own", needs="nothing", parts="never", kept="norm"):
    """x / rms(x) over the last dimension: `RMSNorm` without a trained scale."""

    eps: float

    def works_on_parts(self, cut: Sequence[bool], *shapes: Shape) -> bool:
        """Heads may be cut, what the norm runs over not."""
        return len(shapes[0]) == 4


@dataclass(frozen=True)
class LayerNorm(Op, reach="own", needs="nothing", parts="never", kept="norm"):
    """(x − mean) / deviation · weight + bias over the last dimension (arXiv 1607.06450)."""

    eps: float

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        width = (static(shapes[0][-1]),)
        return (Param("weight", width, "ones"), Param("bias", width, "zeros"))
