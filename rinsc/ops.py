"""The closed set of primitive operations: for each its shape rule, its parameters and its FLOPs.

Everything else (layers, costs, PyTorch, ONNX) is derived from these. A new operation is one class
here and one function in each backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from rinsc.errors import GraphError, Problem

Dim: TypeAlias = int | str  # a name stands for a size known at run time: "batch", "seq"
Shape: TypeAlias = tuple[Dim, ...]
Sizes: TypeAlias = tuple[int, ...]
Causal: TypeAlias = Literal["full", "half"]
Init: TypeAlias = Literal["normal", "residual", "ones", "zeros"]


@dataclass(frozen=True)
class Param:
    """A trained tensor. ``residual`` is ``normal``, scaled down by the executed depth."""

    name: str
    shape: Sizes
    init: Init

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Op:
    """One primitive operation. Shapes are those of its inputs, in order."""

    saves_inputs: ClassVar[bool] = False  # kept for the backward pass
    saves_output: ClassVar[bool] = False

    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the result; by default that of the first input."""
        return shapes[0]

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        """Trained tensors, named below the node that owns them."""
        return ()

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        """FLOPs of matrix products, 2 a multiply-add; all else counts as 0."""
        return 0


@dataclass(frozen=True)
class Embedding(Op):
    """Rows of a table by token id: (batch, seq) to (batch, seq, width). A lookup costs nothing."""

    rows: int
    width: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.width)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.rows, self.width), "normal"),)


@dataclass(frozen=True)
class Positions(Op):
    """A learned row for each position: token ids (batch, seq) to (seq, width)."""

    context: int
    width: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][1], self.width)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.context, self.width), "normal"),)


@dataclass(frozen=True)
class RotaryTable(Op):
    """Cosines or sines of rotary angles: token ids (batch, seq) to (seq, head_dim / 2).

    Angle of position p and pair i: p · theta^(−2i / head_dim) (RoFormer, arXiv 2104.09864, 3.2.2).
    """

    function: Literal["cos", "sin"]
    theta: float
    head_dim: int
    context: int

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.head_dim % 2:
            message = f"rotary positions need an even head width, not {self.head_dim}"
            hint = "change 'heads' or 'width'"
            raise GraphError(Problem("odd-head-width", message, place="heads", hint=hint))
        return (shapes[0][1], self.head_dim // 2)


@dataclass(frozen=True)
class Linear(Op):
    """A matrix product over the last dimension: (…, in) to (…, out)."""

    saves_inputs: ClassVar[bool] = True
    out_features: int
    bias: bool = False
    init: Init = "normal"

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.out_features)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        weight = Param("weight", (self.out_features, _static(shapes[0][-1])), self.init)
        return (weight, Param("bias", (self.out_features,), "zeros")) if self.bias else (weight,)

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        return 2 * math.prod(sizes[0]) * self.out_features


@dataclass(frozen=True)
class TiedLinear(Op):
    """`Linear` with the table of an `Embedding` that stands elsewhere: (…, width) to (…, rows)."""

    saves_inputs: ClassVar[bool] = True
    owner: str
    rows: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.rows)

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        return 2 * math.prod(sizes[0]) * self.rows


@dataclass(frozen=True)
class RMSNorm(Op):
    """x / rms(x) · weight over the last dimension (arXiv 1910.07467, equation 4)."""

    saves_inputs: ClassVar[bool] = True
    eps: float

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (_static(shapes[0][-1]),), "ones"),)


@dataclass(frozen=True)
class LayerNorm(Op):
    """(x − mean) / deviation · weight + bias over the last dimension (arXiv 1607.06450)."""

    saves_inputs: ClassVar[bool] = True
    eps: float

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        width = (_static(shapes[0][-1]),)
        return (Param("weight", width, "ones"), Param("bias", width, "zeros"))


@dataclass(frozen=True)
class SplitHeads(Op):
    """(batch, seq, heads · head_dim) to (batch, heads, seq, head_dim)."""

    heads: int

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, seq, width = shapes[0]
        return (batch, self.heads, seq, _static(width) // self.heads)


@dataclass(frozen=True)
class MergeHeads(Op):
    """(batch, heads, seq, head_dim) to (batch, seq, heads · head_dim)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, heads, seq, head_dim = shapes[0]
        return (batch, seq, _static(heads) * _static(head_dim))


@dataclass(frozen=True)
class Rope(Op):
    """Rotate the halves of each head by its position; inputs: x, cosines, sines."""


@dataclass(frozen=True)
class Attention(Op):
    """Causal softmax attention; inputs: query, key, value, each (batch, heads, seq, head_dim).

    Keys and values may have fewer heads, each shared by a group of query heads (grouped-query
    attention, arXiv 2305.13245). ``full`` counts every pair of positions, ``half`` only the
    seq · (seq + 1) / 2 that the mask lets through.
    """

    saves_inputs: ClassVar[bool] = True
    saves_output: ClassVar[bool] = True

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        batch, heads, seq, head_dim = sizes[0]
        pairs = seq * seq if causal == "full" else seq * (seq + 1) // 2
        return 4 * batch * heads * pairs * head_dim


@dataclass(frozen=True)
class Activation(Op):
    """A function of each element. ``gelu_tanh`` is the tanh form of arXiv 1606.08415, section 2."""

    saves_inputs: ClassVar[bool] = True
    function: Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class Add(Op):
    """Sum of two inputs; the second may lack leading dimensions."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


@dataclass(frozen=True)
class Mul(Op):
    """Product of two inputs, element by element; the second may lack leading dimensions."""

    saves_inputs: ClassVar[bool] = True

    def output_shape(self, *shapes: Shape) -> Shape:
        return _same_trailing(*shapes)


def _same_trailing(left: Shape, right: Shape) -> Shape:
    """The first shape, once the second is known to end it."""
    if left[len(left) - len(right) :] != right:
        message = f"shapes {left} and {right} cannot be combined element by element"
        hint = "the second must equal the last dimensions of the first"
        raise GraphError(Problem("shapes-differ", message, hint=hint))
    return left


def _static(dim: Dim) -> int:
    """A size that parameters depend on; it cannot be left to run time."""
    if isinstance(dim, str):
        raise TypeError(f"dimension '{dim}' is only known at run time")
    return dim


def at_sizes(shape: Shape, sizes: Sequence[tuple[str, int]]) -> Sizes:
    """The shape with its named dimensions replaced: ``at_sizes(s, [("batch", 1), ("seq", 8)])``."""
    known = dict(sizes)
    return tuple(known[dim] if isinstance(dim, str) else dim for dim in shape)
