"""Operations of a pass that continues a sequence: what stands before it is given as a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rinsc.ops.base import Op, Param, Shape


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
