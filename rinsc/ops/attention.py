"""Attention, what brings its inputs into shape, and what a cache gives to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rinsc.ops.base import Causal, Op, Param, Shape, Sizes, static


@dataclass(frozen=True)
class SplitHeads(Op):
    """(batch, seq, heads · head_dim) to (batch, heads, seq, head_dim)."""

    heads: int

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, seq, width = shapes[0]
        return (batch, self.heads, seq, static(width) // self.heads)


@dataclass(frozen=True)
class MergeHeads(Op):
    """(batch, heads, seq, head_dim) to (batch, seq, heads · head_dim)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, heads, seq, head_dim = shapes[0]
        return (batch, seq, static(heads) * static(head_dim))


@dataclass(frozen=True)
class Rope(Op):
    """Rotate the halves of each head by its position; inputs: x, cosines, sines."""


@dataclass(frozen=True)
class Attention(Op):
    """Softmax attention; inputs: query, key, value, each (batch, heads, seq, head_dim).

    A fourth input (batch, 1, seq, total) says which keys each query sees, where there are more
    keys than queries.
    Keys and values may have fewer heads, each shared by a group of query heads (grouped-query
    attention, arXiv 2305.13245). With ``causal`` a position sees itself and those before it; of
    such, ``full`` counts every pair of positions, ``half`` only the seq · (seq + 1) / 2 that the
    mask lets through.
    """

    saves_inputs: ClassVar[bool] = True
    saves_output: ClassVar[bool] = True
    causal: bool = True

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        batch, heads, seq, head_dim = sizes[0]
        masked = self.causal and causal == "half"
        pairs = seq * (seq + 1) // 2 if masked else seq * sizes[1][2]
        return 4 * batch * heads * pairs * head_dim


@dataclass(frozen=True)
class Append(Op):
    """New keys or values behind past ones: (batch, heads, past, head_dim) and (batch, heads, seq,
    head_dim) to (batch, heads, total, head_dim)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, heads, _, head_dim = shapes[0]
        return (batch, heads, "total", head_dim)


@dataclass(frozen=True)
class PositionIds(Op):
    """Positions of the new tokens among those that count: (batch, seq).

    Inputs: which tokens count (batch, total), past ones included, and the new token ids (batch,
    seq). Padding, on either side, takes no position.
    """

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[1]


@dataclass(frozen=True)
class VisibleKeys(Op):
    """Which keys each new token sees: (batch, 1, seq, total), true for those at or before it that
    count, and for itself. Inputs as of `PositionIds`."""

    def output_shape(self, *shapes: Shape) -> Shape:
        (batch, total), (_, seq) = shapes
        return (batch, 1, seq, total)


@dataclass(frozen=True)
class RotaryRows(Op):
    """`RotaryTable` at given positions: (batch, seq) to (batch, seq, head_dim / 2)."""

    function: Literal["cos", "sin"]
    theta: float
    head_dim: int
    context: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.head_dim // 2)


@dataclass(frozen=True)
class PositionRows(Op):
    """`Positions` at given positions: (batch, seq) to (batch, seq, width)."""

    context: int
    width: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.width)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.context, self.width), "normal"),)
