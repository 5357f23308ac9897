"""Normal numbers from whole-number arithmetic: what ``noise_like`` of emitted modules computes."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.builder import FLOAT, INT64, OpBuilder, shape_of
from rinsc.backends.onnx.site import as_real

PRIME = 2**31 - 1


def noise_like(
    op: OpBuilder, x: ir.Value, seed: ir.Value, positions: ir.Value | None = None
) -> ir.Value:
    """Normal numbers, each a function of ``seed`` () and of its place in x (batch, seq, width).

    ``positions`` (batch, seq) are those of x where they do not start at 0.
    """
    batch, seq, width = shape_of(x)
    prime = op.scalar(PRIME)
    start = op.Mod(op.Mul(op.Mod(seed, prime), op.scalar(742938285)), prime)
    column = op.Mul(
        op.Unsqueeze(_places(op, x, 0), op.ints(1), shape=(batch, 1)), op.scalar(1000003)
    )
    line = op.Mul(_places(op, x, 1) if positions is None else positions, op.scalar(10007))
    rows = _mixed(op, op.Add(op.Add(column, start), line, shape=(batch, seq)))
    rows = op.Unsqueeze(rows, op.ints(2), shape=(batch, seq, 1))
    places = op.Add(rows, _places(op, x, 2), shape=(batch, seq, width))
    first = _mixed(op, _mixed(op, places))
    second = _mixed(op, _mixed(op, op.Add(places, op.scalar(2**30))))
    unit = op.Mul(_upper_bits(op, first, 1), _real(op, 2.0**-24))
    radius = op.Sqrt(op.Mul(op.Log(unit), _real(op, -2.0)))
    angle = op.Mul(_upper_bits(op, second, 0), _real(op, math.tau / 2**24))
    return as_real(op, op.Mul(radius, op.Cos(angle)))


def _places(op: OpBuilder, x: ir.Value, axis: int) -> ir.Value:
    """0, 1, … along one dimension of x."""
    size = op.Squeeze(op.Shape(x, start=axis, end=axis + 1, shape=(1,), dtype=INT64), shape=())
    return op.Range(op.scalar(0), size, op.scalar(1), shape=(shape_of(x)[axis],))


def _mixed(op: OpBuilder, number: ir.Value) -> ir.Value:
    """Numbers below `PRIME` in another order: h ↦ (48271·h + 12345)^5.

    The fifth power permutes the numbers modulo `PRIME`, since 5 does not divide `PRIME` − 1, and
    no product here exceeds 62 bits.
    """
    prime = op.scalar(PRIME)
    number = op.Mod(op.Add(op.Mul(number, op.scalar(48271)), op.scalar(12345)), prime)
    square = op.Mod(op.Mul(number, number), prime)
    fourth = op.Mod(op.Mul(square, square), prime)
    return op.Mod(op.Mul(fourth, number), prime)


def _upper_bits(op: OpBuilder, number: ir.Value, more: int) -> ir.Value:
    """The upper 24 of 31 bits, which float32 holds, plus ``more``."""
    whole = op.Add(op.Div(number, op.scalar(128)), op.scalar(more))
    return op.Cast(whole, to=FLOAT, dtype=FLOAT)


def _real(op: OpBuilder, number: float) -> ir.Value:
    return op.constant(f"real/{number!r}".replace("-", "minus_"), np.array(number, np.float32))
