"""Matrices in few bits, in the layouts that ONNX Runtime's operators read.

A block is here a run of input features that shares one scale. All is symmetric: a zero weight
stays zero, and no zero points are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.errors import LoweringError, Problem

Bits: TypeAlias = Literal[4, 8]
FloatMatrix: TypeAlias = npt.NDArray[np.floating[Any]]
Float32: TypeAlias = npt.NDArray[np.float32]

CHUNK_ELEMENTS = 2**16  # what one step works on: its temporaries stay in the cache of a core
STRETCHES = (0.88, 0.94, 1.0, 1.06, 1.12)  # of a block's scale, tried by the search
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))


@dataclass(frozen=True)
class BlockwiseMatrix:
    """A matrix as `MatMulNBits` (com.microsoft) reads it, in blocks along the input features.

    ``packed`` is uint8 (out_features, blocks, block_size * bits / 8), with 4 bits the even element
    in the low half of a byte; ``scales`` is float32 (out_features, blocks). A weight is
    scale * (code - 2^(bits - 1)); elements behind the last input feature stand for 0.
    """

    packed: npt.NDArray[np.uint8]
    scales: Float32
    bits: Bits
    block_size: int
    in_features: int

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes


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
    search: bool | None = None,
    name: str = "matrix",
) -> BlockwiseMatrix:
    """``matrix`` (out_features, in_features) in ``bits`` bits, one scale a block.

    The plain rule is that of ONNX Runtime's own quantizer: the element of largest magnitude gets
    the lowest code. ``search`` instead takes the scale of least squared error among those that a
    few stretches of it lead to; by default it is done for 4 bits, where it counts. Raises
    `LoweringError`, calling the matrix ``name``, for elements that are not finite.
    """
    search = bits == 4 if search is None else search
    out_features, in_features = matrix.shape
    n_blocks = -(-in_features // block_size)
    packed = np.empty((out_features, n_blocks, block_size * bits // 8), np.uint8)
    scales = np.empty((out_features, n_blocks), np.float32)
    for rows in _row_chunks(out_features, n_blocks * block_size):
        blocks = _blocks(matrix[rows], block_size)
        chosen = _plain_scales(blocks, bits, name)
        if search:
            chosen *= _best_stretches(blocks, chosen, bits)
        codes = _codes(blocks, chosen, bits)
        packed[rows] = _packed(codes, bits).reshape(packed[rows].shape)
        scales[rows] = chosen.reshape(-1, n_blocks)
    return BlockwiseMatrix(packed, scales, bits, block_size, in_features)


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
        _require_finite(largest, name)
        scales[rows] = largest / np.float32(127)
        scaled = chunk * _inverse(scales[rows])[:, None]
        codes[:, rows] = np.rint(scaled, out=scaled).T
    return ChannelwiseMatrix(codes, scales)


def dequantize(matrix: BlockwiseMatrix | ChannelwiseMatrix) -> Float32:
    """The float32 matrix (out_features, in_features) that a quantized one stands for."""
    if isinstance(matrix, ChannelwiseMatrix):
        return np.ascontiguousarray(matrix.codes.T * matrix.scales[:, None])
    codes = matrix.packed
    if matrix.bits == 4:
        halves = np.stack([codes & 0x0F, codes >> 4], axis=-1)
        codes = halves.reshape(*codes.shape[:2], matrix.block_size)
    blocks = (codes.astype(np.float32) - _middle(matrix.bits)) * matrix.scales[..., None]
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1)[:, : matrix.in_features])


def _row_chunks(rows: int, elements_per_row: int) -> Iterator[slice]:
    """Slices that together cover ``rows``, of about `CHUNK_ELEMENTS` elements each."""
    step = max(1, CHUNK_ELEMENTS // max(1, elements_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def _blocks(rows: FloatMatrix, block_size: int) -> Float32:
    """Rows cut into float32 (rows * blocks, block_size), the last of each filled up with zeros."""
    behind = -rows.shape[1] % block_size
    if behind:
        rows = np.pad(rows, ((0, 0), (0, behind)))
    return np.ascontiguousarray(rows, np.float32).reshape(-1, block_size)


def _plain_scales(blocks: Float32, bits: Bits, name: str) -> Float32:
    """Scales (blocks) that put the element of largest magnitude at the lowest code."""
    highest, lowest = _extremes(blocks)
    peaks: Float32 = np.where(highest > -lowest, highest, lowest)
    _require_finite(peaks, name)
    return peaks / np.float32(-_middle(bits))


def _extremes(blocks: Float32) -> tuple[Float32, Float32]:
    """The highest and the lowest element of each block, by halving: quicker than an axis's max."""
    highest = lowest = blocks
    while (half := highest.shape[1] // 2) > 0:
        highest = np.maximum(highest[:, :half], highest[:, half:])
        lowest = np.minimum(lowest[:, :half], lowest[:, half:])
    return highest[:, 0], lowest[:, 0]


def _best_stretches(blocks: Float32, scales: Float32, bits: Bits) -> Float32:
    """Factors (blocks) of the scales, for less squared error.

    Given its codes q, a block x has the least squared error at the scale <x, q> / <q, q>, and
    that error is |x|^2 - <x, q>^2 / <q, q>.
    """
    in_steps = blocks * _inverse(scales)[:, None]
    codes = np.empty_like(in_steps)
    most_explained = np.zeros_like(scales)
    best = np.ones_like(scales)
    for stretch in STRETCHES:
        np.multiply(in_steps, np.float32(1 / stretch), out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, -_middle(bits), _middle(bits) - 1, out=codes)
        product = np.einsum("bk,bk->b", in_steps, codes)
        fitted = product / np.maximum(np.einsum("bk,bk->b", codes, codes), 1)
        explained = product * fitted
        better = explained > most_explained
        most_explained[better] = explained[better]
        best[better] = fitted[better]
    return best


def _codes(blocks: Float32, scales: Float32, bits: Bits) -> npt.NDArray[np.uint8]:
    """The codes (blocks, block_size) nearest to the elements; halves are rounded up."""
    shifted = blocks * _inverse(scales)[:, None]
    shifted += _middle(bits)
    np.clip(shifted, 0, 2 * _middle(bits) - 1, out=shifted)
    shifted += _BELOW_HALF
    return shifted.astype(np.uint8)


def _packed(codes: npt.NDArray[np.uint8], bits: Bits) -> npt.NDArray[np.uint8]:
    """Codes as bytes: with 4 bits two in one, the first in the low half."""
    if bits == 8:
        return codes
    pairs = codes.view("<u2")
    packed: npt.NDArray[np.uint8] = (pairs | (pairs >> 4)).astype(np.uint8)
    return packed


def _inverse(scales: Float32) -> Float32:
    """1 / scale, and 0 where that is no number: such a block is zero, or below 1e-37."""
    usable = np.abs(scales) >= np.finfo(np.float32).smallest_normal
    return np.divide(1, scales, out=np.zeros_like(scales), where=usable)


def _middle(bits: Bits) -> int:
    return 1 << (bits - 1)


def _require_finite(values: Float32, name: str) -> None:
    if not np.isfinite(values).all():
        message = f"'{name}' holds elements that are not finite, and cannot be quantized"
        hint = "export it in fp32, or take weights from before the training diverged"
        raise LoweringError(Problem("not-finite", message, hint=hint))
