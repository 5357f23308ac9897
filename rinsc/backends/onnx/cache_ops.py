"""How the operations of a pass behind a cache read in ONNX."""

from __future__ import annotations

import onnx_ir as ir

from rinsc.backends.onnx.builder import BOOL, FLOAT, INT64, OpBuilder, shape_of
from rinsc.backends.onnx.site import Site, as_real, rotary_frequencies


def append(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Concat(*inputs, axis=2, shape=at.shape)


def position_ids(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """The last of the running counts of tokens that count, from 0."""
    counted, new = inputs
    counts = op.CumSum(counted, op.scalar(1))
    places = op.Max(op.Sub(counts, op.scalar(1)), op.scalar(0))
    seq = op.Shape(new, start=1, end=2, shape=(1,), dtype=INT64)
    total = op.Shape(counted, start=1, end=2, shape=(1,), dtype=INT64)
    return op.Slice(places, op.Sub(total, seq), total, op.ints(1), shape=at.shape)


def visible_keys(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    counted, new = inputs
    seq = _length(op, new)
    total = _length(op, counted)
    keys = op.Range(op.scalar(0), total, op.scalar(1), shape=("total",), dtype=INT64)
    own = op.Range(op.Sub(total, seq), total, op.scalar(1), shape=("seq",), dtype=INT64)
    column = op.Unsqueeze(own, op.ints(1), shape=("seq", 1))
    before = op.LessOrEqual(keys, column, shape=("seq", "total"), dtype=BOOL)
    itself = op.Equal(keys, column, shape=("seq", "total"), dtype=BOOL)
    counts = op.Cast(counted, to=BOOL, dtype=BOOL)
    counts = op.Unsqueeze(counts, op.ints(1, 2), shape=("batch", 1, 1, "total"))
    seen = op.And(before, counts, shape=at.shape)
    return op.Or(seen, itself, shape=at.shape)


def rotary_rows(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """Position times frequency, (batch, seq, head_dim / 2), and its cosine or sine."""

    def angles() -> ir.Value:
        places = op.Cast(inputs[0], to=FLOAT, dtype=FLOAT)
        column = op.Unsqueeze(places, op.ints(2), shape=("batch", "seq", 1))
        return op.Mul(column, rotary_frequencies(op, at), shape=at.shape)

    made = op.shared(("rotary angles of positions", at.op.theta, at.op.head_dim), angles)
    return as_real(op, op.Cos(made) if at.op.function == "cos" else op.Sin(made))


def position_rows(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Gather(op.weight(at.weight_name("weight")), inputs[0], axis=0, shape=at.shape)


def _length(op: OpBuilder, value: ir.Value) -> ir.Value:
    """The second dimension as a number."""
    assert len(shape_of(value)) >= 2
    size = op.Shape(value, start=1, end=2, shape=(1,), dtype=INT64)
    return op.Squeeze(size, shape=())
