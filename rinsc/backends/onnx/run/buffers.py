"""The cache of a session: its layout, and buffers appended to in place or by copying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn
from weakref import ref

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.contract import BFLOAT16, IDS, LOGITS, PAST, present_of, rounds_of
from rinsc.errors import LoweringError

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
    return LoweringError("not-picklable", message, hint=hint)


@dataclass(frozen=True)
class CacheLayout:
    """The names and shapes of a graph's past keys and values; empty for a graph without a cache."""

    shapes: Mapping[str, Sequence[int | str]]
    dtype: Any

    @classmethod
    def of(cls, inputs: Sequence[Any]) -> CacheLayout:
        slots = {value.name: value for value in inputs if value.name.startswith(PAST)}
        types = {TYPES[value.type] for value in slots.values()}
        dtype = types.pop() if types else np.float32
        return cls({name: value.shape for name, value in slots.items()}, dtype)

    @property
    def outputs(self) -> list[str]:
        return [present_of(name) for name in self.shapes]

    def sizes(self, batch: int, past: int, rounds: Mapping[str, int]) -> dict[str, list[int]]:
        """The shape of each slot with room for ``past`` positions."""
        sizes = {"batch": batch, "past": past}
        sizes |= {rounds_of(name): count for name, count in rounds.items()}
        return {
            name: [sizes[dim] if isinstance(dim, str) else dim for dim in shape]
            for name, shape in self.shapes.items()
        }

    def is_first_part(self, few: Mapping[str, int], rounds: Mapping[str, int]) -> bool:
        """Whether a cache of ``few`` rounds stands in one piece within one of ``rounds``.

        Of a repeat within another it does only where the outer one has 1 round.
        """
        wholes, parts = self.sizes(1, 1, rounds), self.sizes(1, 1, few)
        for name, part in parts.items():
            fewer = [place for place, size in enumerate(part) if size < wholes[name][place]]
            if fewer and any(size > 1 for size in part[: fewer[-1]]):
                return False
        return True


FIRST_CAPACITY = 256  # positions; more are made room for as they come


@dataclass(frozen=True)
class Runtime:
    """A session of ONNX Runtime on a device, and what is to be known of its cached model."""

    session: Any
    layout: CacheLayout
    device: str
    context: int
    vocab_size: int
    used: Mapping[str, npt.NDArray[np.int64]]  # outputs: the rounds that ran last


@dataclass(eq=False)
class Buffers:
    """Room for the keys and values of ``capacity`` positions, and what is bound to it.

    ``in_place``: what is present is written where what is past stands; else beside it, and the two
    change places after each run. ``written`` is what was appended last; only that may be appended
    to. A weak reference, so that memory is given back as soon as nobody holds the cache.
    """

    runtime: Runtime
    batch: int
    rounds: Mapping[str, int]
    capacity: int
    in_place: bool
    values: dict[str, Any] = field(init=False)
    binding: Any = field(init=False)
    written: ref[Past] | None = None
    _spare: dict[str, Any] = field(init=False)
    _arrays: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from onnxruntime import OrtValue

        self.values = self._room()
        self._spare = self.values if self.in_place else self._room()
        self.binding = self.runtime.session.io_binding()
        self._bind_cache()
        for name, count in self.runtime.used.items():
            self.binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(count))

    def run(self, arrays: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """The logits for these inputs, whose keys and values stand in the buffers then."""
        from onnxruntime import OrtValue

        for name, array in arrays.items():
            self.binding.bind_cpu_input(name, array)
        logits = np.empty((*arrays[IDS].shape, self.runtime.vocab_size), np.float32)
        self.binding.bind_ortvalue_output(LOGITS, OrtValue.ortvalue_from_numpy(logits))
        self.runtime.session.run_with_iobinding(self.binding)
        if not self.in_place:
            self.values, self._spare = self._spare, self.values
            self._bind_cache()
        return logits

    def copied(self, capacity: int) -> Buffers:
        """Buffers of their own with the same content, and room for so many positions.

        Raises `LoweringError` for numbers that only the runtime can read.
        """
        if self.runtime.layout.dtype == BFLOAT16:
            message = "a cache in bf16 can be continued in one way only"
            hint = "run the tokens before it again, or export the model in fp16"
            raise LoweringError("another-cache", message, hint=hint)
        larger = Buffers(self.runtime, self.batch, self.rounds, capacity, self.in_place)
        for name, value in self.values.items():
            old = value.numpy()
            shared = min(self.capacity, capacity)
            new = larger.values[name].numpy()
            new[..., :shared, :] = old[..., :shared, :]
            larger.values[name].update_inplace(new)
        return larger

    def first_rounds(self, rounds: Mapping[str, int]) -> dict[str, Any]:
        """The same memory as the cache of fewer rounds, on the CPU and appended to in place.

        They must be the first part of it: see `CacheLayout.is_first_part`.
        """
        from onnxruntime import OrtValue

        sizes = self.runtime.layout.sizes(self.batch, self.capacity, rounds)
        parts = {
            name: self._arrays[name][0][tuple(map(slice, shape))] for name, shape in sizes.items()
        }
        return {name: OrtValue.ortvalue_from_numpy(part) for name, part in parts.items()}

    def _bind_cache(self) -> None:
        for name, value in self.values.items():
            self.binding.bind_ortvalue_input(name, value)
            self.binding.bind_ortvalue_output(present_of(name), self._spare[name])

    def _room(self) -> dict[str, Any]:
        sizes = self.runtime.layout.sizes(self.batch, self.capacity, self.rounds)
        return {name: self._empty(name, shape) for name, shape in sizes.items()}

    def _empty(self, name: str, shape: list[int]) -> Any:
        from onnxruntime import OrtValue

        dtype, device = self.runtime.layout.dtype, self.runtime.device
        if device != "cpu":
            return OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)
        array = np.zeros(shape, dtype)
        value = OrtValue.ortvalue_from_numpy(array)
        self._arrays.setdefault(name, []).append(array)  # the value does not keep it alive
        return value
