"""Products with stored matrices: one place that knows how a matrix is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rinsc.backends.onnx.precision import FLOAT_TYPES, WEIGHT_ONLY_BITS
from rinsc.backends.onnx.write.builder import REALS, OpBuilder
from rinsc.backends.onnx.write.quantize import blockwise, per_channel_int8
from rinsc.backends.onnx.write.rounding import Bits
from rinsc.ops import Shape


@dataclass(frozen=True)
class Matrix:
    """Trained matrices (out, in) side by side, by the names of their owners: ``A.0.query``."""

    owners: tuple[str, ...]
    bias: bool

    @property
    def name(self) -> str:
        """``A.0.query_key_value`` of several; of one, its owner's name."""
        stem, _, first = self.owners[0].rpartition(".")
        last = [first, *(owner.rpartition(".")[2] for owner in self.owners[1:])]
        return ".".join(filter(None, (stem, "_".join(last))))


def product(op: OpBuilder, x: ir.Value, matrix: Matrix, shape: Shape) -> ir.Value:
    """x (…, in) times the matrix, plus its bias: ``shape`` (…, out)."""
    stored = op.precision.matrix_format(matrix.name.partition(".")[0])
    bias = _bias(op, matrix) if matrix.bias else None
    if stored == "int8-dynamic":
        return _by_channel(op, x, matrix, bias, shape)
    if stored in WEIGHT_ONLY_BITS:
        return _by_blocks(op, x, matrix, WEIGHT_ONLY_BITS[stored], bias, shape)
    made = op.MatMul(x, _as_floats(op, matrix, REALS[stored]), shape=shape)
    return made if bias is None else op.Add(made, bias)


def _as_floats(op: OpBuilder, matrix: Matrix, dtype: ir.DataType) -> ir.Value:
    """The matrix (in, out) in the type of the activations, stored as ``dtype``."""
    rows, columns = _size(op, matrix)
    name = f"{matrix.name}.weight"
    weight = op.stored(name, (columns, rows), lambda: _joined(op, matrix, "weight").T, dtype)
    if dtype == op.real:
        return weight
    return op.shared(("as real", name), lambda: op.Cast(weight, to=op.real, dtype=op.real))


def _by_channel(
    op: OpBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None, shape: Shape
) -> ir.Value:
    """Activations in 8 bits too, their scale found at run time."""

    def make() -> tuple[ir.Value, ir.Value]:
        quantized = per_channel_int8(_joined(op, matrix, "weight"), name=matrix.name)
        return _stored(op, matrix, quantized.codes, quantized.scales)

    codes, scales = op.shared(("quantized", matrix.name), make)
    return op.DynamicQuantizeMatMul(x, codes, scales, None, bias, shape=shape)


def table_rows(op: OpBuilder, ids: ir.Value, owner: str, shape: Shape) -> ir.Value:
    """Rows of an embedding's table, by ids (batch, seq): ``shape`` (batch, seq, width)."""
    stored = op.precision.table_format
    if stored in FLOAT_TYPES:
        name = f"{owner}.weight"
        floats = op.stored(name, op.array(name).shape, lambda: op.array(name), REALS[stored])
        rows = op.Gather(floats, ids, axis=0, shape=shape, dtype=REALS[stored])
        return rows if REALS[stored] == op.real else op.Cast(rows, to=op.real, dtype=op.real)
    table = Matrix((owner,), bias=False)
    count, width = _size(op, table)
    size, bits = op.precision.block_size, WEIGHT_ONLY_BITS[stored]
    packed, scales, zero_points = _in_blocks(op, table, bits)
    whole = -(-width // size) * size
    flat = op.Reshape(packed, op.ints(count, -1), shape=(count, whole * bits // 8))
    attributes: dict[str, Any] = {"bits": bits, "block_size": size}
    attributes |= {"gather_axis": 0, "quantize_axis": 1}
    rows = op.GatherBlockQuantized(
        flat, ids, scales, zero_points, shape=(*shape[:-1], whole), dtype=op.real, **attributes
    )
    if whole == width:
        return rows
    return op.Slice(rows, op.ints(0), op.ints(width), op.ints(-1), shape=shape)


def _by_blocks(
    op: OpBuilder, x: ir.Value, matrix: Matrix, bits: Bits, bias: ir.Value | None, shape: Shape
) -> ir.Value:
    """Weights alone in few bits. Accuracy level 4 multiplies in 8 bits; below it 8-bit weights
    are brought to floats at every call."""
    rows, columns = _size(op, matrix)
    packed, scales, zero_points = _in_blocks(op, matrix, bits)
    attributes: dict[str, Any] = {"K": columns, "N": rows, "bits": bits, "accuracy_level": 4}
    attributes["block_size"] = op.precision.block_size
    return op.MatMulNBits(x, packed, scales, zero_points, None, bias, shape=shape, **attributes)


def _in_blocks(
    op: OpBuilder, matrix: Matrix, bits: Bits
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """The constants that hold a matrix in few bits: its codes, scales and zero points.

    Matrices side by side have one input, so that the moments are those of any of them.
    """

    def make() -> tuple[ir.Value, ir.Value, ir.Value | None]:
        quantized = blockwise(
            _joined(op, matrix, "weight"),
            bits,
            op.precision.block_size,
            symmetric=not op.precision.has_zero_points(bits),
            moments=op.moments(f"{matrix.owners[0]}.weight") if bits == 4 else None,
            name=matrix.name,
        )
        codes, scales = _stored(op, matrix, quantized.packed, quantized.scales)
        if quantized.zero_points is None:
            return codes, scales, None
        name = f"{matrix.name}.weight.zero_points"
        return codes, scales, op.array_initializer(name, quantized.zero_points)

    return op.shared(("quantized", matrix.name), make)


def _stored(
    op: OpBuilder, matrix: Matrix, codes: npt.NDArray[Any], scales: npt.NDArray[np.float32]
) -> tuple[ir.Value, ir.Value]:
    """The constants of a matrix in few bits, and of its scales."""
    name = f"{matrix.name}.weight"
    return (
        op.array_initializer(f"{name}.codes", codes),
        op.array_initializer(f"{name}.scales", scales.astype(op.real.numpy())),
    )


def _bias(op: OpBuilder, matrix: Matrix) -> ir.Value:
    rows, _ = _size(op, matrix)
    return op.stored(f"{matrix.name}.bias", (rows,), lambda: _joined(op, matrix, "bias"))


def _size(op: OpBuilder, matrix: Matrix) -> tuple[int, int]:
    """Rows and columns: (out, in)."""
    shapes = [op.array(f"{owner}.weight").shape for owner in matrix.owners]
    return sum(rows for rows, _ in shapes), shapes[0][1]


def _joined(op: OpBuilder, matrix: Matrix, name: str) -> npt.NDArray[np.float32]:
    parts = [op.array(f"{owner}.{name}") for owner in matrix.owners]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
