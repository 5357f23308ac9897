"""How the fused operators read in ONNX: those of ONNX Runtime's own domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.builder import OpBuilder
from rinsc.backends.onnx.fusion import (
    Fused,
    FusedOp,
    GroupedAttention,
    Packed,
    Silu,
)
from rinsc.backends.onnx.matrices import Matrix, product
from rinsc.backends.onnx.packing import Packing
from rinsc.backends.onnx.site import rotary_steps
from rinsc.ops import RotaryRows
from rinsc.program import Node


@dataclass(frozen=True)
class FusedSite:
    """Where a fused operation is lowered; ``prefix`` says where its nodes' weights stand."""

    node: Fused
    prefix: Callable[[Node], str]
    packing: Packing | None

    @property
    def op(self) -> Any:
        return self.node.op


Inputs: TypeAlias = Sequence[ir.Value | None]
FusedLowering: TypeAlias = Callable[[OpBuilder, FusedSite, Inputs], Sequence[ir.Value]]


def _packed(op: OpBuilder, at: FusedSite, inputs: Inputs) -> Sequence[ir.Value]:
    (x,) = inputs
    assert x is not None
    owners = [at.prefix(node) + node.name for node in at.op.nodes]
    matrix = Matrix(tuple(owners), bias=at.op.nodes[0].op.bias)
    return [product(op, x, matrix, at.node.outputs[0].shape)]


def _grouped_attention(op: OpBuilder, at: FusedSite, inputs: Inputs) -> Sequence[ir.Value]:
    assert at.packing is not None
    attention: GroupedAttention = at.op
    given = [*inputs, at.packing.last, at.packing.total]
    if attention.rotary is not None:
        given += _rotary_tables(op, attention.rotary)
    batch, seq, width = at.node.outputs[0].shape
    attributes = {
        "num_heads": attention.heads,
        "kv_num_heads": attention.kv_heads,
        "do_rotary": int(attention.rotary is not None),
    }
    shapes = [(batch, seq, width), *(value.shape for value in at.node.outputs[1:])]
    return op.many("GroupQueryAttention", given, attributes, shapes)


def _rotary_tables(op: OpBuilder, rotary: RotaryRows) -> list[ir.Value]:
    """Cosines and sines of every position, (context, head_dim / 2)."""
    positions = np.arange(rotary.context, dtype=np.float32)[:, None]
    angles = positions * rotary_steps(rotary.head_dim, rotary.theta)
    key = f"{rotary.head_dim}_{rotary.theta}_{rotary.context}"
    return [
        op.real_constant(f"rotary_cos/{key}", np.cos(angles)),
        op.real_constant(f"rotary_sin/{key}", np.sin(angles)),
    ]


def _silu(op: OpBuilder, at: FusedSite, inputs: Inputs) -> Sequence[ir.Value]:
    return [op.QuickGelu(*inputs, alpha=1.0)]


FUSED_OPS: dict[type[FusedOp], FusedLowering] = {
    Packed: _packed,
    GroupedAttention: _grouped_attention,
    Silu: _silu,
}
