"""Quantized matrices against ONNX Runtime's own quantizer, and against plain loops."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.capi import _pybind_state as ort_state

from rinsc.backends.onnx.write import matrices as quantize
from rinsc.backends.onnx.write import rounding
from rinsc.backends.onnx.write.matrices import (
    BlockwiseMatrix,
    blockwise,
    dequantize,
    per_channel_int8,
)
from rinsc.backends.onnx.write.rounding import Bits, Float32
from rinsc.errors import LoweringError

BITS: st.SearchStrategy[Bits] = st.sampled_from((4, 8))
BLOCK_SIZES = st.sampled_from((32, 128))


def random_matrix(rows: int, columns: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@st.composite
def matrices(draw: st.DrawFn) -> Float32:
    """Random matrices, with rows of zeros, of halves of steps, of one sign and of far sizes."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 300))
    matrix = random_matrix(rows, columns, draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.lists(st.sampled_from(sorted(ROWS)), min_size=rows, max_size=rows))
    return np.stack([ROWS[kind](row) for kind, row in zip(kinds, matrix, strict=True)])


def _halves(row: Float32) -> Float32:
    """Multiples of one half up to 8, which both ends have: 4 bits meet only ties."""
    halves = np.rint(4 * row) / np.float32(2)
    halves[::5], halves[1::5] = 8, -8
    return np.clip(halves, -8, 8)


ROWS: dict[str, Callable[[Float32], Float32]] = {
    "halves": _halves,
    "huge": lambda row: row * np.float32(5e37),
    "negative": lambda row: -np.abs(row),
    "normal": lambda row: row,
    "one": lambda row: np.where(np.arange(len(row)) == len(row) // 2, row, np.float32(0)),
    "positive": np.abs,
    "tiny": lambda row: row * np.float32(1e-33),
    "zero": np.zeros_like,
}


def ort_blockwise(matrix: Float32, bits: Bits, block_size: int, symmetric: bool) -> BlockwiseMatrix:
    """What ONNX Runtime's quantizer makes of it."""
    rows, columns = matrix.shape
    blocks = -(-columns // block_size)
    packed = np.zeros((rows, blocks, block_size * bits // 8), np.uint8)
    scales = np.zeros((rows, blocks), np.float32)
    zeros = np.zeros((rows, -(-blocks * bits // 8)), np.uint8)
    padded = np.ascontiguousarray(np.pad(matrix.T, ((0, -columns % block_size), (0, 0))))
    run = {4: ort_state.quantize_matmul_4bits, 8: ort_state.quantize_matmul_8bits}[bits]
    run(packed, padded, scales, zeros, block_size, rows, columns, symmetric)
    return BlockwiseMatrix(packed, scales, bits, block_size, columns, None if symmetric else zeros)


def codes_of(matrix: BlockwiseMatrix) -> npt.NDArray[np.uint8]:
    """The code of each element, (out_features, in_features)."""
    codes = np.zeros((len(matrix.packed), matrix.in_features), np.uint8)
    for column in range(matrix.in_features):
        block, within = divmod(column, matrix.block_size)
        byte = matrix.packed[:, block, within * matrix.bits // 8]
        codes[:, column] = byte if matrix.bits == 8 else (byte >> 4 * (within % 2)) & 15
    return codes


def zeros_of(matrix: BlockwiseMatrix) -> npt.NDArray[np.float32]:
    """The zero point of each element, (out_features, in_features)."""
    zeros = np.full((len(matrix.packed), matrix.in_features), 2.0 ** (matrix.bits - 1), np.float32)
    if matrix.zero_points is not None:
        for column in range(matrix.in_features):
            block = column // matrix.block_size
            byte = matrix.zero_points[:, block * matrix.bits // 8]
            zeros[:, column] = byte if matrix.bits == 8 else (byte >> 4 * (block % 2)) & 15
    return zeros


@given(matrices(), BITS, BLOCK_SIZES, st.booleans())
def test_the_plain_rule_is_that_of_onnx_runtime(
    matrix: Float32, bits: Bits, block_size: int, symmetric: bool
) -> None:
    ours = blockwise(matrix, bits, block_size, symmetric=symmetric, search=False)
    theirs = ort_blockwise(matrix, bits, block_size, symmetric)
    np.testing.assert_array_equal(ours.scales, theirs.scales)
    np.testing.assert_array_equal(codes_of(ours), codes_of(theirs))
    np.testing.assert_array_equal(zeros_of(ours), zeros_of(theirs))
    if matrix.shape[1] % block_size == 0:
        np.testing.assert_array_equal(ours.packed, theirs.packed)


def test_another_rounding_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_BELOW_HALF", np.float32(0.49))
    with pytest.raises(AssertionError):
        test_the_plain_rule_is_that_of_onnx_runtime()


@given(matrices(), BITS, BLOCK_SIZES, st.booleans(), st.booleans())
def test_dequantizing_is_scale_times_code(
    matrix: Float32, bits: Bits, block_size: int, symmetric: bool, search: bool
) -> None:
    quantized = blockwise(matrix, bits, block_size, symmetric=symmetric, search=search)
    steps = codes_of(quantized).astype(np.float32) - zeros_of(quantized)
    scales = np.repeat(quantized.scales, block_size, axis=1)[:, : matrix.shape[1]]
    np.testing.assert_array_equal(dequantize(quantized), steps * scales)


@given(matrices(), BITS, BLOCK_SIZES, st.booleans())
def test_an_element_moves_by_a_step_at_most(
    matrix: Float32, bits: Bits, block_size: int, symmetric: bool
) -> None:
    """Half a step, and a whole one at the end that has one code less."""
    quantized = blockwise(matrix, bits, block_size, symmetric=symmetric, search=False)
    step = np.repeat(np.abs(quantized.scales), block_size, axis=1)[:, : matrix.shape[1]]
    moved = np.abs(dequantize(quantized).astype(np.float64) - matrix)
    assert (moved <= step * 1.0001 + 1e-37).all()
    assert (moved[step == 0] == 0).all()


@given(matrices(), BLOCK_SIZES, st.booleans())
def test_the_search_never_adds_error(matrix: Float32, block_size: int, symmetric: bool) -> None:
    errors = {}
    for search in (False, True):
        quantized = blockwise(matrix, 4, block_size, symmetric=symmetric, search=search)
        back = dequantize(quantized).astype(np.float64)
        columns = np.pad((back - matrix) ** 2, ((0, 0), (0, -matrix.shape[1] % block_size)))
        errors[search] = columns.reshape(len(matrix), -1, block_size).sum(axis=-1)
    rounding = 1e-12 * np.square(matrix, dtype=np.float64).sum(axis=1)[:, None]
    assert (errors[True] <= errors[False] * 1.0001 + rounding).all()


def test_a_search_that_adds_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "STRETCHES", (0.5,))
    with pytest.raises(AssertionError):
        test_the_search_never_adds_error()


@pytest.mark.parametrize("block_size", [32, 128])
def test_the_search_is_worth_it(block_size: int) -> None:
    matrix = random_matrix(256, 512)
    plain, searched = (
        np.square(dequantize(blockwise(matrix, 4, block_size, search=search)) - matrix).mean()
        for search in (False, True)
    )
    assert np.sqrt(searched / plain) < 0.95
    default = blockwise(matrix, 4, block_size)
    assert (default.packed == blockwise(matrix, 4, block_size, search=True).packed).all()
    default = blockwise(matrix, 8, block_size)
    assert (default.packed == blockwise(matrix, 8, block_size, search=False).packed).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, bits: Bits) -> None:
    matrix = random_matrix(37, 100)
    whole, channels = blockwise(matrix, bits), per_channel_int8(matrix)
    for view in (np.asfortranarray(matrix), matrix.astype(np.float64)):
        monkeypatch.setattr(quantize, "CHUNK_ELEMENTS", 500)
        parts = blockwise(view, bits)
        np.testing.assert_array_equal(parts.packed, whole.packed)
        np.testing.assert_array_equal(parts.scales, whole.scales)
        np.testing.assert_array_equal(per_channel_int8(view).codes, channels.codes)


@given(matrices())
def test_channels_are_within_half_a_step(matrix: Float32) -> None:
    quantized = per_channel_int8(matrix)
    assert quantized.codes.shape == matrix.shape[::-1]
    assert quantized.codes.min() >= -127
    back = dequantize(quantized)
    for row, scale, found in zip(matrix, quantized.scales, back, strict=True):
        assert scale == np.float32(np.abs(row).max() / np.float32(127))
        assert (np.abs(found.astype(np.float64) - row) <= 0.5001 * scale + 1e-37).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 31, 69])
def test_weights_that_are_no_numbers_are_named(wrong: float, column: int) -> None:
    matrix = random_matrix(40, 70)
    matrix[17, column] = wrong
    for run in (
        lambda: blockwise(matrix, 4, name="A.0.up"),
        lambda: blockwise(matrix, 8, 128, name="A.0.up"),
        lambda: per_channel_int8(matrix, name="A.0.up"),
    ):
        with pytest.raises(LoweringError, match=r"'A\.0\.up'") as caught:
            run()
        assert caught.value.code == "not-finite"


def test_memory_is_that_of_the_result() -> None:
    matrix = random_matrix(1024, 2048)
    for run in (lambda: blockwise(matrix, 4), lambda: per_channel_int8(matrix)):
        tracemalloc.start()
        try:
            result = run()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < result.nbytes + 2**21
