"""Where an operation is lowered, and what several of them need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rinsc import ops
from rinsc.backends.onnx.builder import FLOAT, OpBuilder
from rinsc.program import Node


@dataclass(frozen=True)
class Site:
    """Where an operation is lowered: its node, and where the weights of its layer stand."""

    node: Node
    prefix: str

    @property
    def op(self) -> Any:
        return self.node.op

    @property
    def shape(self) -> ops.Shape:
        return self.node.output.shape

    def weight_name(self, name: str) -> str:
        return f"{self.prefix}{self.node.name}.{name}"


def rotary_frequencies(op: OpBuilder, at: Site) -> ir.Value:
    """Angle by which a head's pair of dimensions turns from one position to the next, in float32
    as PyTorch has them: (head_dim / 2)."""
    frequencies = rotary_steps(at.op.head_dim, at.op.theta)
    return op.constant(f"rotary_frequencies/{at.op.head_dim}_{at.op.theta}", frequencies)


def rotary_steps(head_dim: int, theta: float) -> npt.NDArray[np.float32]:
    """The numbers of `rotary_frequencies`."""
    powers = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    steps: npt.NDArray[np.float64] = np.float64(theta) ** -powers.astype(np.float64)
    return steps.astype(np.float32)


def as_real(op: OpBuilder, value: ir.Value) -> ir.Value:
    """A float32 value in the type of the activations."""
    return value if op.real == FLOAT else op.Cast(value, to=op.real, dtype=op.real)
