"""Products with stored matrices: one place that knows how a matrix is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rinsc.backends.onnx.builder import REALS, OpBuilder
from rinsc.backends.onnx.precision import WEIGHT_ONLY_BITS
from rinsc.backends.onnx.quantize import (
    BlockwiseMatrix,
    ChannelwiseMatrix,
    blockwise,
    per_channel_int8,
)
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
        return _by_blocks(op, x, matrix, bias, shape)
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
    codes, scales = _quantized(
        op, matrix, lambda whole: _channels(per_channel_int8(whole, name=matrix.name))
    )
    return op.DynamicQuantizeMatMul(x, codes, scales, None, bias, shape=shape)


def _by_blocks(
    op: OpBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None, shape: Shape
) -> ir.Value:
    """Weights alone in few bits. Accuracy level 4 multiplies in 8 bits; below it 8-bit weights
    are brought to floats at every call."""
    rows, columns = _size(op, matrix)
    size = op.precision.block_size
    bits = WEIGHT_ONLY_BITS[op.precision.name]
    packed, scales = _quantized(
        op, matrix, lambda whole: _blocks(blockwise(whole, bits, size, name=matrix.name))
    )
    attributes: dict[str, Any] = {"K": columns, "N": rows, "bits": bits, "block_size": size}
    attributes["accuracy_level"] = 4
    return op.MatMulNBits(x, packed, scales, None, None, bias, shape=shape, **attributes)


def _quantized(
    op: OpBuilder,
    matrix: Matrix,
    quantize: Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[Any], npt.NDArray[Any]]],
) -> tuple[ir.Value, ir.Value]:
    """The constants that hold a matrix in few bits, and its scales: once a model."""

    def make() -> tuple[ir.Value, ir.Value]:
        codes, scales = quantize(_joined(op, matrix, "weight"))
        name = f"{matrix.name}.weight"
        return (
            op.array_initializer(f"{name}.codes", codes),
            op.array_initializer(f"{name}.scales", scales.astype(op.real.numpy())),
        )

    return op.shared(("quantized", matrix.name), make)


def _blocks(made: BlockwiseMatrix) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return made.packed, made.scales


def _channels(made: ChannelwiseMatrix) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return made.codes, made.scales


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
