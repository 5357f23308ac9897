"""Matrices in few bits, in the layouts that ONNX Runtime's operators read.

A block is here a run of input features that shares one scale, and one zero point where there are
any. A weight that is zero stays zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.write.rounding import (
    STRETCHES,
    Bits,
    Codes,
    Compensation,
    Float32,
    fit_grids,
    inverse,
    nearest_codes,
    require_finite,
)

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

    packed: Codes
    scales: Float32
    bits: Bits
    block_size: int
    in_features: int
    zero_points: Codes | None = None

    @property
    def nbytes(self) -> int:
        zero_points = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.packed.nbytes + self.scales.nbytes + zero_points

    @property
    def zeros(self) -> Float32:
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
    scales: Float32

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


def blockwise(
    matrix: FloatMatrix,
    bits: Bits,
    block_size: int = 32,
    *,
    symmetric: bool = True,
    search: bool | None = None,
    moments: Float32 | None = None,
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
    compensation = None if moments is None else Compensation(moments, width, name=name)
    chunk_elements = CHUNK_ELEMENTS if compensation is None else COMPENSATED_ROWS * width
    for rows in _row_chunks(out_features, width, chunk_elements):
        blocks = _blocks(matrix[rows], block_size)
        importance = None
        if compensation is not None:
            tiles = len(blocks) // n_blocks
            importance = np.tile(compensation.importance.reshape(n_blocks, -1), (tiles, 1))
        grids = fit_grids(
            blocks,
            bits,
            symmetric=symmetric,
            stretches=STRETCHES if search else (),
            importance=importance,
            name=name,
        )
        if compensation is None:
            codes = nearest_codes(blocks, grids, bits)
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
        require_finite(largest, name)
        scales[rows] = largest / np.float32(127)
        scaled = chunk * inverse(scales[rows])[:, None]
        codes[:, rows] = np.rint(scaled, out=scaled).T
    return ChannelwiseMatrix(codes, scales)


def dequantize(matrix: BlockwiseMatrix | ChannelwiseMatrix) -> Float32:
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
    step = max(1, chunk_elements // max(1, elements_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def _blocks(rows: FloatMatrix, block_size: int) -> Float32:
    """Rows cut into float32 (rows * blocks, block_size), the last of each filled up with zeros."""
    behind = -rows.shape[1] % block_size
    if behind:
        rows = np.pad(rows, ((0, 0), (0, behind)))
    return np.ascontiguousarray(rows, np.float32).reshape(-1, block_size)


def _packed(codes: Codes, bits: Bits) -> Codes:
    """Codes as bytes: with 4 bits two in one, the first in the low half."""
    if bits == 8:
        return codes
    pairs = codes.view("<u2")
    packed: Codes = (pairs | (pairs >> 4)).astype(np.uint8)
    return packed


def _unpacked(packed: Codes, bits: Bits) -> Codes:
    """The codes that stand in bytes, one by one along the last axis."""
    if bits == 8:
        return packed
    halves = np.stack([packed & 0x0F, packed >> 4], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1)
