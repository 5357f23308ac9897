"""Matrix products over the last dimension, and what reads a trained or a computed table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from rinsc.errors import GraphError
from rinsc.ops.base import Causal, Init, Op, Param, Shape, Sizes, static


@dataclass(frozen=True)
class Linear(Op, reach="own", needs="nothing", parts="never", kept="product"):
    """A matrix product over the last dimension: (…, in) to (…, out)."""

    out_features: int
    bias: bool = False
    init: Init = "normal"
    bias_init: Init | None = None  # zeros

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.out_features)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        weight = Param("weight", (self.out_features, static(shapes[0][-1])), self.init)
        if not self.bias:
            return (weight,)
        return (weight, Param("bias", (self.out_features,), self.bias_init or "zeros"))

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        return 2 * math.prod(sizes[0]) * self.out_features


@dataclass(frozen=True)
class TiedLinear(Op, reach="own", needs="nothing", parts="never", kept="product"):
    """`Linear` with the table of an `Embedding` that stands elsewhere: (…, width) to (…, rows)."""

    owner: str
    rows: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.rows)

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        return 2 * math.prod(sizes[0]) * self.rows


@dataclass(frozen=True)
class Project(Op, reach="own", needs="nothing", parts="never", kept="product"):
    """`Linear` with a matrix that is given: (…, in) and (out, in) to (…, out)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        x, matrix = shapes
        if len(matrix) != 2 or matrix[1] != x[-1]:
            message = f"a matrix {matrix} cannot be applied to {x}"
            hint = "a matrix is (out, in), and 'in' the last dimension of what it is applied to"
            raise GraphError("shapes-differ", message, hint=hint)
        return (*x[:-1], matrix[0])

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        return 2 * math.prod(sizes[0]) * sizes[1][0]


@dataclass(frozen=True)
class Dots(Op, reach="any", needs="everything", parts="never", kept="product"):
    """Products of all pairs of rows: (rows, width) and (others, width) to (rows, others)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        (rows, width), (others, other_width) = shapes
        if width != other_width:
            message = f"rows of {width} and of {other_width} numbers have no product"
            raise GraphError("shapes-differ", message, hint="give both one width")
        return (rows, others)

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        return 2 * math.prod(sizes[0]) * sizes[1][0]


@dataclass(frozen=True)
class PatchConvolution(Op, reach="any", needs="everything", parts="never", kept="product"):
    """Square patches that do not overlap, a row each: (batch, channels, height, width) to
    (batch, seq, out_features), row by row of the picture. It has a bias.

    Pixels at the end of a side that make no patch are left out.
    """

    out_features: int
    size: int

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, _, height, width = shapes[0]
        if static(height) < self.size or static(width) < self.size:
            message = f"patches of {self.size} do not fit into a picture of {height} x {width}"
            raise GraphError("patch-mismatch", message, hint="give another size of patches")
        return (batch, "seq", self.out_features)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        weight = (self.out_features, static(shapes[0][1]), self.size, self.size)
        return (Param("weight", weight, "lecun"), Param("bias", (self.out_features,), "zeros"))

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        batch, channels, height, width = sizes[0]
        patches = (height // self.size) * (width // self.size)
        return 2 * batch * patches * channels * self.size**2 * self.out_features


@dataclass(frozen=True)
class Embedding(Op, reach="own", needs="nothing", parts="never", kept="ids"):
    """Rows of a table by token id: (batch, seq) to (batch, seq, width). A lookup costs nothing."""

    rows: int
    width: int
    init: Init | None = None  # normal

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.width)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.rows, self.width), self.init or "normal"),)


@dataclass(frozen=True)
class Positions(Op, reach="own", needs="nothing", parts="never", kept="ids"):
    """A learned row for each position of an input (batch, seq, …): (seq, width)."""

    context: int
    width: int
    init: Init | None = None  # normal

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][1], self.width)

    def at_positions(self) -> Op:
        return PositionRows(self.context, self.width, self.init)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.context, self.width), self.init or "normal"),)


@dataclass(frozen=True)
class Rotary:
    """Cosines or sines of rotary angles, of so many dimensions of a head.

    Angle of position p and pair i: p · theta^(−2i / head_dim) (RoFormer, arXiv 2104.09864, 3.2.2).
    ``divisors`` has a number for each pair that its angles are divided by: every scaling for longer
    contexts comes down to them. In a sequence of more than ``near`` positions those of ``far``
    take their place (LongRoPE, arXiv 2402.13753). Results are multiplied by ``gain``.
    """

    owns_table: ClassVar[bool] = True
    function: Literal["cos", "sin"]
    theta: float
    head_dim: int
    context: int
    divisors: tuple[float, ...] | None = None
    far: tuple[float, ...] | None = None
    near: int | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        pairs = self.head_dim // 2
        if any(own is not None and len(own) != pairs for own in (self.divisors, self.far)):
            message = f"rotary angles of {pairs} pairs need as many divisors"
            raise GraphError("bad-rotation", message, hint="give one for each pair of dimensions")
        scaled = self.far is not None or self.gain is not None
        if (self.far is None) != (self.near is None) or (scaled and self.divisors is None):
            message = "divisors of long sequences and a gain need divisors of every sequence"
            raise GraphError("bad-rotation", message, hint="give 'divisors', 'far' and 'near'")


@dataclass(frozen=True)
class RotaryTable(Rotary, Op, reach="own", needs="nothing", parts="never", kept="table"):
    """Cosines or sines of rotary angles: token ids (batch, seq) to (seq, head_dim / 2)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.head_dim % 2:
            message = f"rotary positions need an even head width, not {self.head_dim}"
            hint = "change 'heads' or 'width', or give another 'head_dim'"
            raise GraphError("odd-head-width", message, place="heads", hint=hint)
        return (shapes[0][1], self.head_dim // 2)

    def at_positions(self) -> Op:
        return RotaryRows(**vars(self))


@dataclass(frozen=True)
class RotaryRows(Rotary, Op, reach="own", needs="nothing", parts="never", kept="table"):
    """`RotaryTable` at given positions: (batch, seq) to (batch, seq, head_dim / 2)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.head_dim // 2)


@dataclass(frozen=True)
class PositionRows(Op, reach="own", needs="nothing", parts="never", kept="ids"):
    """`Positions` at given positions: (batch, seq) to (batch, seq, width)."""

    context: int
    width: int
    init: Init | None = None  # normal

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.width)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.context, self.width), self.init or "normal"),)


@dataclass(frozen=True)
class Row(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """One of ``rows`` trained tensors by a number (); a number beyond the last takes the last."""

    rows: int
    shape: Sizes
    init: Init

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.rows, *self.shape), self.init),)


@dataclass(frozen=True)
class Vector(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """A trained vector (width,), whatever the input."""

    width: int
    init: Init

    def output_shape(self, *shapes: Shape) -> Shape:
        return (self.width,)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (self.width,), self.init),)


@dataclass(frozen=True)
class Probe(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """A trained state at one position for each sequence (batch, seq, width): (batch, 1, width)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, _, width = shapes[0]
        return (batch, 1, width)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("weight", (1, 1, static(shapes[0][2])), "xavier"),)


@dataclass(frozen=True)
class Scalar(Op, reach="own", needs="nothing", parts="never", kept="nothing"):
    """A trained number (), which starts at ``start``; a file has it under the name alone."""

    start: float

    def output_shape(self, *shapes: Shape) -> Shape:
        return ()

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        return (Param("", (1,), "constant"),)
