"""What a session is given, checked before it reaches the runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.errors import Problem, RinscError
from rinsc.layers import ModelInput
from rinsc.spec import ModelSpec


def checked_input(given: npt.ArrayLike, wanted: ModelInput, spec: ModelSpec) -> npt.NDArray[Any]:
    """Token ids as int64 (batch, seq), or numbers as float32 (batch, seq, …).

    Raises `RinscError` for another shape, other numbers, and token ids out of range.
    """
    try:
        array = np.asarray(given)
    except ValueError:
        array = np.empty(0)
    static = [size for size in wanted.shape if isinstance(size, int)]
    fits = array.ndim == len(wanted.shape) and list(array.shape[2:]) == static
    if not fits or array.size == 0 or array.dtype.kind not in _KINDS[wanted.dtype]:
        shape = f"({', '.join(map(str, wanted.shape))})"
        words = {"int64": "token ids must be whole numbers", "float32": "patches must be numbers"}
        message = f"{words[wanted.dtype]}, {shape}, not {array.dtype} {array.shape}"
        raise RinscError(Problem("bad-input", message, hint="give rows of equal length"))
    if wanted.dtype == "int64" and (array.min() < 0 or array.max() >= spec.vocab_size):
        message = f"token ids go from {array.min()} to {array.max()}"
        hint = f"they must be from 0 to {spec.vocab_size - 1}"
        raise RinscError(Problem("bad-input", message, hint=hint))
    return array.astype(wanted.dtype)


_KINDS = {"int64": "iu", "float32": "iuf"}


def checked_mask(given: npt.ArrayLike | None, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Which tokens count, (batch, past + seq); all where nothing is given. Raises `RinscError`."""
    if given is None:
        return np.ones(shape, np.int64)
    try:
        array = np.asarray(given)
    except ValueError:
        array = np.empty(0)
    if array.shape != shape or not np.isin(array, (0, 1)).all():
        message = f"attention_mask must be zeros and ones, {shape}, not {array.dtype} {array.shape}"
        raise RinscError(Problem("bad-input", message, hint="give 1 for each token that counts"))
    return array.astype(np.int64)
