"""Checks that travel in the model, so that every runtime refuses what the model cannot run.

ONNX has no assertion. Here a ``Gather`` from one element stands for it, with the distance to the
nearest legal number as its index: 0 is legal, anything else is out of bounds. The message of the
runtime names the node, and the node's name says what is wrong.
"""

from __future__ import annotations

import onnx_ir as ir

from rinsc.backends.onnx.builder import INT64, OpBuilder, shape_of


def guarded(
    op: OpBuilder, value: ir.Value, number: ir.Value, limit: int, complaint: str
) -> ir.Value:
    """``value``, once ``number`` (one int64) is known to be from 1 to ``limit``."""
    nearest = op.Clip(number, op.scalar(1), op.scalar(limit))
    distance = op.Abs(op.Sub(number, nearest))  # not negative: index -1 would be legal
    one = op.Gather(op.ints(1), distance, axis=0, shape=shape_of(number), name=complaint)
    if value.dtype != INT64:
        one = op.Cast(one, to=value.dtype, dtype=value.dtype)
    return op.Mul(value, one)
