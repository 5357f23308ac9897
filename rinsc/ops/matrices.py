"""Matrix products over the last dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rinsc.errors import GraphError
from rinsc.ops.base import Causal, Init, Op, Param, Shape, Sizes, static


@dataclass(frozen=True)
class Linear(Op, reach="own", needs="nothing", parts="never", kept="product"):
    """A matrix product over the last dimension: (…, in) to (…, out)."""

    out_features: int
    bias: bool = False
    init: Init = "normal"

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.out_features)

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        weight = Param("weight", (self.out_features, static(shapes[0][-1])), self.init)
        return (weight, Param("bias", (self.out_features,), "zeros")) if self.bias else (weight,)

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
