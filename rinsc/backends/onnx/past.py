"""The cache of a session: what it is at the start, and how it comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

PAST, PRESENT = "past_key_values.", "present."


@dataclass(frozen=True)
class Past:
    """Keys and values of ``length`` positions of ``batch`` sequences, as the runtime holds them.

    They belong to the session, ``owner``, and to the rounds that they were made at.
    """

    owner: object
    batch: int
    length: int
    rounds: Mapping[str, int]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class CacheLayout:
    """The names and shapes of a graph's past keys and values; empty for a graph without a cache."""

    shapes: Mapping[str, Sequence[int | str]]

    @classmethod
    def of(cls, inputs: Sequence[Any]) -> CacheLayout:
        return cls({given.name: given.shape for given in inputs if given.name.startswith(PAST)})

    @property
    def outputs(self) -> list[str]:
        return [PRESENT + name.removeprefix(PAST) for name in self.shapes]

    def empty(self, owner: object, batch: int, rounds: Mapping[str, int]) -> Past:
        """The cache of no position."""
        from onnxruntime import OrtValue

        sizes = {"batch": batch, "past": 0}
        sizes |= {f"rounds_{name}": count for name, count in rounds.items()}
        values = {}
        for name, shape in self.shapes.items():
            full = [sizes[dim] if isinstance(dim, str) else dim for dim in shape]
            values[name] = OrtValue.ortvalue_from_shape_and_type(full, np.float32)
        return Past(owner, batch, 0, rounds, values)

    def run(self, session: Any, arrays: Mapping[str, Any], past: Past) -> list[Any]:
        """Logits and what is present, as values of the runtime: a cache is never copied out."""
        from onnxruntime import OrtValue

        # The arrays are held until the run is over: the runtime's values do not keep them alive.
        given = {name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        made: list[Any] = session.run_with_ort_values(
            ["logits", *self.outputs], {**given, **past.values}
        )
        return made

    def next(self, before: Past, new: int, present: Sequence[Any]) -> Past:
        """The cache after ``new`` positions more."""
        values = dict(zip(self.shapes, present, strict=True))
        return replace(before, length=before.length + new, values=values)
