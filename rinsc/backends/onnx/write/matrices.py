"""Products with stored matrices, and their numbers in few bits, as the operators read them.

A block is here a run of input features that shares one scale, and one zero point where there are
any. A weight that is zero stays zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rinsc.backends.onnx.precision import CAST_FORMATS, EMBEDDING, WEIGHT_ONLY_BITS
from rinsc.backends.onnx.write import rounding
from rinsc.backends.onnx.write.builder import REALS, OpBuilder
from rinsc.ops import Shape

FloatMatrix: TypeAlias = npt.NDArray[np.floating[Any]]

CHUNK_ELEMENTS = 2**16  # what one step works on: its temporaries stay in the cache of a core
COMPENSATED_ROWS = 512  # rounded together: each input feature is a step for all of them


@dataclass(frozen=True)
class BlockwiseMatrix:
    """A matrix as `MatMulNBits` (com.microsoft) reads it, in blocks along the input features.

    ``packed`` is uint8 (out_features, blocks, block_size * bits / 8), with 4 bits the even element
    in the low half of a byte; ``scales`` is float32 (out_features, blocks). ``zero_points`` is
    uint8 (out_features, blocks * bits / 8), packed like the codes; None stands for 2^(bits - 1).
    A weight is scale * (code - zero point); elements behind the last input feature stand for 0.
    """

    packed: rounding.Codes
    scales: rounding.Float32
    bits: rounding.Bits
    block_size: int
    in_features: int
    zero_points: rounding.Codes | None = None

    @property
    def nbytes(self) -> int:
        zero_points = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.packed.nbytes + self.scales.nbytes + zero_points

    @property
    def zeros(self) -> rounding.Float32:
        """The zero point of each block, (out_features, blocks)."""
        if self.zero_points is None:
            return np.full_like(self.scales, 1 << (self.bits - 1))
        return _unpacked(self.zero_points, self.bits)[:, : self.scales.shape[1]].astype(np.float32)


@dataclass(frozen=True)
class ChannelwiseMatrix:
    """A matrix as `DynamicQuantizeMatMul` (com.microsoft) reads it, one scale an output feature.

    ``codes`` is int8 (in_features, out_features), ``scales`` float32 (out_features).
    """

    codes: npt.NDArray[np.int8]
    scales: rounding.Float32

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


def blockwise(
    matrix: FloatMatrix,
    bits: rounding.Bits,
    block_size: int = 32,
    *,
    symmetric: bool = True,
    search: bool | None = None,
    moments: rounding.Float32 | None = None,
    name: str = "matrix",
) -> BlockwiseMatrix:
    """``matrix`` (out_features, in_features) in ``bits`` bits, one scale a block.

    Each block has a zero point too unless it is ``symmetric``. ``search`` looks for scales of less
    squared error than those of the plain rule; by default it is done for 4 bits, where it counts.
    With ``moments`` (in_features, in_features) of the inputs, see `Compensation`, what counts is
    the error of the product instead. Raises `LoweringError`, calling the matrix ``name``, for
    elements that are not finite.
    """
    search = bits == 4 if search is None else search
    out_features, in_features = matrix.shape
    n_blocks = -(-in_features // block_size)
    width = n_blocks * block_size
    packed = np.empty((out_features, n_blocks, block_size * bits // 8), np.uint8)
    scales = np.empty((out_features, n_blocks), np.float32)
    zero_points = (
        None if symmetric else np.empty((out_features, -(-n_blocks * bits // 8)), np.uint8)
    )
    compensation = None if moments is None else rounding.Compensation(moments, width, name=name)
    chunk_elements = CHUNK_ELEMENTS if compensation is None else COMPENSATED_ROWS * width
    for rows in _row_chunks(out_features, width, chunk_elements):
        blocks = _blocks(matrix[rows], block_size)
        importance = None
        if compensation is not None:
            tiles = len(blocks) // n_blocks
            importance = np.tile(compensation.importance.reshape(n_blocks, -1), (tiles, 1))
        grids = rounding.fit_grids(
            blocks,
            bits,
            symmetric=symmetric,
            stretches=rounding.STRETCHES if search else (),
            importance=importance,
            name=name,
        )
        if compensation is None:
            codes = rounding.nearest_codes(blocks, grids, bits)
        else:
            codes = compensation.codes(blocks.reshape(-1, width), grids, bits)
        packed[rows] = _packed(codes, bits).reshape(packed[rows].shape)
        scales[rows] = grids.scales.reshape(-1, n_blocks)
        if zero_points is not None:
            zeros = grids.zeros.reshape(-1, n_blocks).astype(np.uint8)
            full_bytes = np.pad(zeros, ((0, 0), (0, -n_blocks % (8 // bits))))
            zero_points[rows] = _packed(full_bytes, bits)
    return BlockwiseMatrix(packed, scales, bits, block_size, in_features, zero_points)


def per_channel_int8(matrix: FloatMatrix, *, name: str = "matrix") -> ChannelwiseMatrix:
    """``matrix`` (out_features, in_features) in int8 from -127 to 127, one scale a row of it.

    Full range: the product with activations in uint8 is exact on processors with dot products
    of bytes (VNNI, or those of ARM). Older AVX2 and AVX-512 ones add pairs of products in 16 bits
    and may saturate there; only a range of 7 bits would rule that out, at twice the error.
    Raises `LoweringError`, calling the matrix ``name``, for elements that are not finite.
    """
    out_features, in_features = matrix.shape
    codes = np.empty((in_features, out_features), np.int8)
    scales = np.empty(out_features, np.float32)
    for rows in _row_chunks(out_features, in_features):
        chunk = np.ascontiguousarray(matrix[rows], np.float32)
        largest = np.maximum(chunk.max(axis=1), -chunk.min(axis=1))
        rounding.require_finite(largest, name)
        scales[rows] = largest / np.float32(127)
        scaled = chunk * rounding.inverse(scales[rows])[:, None]
        codes[:, rows] = np.rint(scaled, out=scaled).T
    return ChannelwiseMatrix(codes, scales)


def dequantize(matrix: BlockwiseMatrix | ChannelwiseMatrix) -> rounding.Float32:
    """The float32 matrix (out_features, in_features) that a quantized one stands for."""
    if isinstance(matrix, ChannelwiseMatrix):
        return np.ascontiguousarray(matrix.codes.T * matrix.scales[:, None])
    codes = _unpacked(matrix.packed, matrix.bits).astype(np.float32)
    blocks = (codes - matrix.zeros[..., None]) * matrix.scales[..., None]
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1)[:, : matrix.in_features])


def _row_chunks(
    rows: int, elements_per_row: int, chunk_elements: int | None = None
) -> Iterator[slice]:
    """Slices that together cover ``rows``, by default of about `CHUNK_ELEMENTS` elements each."""
    chunk_elements = CHUNK_ELEMENTS if chunk_elements is None else chunk_elements
    count = max(1, chunk_elements // max(1, elements_per_row))
    for start in range(0, rows, count):
        yield slice(start, min(rows, start + count))


def _blocks(rows: FloatMatrix, block_size: int) -> rounding.Float32:
    """Rows cut into float32 (rows * blocks, block_size), the last of each filled up with zeros."""
    behind = -rows.shape[1] % block_size
    if behind:
        rows = np.pad(rows, ((0, 0), (0, behind)))
    return np.ascontiguousarray(rows, np.float32).reshape(-1, block_size)


def _packed(codes: rounding.Codes, bits: rounding.Bits) -> rounding.Codes:
    """Codes as bytes: with 4 bits two in one, the first in the low half."""
    if bits == 8:
        return codes
    pairs = codes.view("<u2")
    packed: rounding.Codes = (pairs | (pairs >> 4)).astype(np.uint8)
    return packed


def _unpacked(packed: rounding.Codes, bits: rounding.Bits) -> rounding.Codes:
    """The codes that stand in bytes, one by one along the last axis."""
    if bits == 8:
        return packed
    halves = np.stack([packed & 0x0F, packed >> 4], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1)


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
    multiplied = op.MatMul(x, _as_floats(op, matrix, REALS[stored]), shape=shape)
    return multiplied if bias is None else op.Add(multiplied, bias)


def _as_floats(op: OpBuilder, matrix: Matrix, dtype: ir.DataType) -> ir.Value:
    """The matrix (in, out) in the type of the activations, stored as ``dtype``."""
    rows, columns = _size(op, matrix)
    name = f"{matrix.name}.weight"
    weight = op.stored(
        name, (columns, rows), lambda: _within(_joined(op, matrix, "weight"), dtype).T, dtype
    )
    return _real(op, weight)


def _within(array: npt.NDArray[np.float32], dtype: ir.DataType) -> npt.NDArray[np.float32]:
    """``array`` with what a small float cannot hold at its largest number, where numpy has nan."""
    if dtype not in {REALS[name] for name in CAST_FORMATS}:
        return array
    return np.clip(array, -dtype.max, dtype.max)


def _real(op: OpBuilder, weight: ir.Value) -> ir.Value:
    """A stored weight in the type of the activations, brought there once in a model."""
    if weight.dtype == op.real:
        return weight
    key = ("as real", weight.name)
    return op.shared(key, lambda: op.Cast(weight, to=op.real, dtype=op.real))


def _by_channel(
    op: OpBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None, shape: Shape
) -> ir.Value:
    """Activations in 8 bits too, their scale found at run time."""

    def make() -> tuple[ir.Value, ir.Value]:
        quantized = per_channel_int8(_joined(op, matrix, "weight"), name=matrix.name)
        return _stored(op, matrix, quantized.codes, quantized.scales)

    codes, scales = op.shared(("quantized", matrix.name), make)
    return op.DynamicQuantizeMatMul(x, codes, scales, None, bias, shape=shape)


def table(op: OpBuilder, owner: str) -> ir.Value:
    """An embedding's table (rows, width) that is stored in floats, as it is stored."""
    name, dtype = f"{owner}.weight", REALS[op.precision.table_format]
    return op.stored(name, op.array(name).shape, lambda: _within(op.array(name), dtype), dtype)


def tied_table(op: OpBuilder, owner: str) -> ir.Value | None:
    """What a tied head multiplies with where it reads the table as it is, turned in the product;
    None where its matrix is in codes."""
    if op.precision.matrix_format(EMBEDDING) not in REALS:
        return None
    return _real(op, table(op, owner))


def table_rows(op: OpBuilder, ids: ir.Value, owner: str, shape: Shape) -> ir.Value:
    """Rows of an embedding's table, by ids (batch, seq): ``shape`` (batch, seq, width)."""
    stored = op.precision.table_format
    if stored in REALS:
        floats = table(op, owner)
        if stored in CAST_FORMATS:  # which Gather does not take
            floats = _real(op, floats)
        rows = op.Gather(floats, ids, axis=0, shape=shape, dtype=floats.dtype)
        return rows if rows.dtype == op.real else op.Cast(rows, to=op.real, dtype=op.real)
    codes = Matrix((owner,), bias=False)
    count, width = _size(op, codes)
    size, bits = op.precision.block_size, WEIGHT_ONLY_BITS[stored]
    packed, scales, zero_points = _in_blocks(op, codes, bits)
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
    op: OpBuilder,
    x: ir.Value,
    matrix: Matrix,
    bits: rounding.Bits,
    bias: ir.Value | None,
    shape: Shape,
) -> ir.Value:
    """Weights alone in few bits. Accuracy level 4 multiplies in 8 bits; below it 8-bit weights
    are brought to floats at every call."""
    rows, columns = _size(op, matrix)
    packed, scales, zero_points = _in_blocks(op, matrix, bits)
    attributes: dict[str, Any] = {"K": columns, "N": rows, "bits": bits, "accuracy_level": 4}
    attributes["block_size"] = op.precision.block_size
    return op.MatMulNBits(x, packed, scales, zero_points, None, bias, shape=shape, **attributes)


def _in_blocks(
    op: OpBuilder, matrix: Matrix, bits: rounding.Bits
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
    arrays = [op.array(f"{owner}.{name}") for owner in matrix.owners]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
