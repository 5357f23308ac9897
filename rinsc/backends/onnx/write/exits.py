"""Early exit: a repeat stops inside the graph once a further round changes next to nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.write.builder import FLOAT, OpBuilder, shape_of

TINY = 1e-20  # keeps the change of a state that is zero finite


def state_change(op: OpBuilder, before: ir.Value, after: ir.Value) -> ir.Value:
    """Norm of the change over norm of the state, of the token (batch, seq) with the largest."""
    batch, seq, _ = shape_of(after)

    def norm(x: ir.Value) -> ir.Value:
        return op.ReduceL2(_float(op, x), op.ints(-1), keepdims=0, shape=(batch, seq), dtype=FLOAT)

    floor = op.constant("tiny", np.array(TINY, np.float32))
    return _largest(op, op.Div(norm(op.Sub(after, before)), op.Max(norm(after), floor)))


def distribution_change(op: OpBuilder, before: ir.Value, after: ir.Value) -> ir.Value:
    """KL(before ‖ after) in nats, of logits (batch, seq, vocab): that of the token with most."""
    batch, seq, _ = shape_of(after)
    old, new = (op.LogSoftmax(logits, axis=-1) for logits in (before, after))
    terms = op.Mul(op.Exp(old), op.Sub(old, new))
    return _largest(op, op.ReduceSum(terms, op.ints(-1), keepdims=0, shape=(batch, seq)))


def _largest(op: OpBuilder, changes: ir.Value) -> ir.Value:
    return op.ReduceMax(changes, keepdims=0, shape=(), dtype=FLOAT)


def _float(op: OpBuilder, x: ir.Value) -> ir.Value:
    return x if op.real == FLOAT else op.Cast(x, to=FLOAT, dtype=FLOAT)
