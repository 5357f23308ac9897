"""Where an operation is lowered, and what several of them need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rinsc import ops
from rinsc.backends.onnx.builder import OpBuilder
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
    head_dim = at.op.head_dim
    powers = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (np.float64(at.op.theta) ** -powers.astype(np.float64)).astype(np.float32)
    return op.constant(f"rotary_frequencies/{head_dim}_{at.op.theta}", frequencies)
