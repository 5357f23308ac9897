"""A cache of one width that a session appends to, in place or by copying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.past import BFLOAT16, PAST, PRESENT, CacheLayout, Past
from rinsc.errors import LoweringError, Problem

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
    _arrays: list[Any] = field(default_factory=list)

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
        logits = np.empty((*arrays["input_ids"].shape, self.runtime.vocab_size), np.float32)
        self.binding.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(logits))
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
            raise LoweringError(Problem("another-cache", message, hint=hint))
        made = Buffers(self.runtime, self.batch, self.rounds, capacity, self.in_place)
        for name, value in self.values.items():
            old = value.numpy()
            kept = min(self.capacity, capacity)
            new = made.values[name].numpy()
            new[..., :kept, :] = old[..., :kept, :]
            made.values[name].update_inplace(new)
        return made

    def _bind_cache(self) -> None:
        for name, value in self.values.items():
            self.binding.bind_ortvalue_input(name, value)
            present = PRESENT + name.removeprefix(PAST)
            self.binding.bind_ortvalue_output(present, self._spare[name])

    def _room(self) -> dict[str, Any]:
        sizes = self.runtime.layout.sizes(self.batch, self.capacity, self.rounds)
        return {name: self._empty(shape) for name, shape in sizes.items()}

    def _empty(self, shape: list[int]) -> Any:
        from onnxruntime import OrtValue

        dtype, device = self.runtime.layout.dtype, self.runtime.device
        if device != "cpu":
            return OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)
        array = np.zeros(shape, dtype)
        self._arrays.append(array)  # the runtime's value does not keep it alive
        return OrtValue.ortvalue_from_numpy(array)
