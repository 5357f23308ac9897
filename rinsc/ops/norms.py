"""Norms over the last dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rinsc.ops.base import Op, Param, Shape, static


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
