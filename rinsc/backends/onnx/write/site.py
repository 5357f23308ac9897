"""Where an operation is lowered, and what several need: rotary steps, noise, how much a round
changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rinsc import ops
from rinsc.backends.onnx.write.builder import FLOAT, INT64, OpBuilder, shape_of
from rinsc.ops.program import Node


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


def as_real(op: OpBuilder, value: ir.Value) -> ir.Value:
    """A float32 value in the type of the activations."""
    return value if op.real == FLOAT else op.Cast(value, to=op.real, dtype=op.real)


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
        op.Unsqueeze(_positions(op, x, 0), op.ints(1), shape=(batch, 1)), op.scalar(1000003)
    )
    line = op.Mul(_positions(op, x, 1) if positions is None else positions, op.scalar(10007))
    rows = _mixed(op, op.Add(op.Add(column, start), line, shape=(batch, seq)))
    rows = op.Unsqueeze(rows, op.ints(2), shape=(batch, seq, 1))
    numbers = op.Add(rows, _positions(op, x, 2), shape=(batch, seq, width))
    first = _mixed(op, _mixed(op, numbers))
    second = _mixed(op, _mixed(op, op.Add(numbers, op.scalar(2**30))))
    unit = op.Mul(_upper_bits(op, first, 1), _real(op, 2.0**-24))
    radius = op.Sqrt(op.Mul(op.Log(unit), _real(op, -2.0)))
    angle = op.Mul(_upper_bits(op, second, 0), _real(op, math.tau / 2**24))
    return as_real(op, op.Mul(radius, op.Cos(angle)))


def _positions(op: OpBuilder, x: ir.Value, axis: int) -> ir.Value:
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


# A repeat may stop inside the graph once a further round changes next to nothing.
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
