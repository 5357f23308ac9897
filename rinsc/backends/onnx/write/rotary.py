"""Rotary positions in ONNX: frequencies, cosines and sines, and what they turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rinsc.backends.onnx.write.builder import BOOL, FLOAT, INT64, OpBuilder, shape_of
from rinsc.backends.onnx.write.site import Site, as_real
from rinsc.ops.base import static
from rinsc.storage.files import short_digest


def rotary_frequencies(op: OpBuilder, at: Site) -> ir.Value:
    """Angle by which a head's pair of dimensions turns from one position to the next, in float32
    as PyTorch has them: (head_dim / 2)."""
    return op.constant(f"rotary_frequencies/{rotary_key(at.op)}", rotary_steps(at.op))


def far_frequencies(op: OpBuilder, at: Site) -> ir.Value:
    """`rotary_frequencies` of a long sequence."""
    far = replace(at.op, divisors=at.op.far)
    return op.constant(f"rotary_frequencies/{rotary_key(far)}", rotary_steps(far))


def rotary_key(rotary: Any) -> str:
    """What frequencies depend on, as a name."""
    plain = f"{rotary.head_dim}_{rotary.theta}"
    if rotary.divisors is None:
        return plain
    return f"{plain}_{short_digest(repr((rotary.divisors, rotary.gain)))}"


def rotary_steps(rotary: Any) -> npt.NDArray[np.float32]:
    """The numbers of `rotary_frequencies`."""
    powers = np.arange(0, rotary.head_dim, 2, dtype=np.float32) / np.float32(rotary.head_dim)
    frequencies: npt.NDArray[np.float64] = np.float64(rotary.theta) ** -powers.astype(np.float64)
    turns = frequencies.astype(np.float32)
    if rotary.divisors is not None:
        turns /= np.array(rotary.divisors, np.float32)
    return turns


def rotary_rows(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """Position times frequency, (batch, seq, head_dim / 2), and its cosine or sine."""

    def angles() -> ir.Value:
        positions = op.Cast(inputs[0], to=FLOAT, dtype=FLOAT)
        column = op.Unsqueeze(positions, op.ints(2), shape=("batch", "seq", 1))
        return op.Mul(column, _frequencies(op, at, inputs[0]), shape=at.shape)

    angles_of_rows = op.shared(("angles of positions", replace(at.op, function="cos")), angles)
    return _waves(op, at, angles_of_rows)


def _waves(op: OpBuilder, at: Site, angles: ir.Value) -> ir.Value:
    """Their cosines or sines."""
    waves = op.Cos(angles) if at.op.function == "cos" else op.Sin(angles)
    if at.op.gain is not None:
        gain = op.constant(f"rotary_gain/{at.op.gain!r}", np.array(at.op.gain, np.float32))
        waves = op.Mul(waves, gain)
    return as_real(op, waves)


def _frequencies(op: OpBuilder, at: Site, positions: ir.Value) -> ir.Value:
    """Those of the sequence: of a long one, those for one of its positions that is far."""
    near = rotary_frequencies(op, at)
    if at.op.far is None:
        return near
    last = op.ReduceMax(positions, keepdims=0, shape=())
    is_far = op.GreaterOrEqual(last, op.scalar(at.op.near), dtype=BOOL)
    return op.Where(is_far, far_frequencies(op, at), near, shape=shape_of(near), dtype=FLOAT)


def rotary_table(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """Repeated for each sequence, (batch, seq, head_dim / 2), as ``RotaryEmbedding`` wants it.

    Computed from the positions rather than stored, so that no table grows with the context.
    """
    key = ("rotary angles", replace(at.op, function="cos"))
    angles = op.shared(key, lambda: _rotary_angles(op, at, inputs[0]))
    table = _waves(op, at, angles)
    half = at.op.head_dim // 2
    leading = op.Shape(inputs[0], start=0, end=2, shape=(2,), dtype=INT64)
    shape = op.Concat(leading, op.ints(half), axis=0, shape=(3,))
    return op.Expand(table, shape, shape=("batch", "seq", half))


def _rotary_angles(op: OpBuilder, at: Site, input_ids: ir.Value) -> ir.Value:
    """Position times frequency, (seq, head_dim / 2), in float32 as PyTorch has them."""
    length = op.Shape(input_ids, start=1, end=2, shape=(1,), dtype=INT64)
    seq = op.Squeeze(length, shape=())
    positions = op.Range(op.scalar(0), seq, op.scalar(1), shape=("seq",), dtype=INT64)
    column = op.Unsqueeze(op.Cast(positions, to=FLOAT, dtype=FLOAT), op.ints(1), shape=("seq", 1))
    return op.Mul(column, _frequencies(op, at, positions), shape=("seq", at.op.head_dim // 2))


def rope(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    width = 2 * static(at.node.inputs[1].shape[-1])
    if width == at.shape[-1]:
        return op.RotaryEmbedding(*inputs)
    return op.RotaryEmbedding(*inputs, rotary_embedding_dim=width)
