"""The cache of a session: what it holds, and the names and shapes of a graph's slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rinsc.errors import LoweringError, Problem

PAST, PRESENT = "past_key_values.", "present."

BFLOAT16 = 16  # ONNX's number of the type, of which numpy has none

# Element types of a cache as the runtime names them, and what its values are made from.
TYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": BFLOAT16,
}


@dataclass(frozen=True, eq=False)
class Past:
    """Keys and values of what was given so far, as the runtime holds them.

    ``mask`` (batch, length) says which of it counts. It belongs to the session, ``owner``, and to
    the rounds that it was made at. ``values`` are the runtime's, or the buffers that hold them.
    """

    owner: object
    rounds: Mapping[str, int]
    mask: npt.NDArray[np.int64]
    values: Any

    def __reduce__(self) -> NoReturn:
        raise not_picklable("the cache of a session")

    @property
    def batch(self) -> int:
        return len(self.mask)

    @property
    def length(self) -> int:
        return int(self.mask.shape[1])

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence that count."""
        totals: npt.NDArray[np.int64] = self.mask.sum(axis=1)
        return totals


def not_picklable(what: str) -> LoweringError:
    """The error for what the runtime holds, which no other process can have."""
    message = f"{what} belongs to its process: it cannot be pickled nor copied"
    hint = "pass on the model or its path, and make a Session of it there"
    return LoweringError(Problem("not-picklable", message, hint=hint))


@dataclass(frozen=True)
class CacheLayout:
    """The names and shapes of a graph's past keys and values; empty for a graph without a cache."""

    shapes: Mapping[str, Sequence[int | str]]
    dtype: Any

    @classmethod
    def of(cls, inputs: Sequence[Any]) -> CacheLayout:
        given = {each.name: each for each in inputs if each.name.startswith(PAST)}
        types = {TYPES[each.type] for each in given.values()}
        dtype = types.pop() if types else np.float32
        return cls({name: each.shape for name, each in given.items()}, dtype)

    @property
    def outputs(self) -> list[str]:
        return [PRESENT + name.removeprefix(PAST) for name in self.shapes]

    def sizes(self, batch: int, past: int, rounds: Mapping[str, int]) -> dict[str, list[int]]:
        """The shape of each slot with room for ``past`` positions."""
        known = {"batch": batch, "past": past}
        known |= {f"rounds_{name}": count for name, count in rounds.items()}
        return {
            name: [known[dim] if isinstance(dim, str) else dim for dim in shape]
            for name, shape in self.shapes.items()
        }
