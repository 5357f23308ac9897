"""Which of a few values each weight of a matrix becomes.

The weights of a block share a grid: scale * (code - zero point), where the codes have a few bits.
`fit_grids` chooses the grids, and `nearest_codes` rounds each weight to its grid. `Compensation`
does better where it is known what a matrix is multiplied with: it rounds one input feature after
another, the most active first, and each makes up for the errors of those before it. This is GPTQ
(Frantar et al. 2022), in the form that needs no inverse (Chee et al. 2023). The grids are fixed
before, so that the order costs nothing later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.errors import LoweringError

Bits: TypeAlias = Literal[4, 8]
Codes: TypeAlias = npt.NDArray[np.uint8]
Float32: TypeAlias = npt.NDArray[np.float32]

STRETCHES = (0.88, 0.94, 1.0, 1.06, 1.12)  # of a block's scale, tried by the search
DAMPING = 0.01  # of the mean activity, added to that of each feature: some inputs are rare
PANEL = 32  # features whose errors are spread at once
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))


@dataclass(frozen=True)
class Grids:
    """The values of each block: scale * (code - zero). Both are float32 (blocks)."""

    scales: Float32
    zeros: Float32


def fit_grids(
    blocks: Float32,
    bits: Bits,
    *,
    symmetric: bool,
    stretches: Sequence[float] = (),
    importance: Float32 | None = None,
    name: str = "matrix",
) -> Grids:
    """The grids of blocks (blocks, block_size).

    The plain rule is that of ONNX Runtime's own quantizer. Symmetric: 0 stands in the middle, and
    the element of largest magnitude gets the lowest code. Else the codes go from the lowest
    element to the highest, with 0 among them. ``stretches`` of that scale are tried for less
    squared error, weighted by ``importance`` (blocks, block_size). Raises `LoweringError` for
    elements that are not finite.
    """
    plain = _plain_grids(blocks, bits, symmetric=symmetric, name=name)
    if not stretches:
        return plain
    return _best_grids(blocks, plain, bits, stretches, importance=importance, symmetric=symmetric)


def nearest_codes(blocks: Float32, grids: Grids, bits: Bits) -> Codes:
    """The codes (blocks, block_size) nearest to the elements; halves are rounded up."""
    shifted = blocks * inverse(grids.scales)[:, None]
    shifted += grids.zeros[:, None]
    np.clip(shifted, 0, _highest(bits), out=shifted)
    shifted += _BELOW_HALF
    return shifted.astype(np.uint8)


class Compensation:
    """How the error of a feature is made up for by those that are rounded after it.

    ``moments`` (in_features, in_features) are sums of products of input features over tokens; the
    matrix that is rounded has ``width`` input features, those behind ``in_features`` being padding.
    Raises `LoweringError` for moments that are not finite.
    """

    def __init__(self, moments: Float32, width: int, *, name: str = "matrix") -> None:
        require_finite(moments, name, "meets inputs")
        size = len(moments)
        whole = np.zeros((width, width))
        whole[:size, :size] = moments
        activity = np.diagonal(whole).copy()
        self.importance = activity.astype(np.float32)
        whole[np.diag_indices(width)] += max(DAMPING * activity[:size].mean(), 1e-30)
        self._order = np.argsort(-activity, kind="stable")
        # With features in this order, moments = (U + I) D (U + I)^T, U strictly upper triangular.
        backwards = whole[np.ix_(self._order[::-1], self._order[::-1])]
        root = np.linalg.cholesky(backwards)[::-1, ::-1]
        self._feedback: Float32 = (root / np.diagonal(root)).astype(np.float32)

    def codes(self, rows: Float32, grids: Grids, bits: Bits) -> Codes:
        """The codes of float32 rows (rows, width), given the grids of their blocks."""
        order, feedback, width = self._order, self._feedback, rows.shape[1]
        features = np.ascontiguousarray(rows[:, order].T)
        blocks = order // (rows.size // len(grids.scales))
        scales, zeros = (
            np.ascontiguousarray(values.reshape(len(rows), -1).T)
            for values in (grids.scales, grids.zeros)
        )
        inverse_scales = inverse(scales)
        errors = np.empty_like(features)
        codes = np.empty(features.shape, np.uint8)
        for start in range(0, width, PANEL):
            panel = slice(start, min(start + PANEL, width))
            corrected = features[panel] + feedback[:start, panel].T @ errors[:start]
            for feature in range(start, panel.stop):
                block = blocks[feature]
                # Small sums: einsum keeps to this thread, where a product would wake all of them.
                before = slice(start, feature)
                aim = np.einsum("f,fr->r", feedback[before, feature], errors[before])
                aim += corrected[feature - start]
                code = aim * inverse_scales[block] + zeros[block]
                np.clip(code, 0, _highest(bits), out=code)
                np.floor(code + _BELOW_HALF, out=code)
                codes[feature] = code
                errors[feature] = features[feature] - (code - zeros[block]) * scales[block]
        back = np.empty((len(rows), width), np.uint8)
        back[:, order] = codes.T
        return back


def inverse(scales: Float32) -> Float32:
    """1 / scale, and 0 where that is no number: such a block is zero, or below 1e-37."""
    usable = np.abs(scales) >= np.finfo(np.float32).smallest_normal
    return np.divide(1, scales, out=np.zeros_like(scales), where=usable)


def require_finite(values: npt.NDArray[np.floating[Any]], name: str, what: str = "holds") -> None:
    if not np.isfinite(values).all():
        message = f"'{name}' {what} elements that are not finite, and cannot be quantized"
        hint = "export it in fp32, or take weights from before the training diverged"
        raise LoweringError("not-finite", message, hint=hint)


def _plain_grids(blocks: Float32, bits: Bits, *, symmetric: bool, name: str) -> Grids:
    highest, lowest = _extremes(blocks)
    if symmetric:
        peaks: Float32 = np.where(highest > -lowest, highest, lowest)
        require_finite(peaks, name)
        middle = np.float32(1 << (bits - 1))
        return Grids(peaks / -middle, np.full_like(peaks, middle))
    require_finite(highest, name)
    require_finite(lowest, name)
    np.maximum(highest, 0, out=highest)
    np.minimum(lowest, 0, out=lowest)
    # Halves first: the difference of two large numbers is not finite.
    scales: Float32 = np.subtract(highest / 2, lowest / 2, dtype=np.float32)
    scales /= np.float32(_highest(bits) / 2)
    zeros = np.divide(-lowest, scales, out=np.zeros_like(scales), where=scales != 0)
    np.clip(zeros, 0, _highest(bits), out=zeros)
    zeros += _BELOW_HALF
    return Grids(scales, np.floor(zeros, out=zeros))


def _extremes(blocks: Float32) -> tuple[Float32, Float32]:
    """The highest and the lowest element of each block, by halving: quicker than an axis's max."""
    highest = lowest = blocks
    while (half := highest.shape[1] // 2) > 0:
        highest = np.maximum(highest[:, :half], highest[:, half:])
        lowest = np.minimum(lowest[:, :half], lowest[:, half:])
    return highest[:, 0], lowest[:, 0]


def _best_grids(
    blocks: Float32,
    plain: Grids,
    bits: Bits,
    stretches: Sequence[float],
    *,
    importance: Float32 | None,
    symmetric: bool,
) -> Grids:
    """The grids of least squared error among those that stretches of the plain scale lead to.

    Given its codes q, counted from the zero point, a block x has the least squared error at the
    scale <x, q> / <q, q>, and that error is |x|^2 - <x, q>^2 / <q, q>.
    """
    in_steps = blocks * inverse(plain.scales)[:, None]
    weighted = in_steps if importance is None else in_steps * importance
    codes = np.empty_like(in_steps)
    most_explained = np.zeros_like(plain.scales)
    factors = np.ones_like(plain.scales)
    zeros = plain.zeros.copy()
    middle = np.float32(_highest(bits) / 2)
    for stretch in stretches:
        zero = plain.zeros
        if not symmetric and stretch != 1:  # what is left out is left out at both ends
            zero = np.rint(middle + (plain.zeros - middle) / np.float32(stretch))
            np.clip(zero, 0, _highest(bits), out=zero)
        np.multiply(in_steps, np.float32(1 / stretch), out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, -zero[:, None], _highest(bits) - zero[:, None], out=codes)
        product = np.einsum("bk,bk->b", weighted, codes)
        size = _weighted_square(codes, importance)
        fitted = np.divide(product, size, out=np.zeros_like(product), where=size > 0)
        explained = product * fitted
        better = (explained > most_explained) & (fitted > 0)
        most_explained[better] = explained[better]
        factors[better] = fitted[better]
        zeros[better] = zero[better]
    return Grids(plain.scales * factors, zeros)


def _weighted_square(codes: Float32, importance: Float32 | None) -> Float32:
    square: Float32
    if importance is None:
        square = np.einsum("bk,bk->b", codes, codes)
    else:
        square = np.einsum("bk,bk,bk->b", codes, codes, importance)
    return square


def _highest(bits: Bits) -> int:
    return (1 << bits) - 1
