"""Attention, what brings its inputs into shape, and what a cache gives to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rinsc.errors import GraphError
from rinsc.ops.base import Causal, Op, Reach, Shape, Sizes, static
from rinsc.scalars import real, whole


@dataclass(frozen=True)
class SplitHeads(Op, reach="own", needs="nothing", parts="any", kept="view"):
    """(batch, seq, heads · head_dim) to (batch, heads, seq, head_dim)."""

    heads: int

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, seq, width = shapes[0]
        return (batch, self.heads, seq, static(width) // self.heads)


@dataclass(frozen=True)
class MergeHeads(Op, reach="own", needs="nothing", parts="any", kept="nothing"):
    """(batch, heads, seq, head_dim) to (batch, seq, heads · head_dim)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, heads, seq, head_dim = shapes[0]
        return (batch, seq, static(heads) * static(head_dim))


@dataclass(frozen=True)
class Rope(Op, reach="own", needs="nothing", parts="first", kept="full"):
    """Rotate the halves of each head by its position; inputs: x, cosines, sines.

    Tables for fewer pairs than a head has rotate its first dimensions, and leave the others.
    """

    def output_shape(self, *shapes: Shape) -> Shape:
        x, *tables = shapes
        if any(2 * static(table[-1]) > static(x[-1]) for table in tables):
            message = f"tables {tables[0]} turn more dimensions than heads {x} have"
            raise GraphError("shapes-differ", message, hint="make the tables narrower")
        return x


@dataclass(frozen=True)
class Attention(Op, needs="keys", parts="never", kept="product"):
    """Softmax attention; inputs: query, key, value, each (batch, heads, seq, head_dim).

    A fourth input (batch, 1, seq, total) says which keys each query sees, where there are more
    keys than queries.
    Keys and values may have fewer heads, each shared by a group of query heads (grouped-query
    attention, arXiv 2305.13245). With ``causal`` a position sees itself and those before it; of
    such, ``full`` counts every pair of positions, ``half`` only the seq · (seq + 1) / 2 that the
    mask lets through. With a ``window`` a position sees only the last so many of the keys that it
    would see, itself among them (sliding-window attention, arXiv 2310.06825, section 2).
    Products of queries and keys are multiplied by ``scale``, by default 1 / sqrt(head_dim). With a
    ``cap`` a score s becomes cap · tanh(s / cap) (Gemma 2, arXiv 2408.00118, section 2).
    """

    causal: bool = True
    window: int | None = None
    scale: float | None = None
    cap: float | None = None

    def __post_init__(self) -> None:
        for number in (self.scale, self.cap):
            if number is not None and not 0 < (real(number) or 0) < math.inf:
                message = f"attention cannot scale or cap its scores by {number!r:.20}"
                raise GraphError("bad-scores", message, hint="give a number above 0, or None")
        if self.window is not None and (whole(self.window) or 0) < 1:
            message = f"a window of {self.window!r:.20} positions sees nothing"
            raise GraphError("bad-window", message, hint="give a whole number from 1 on, or None")

    @property
    def reach(self) -> Reach:  # type: ignore[override]  # differs between masks
        return "earlier" if self.causal else "any"

    @property
    def saves_output(self) -> bool:
        return True

    def works_on_parts(self, cut: Sequence[bool], *shapes: Shape) -> bool:
        """Heads are cut, of queries, keys and values alike; a mask is not."""
        return all(cut[:3]) and not any(cut[3:])

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        batch, heads, seq, head_dim = sizes[0]
        masked = self.causal and causal == "half"
        reach = min(seq, self.window or seq)  # keys that the last positions see
        pairs = reach * (reach + 1) // 2 + (seq - reach) * reach if masked else seq * sizes[1][2]
        return 4 * batch * heads * pairs * head_dim


@dataclass(frozen=True)
class Append(Op, reach="earlier", needs="nothing", parts="never", kept="nothing"):
    """New keys or values behind past ones: (batch, heads, past, head_dim) and (batch, heads, seq,
    head_dim) to (batch, heads, total, head_dim)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, heads, _, head_dim = shapes[0]
        return (batch, heads, "total", head_dim)


@dataclass(frozen=True)
class PositionIds(Op, reach="earlier", needs="nothing", parts="never", kept="nothing"):
    """Positions of the new tokens among those that count: (batch, seq).

    Inputs: which tokens count (batch, total), past ones included, and the new token ids (batch,
    seq). Padding, on either side, takes no position.
    """

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[1]


@dataclass(frozen=True)
class VisibleKeys(Op, reach="earlier", needs="nothing", parts="never", kept="nothing"):
    """Which keys each new token sees: (batch, 1, seq, total), true for those at or before it that
    count, and for itself. Inputs as of `PositionIds`."""

    def output_shape(self, *shapes: Shape) -> Shape:
        (batch, total), (_, seq) = shapes
        return (batch, 1, seq, total)
