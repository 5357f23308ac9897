"""Attention, and what brings its inputs into shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rinsc.ops.base import Causal, Op, Shape, Sizes, static


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
