"""A cache that the runtime appends to in place: past and present keys and values are one memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.past import PAST, PRESENT, CacheLayout, Past

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

    ``written`` is what was appended last; only that may be appended to in place. A weak reference,
    so that memory is given back as soon as nobody holds the cache.
    """

    runtime: Runtime
    batch: int
    rounds: Mapping[str, int]
    capacity: int
    values: dict[str, Any] = field(init=False)
    binding: Any = field(init=False)
    written: ref[Past] | None = None
    _arrays: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        from onnxruntime import OrtValue

        self.values = {
            name: self._empty(shape)
            for name, shape in self.runtime.layout.sizes(
                self.batch, self.capacity, self.rounds
            ).items()
        }
        self.binding = self.runtime.session.io_binding()
        for name, value in self.values.items():
            self.binding.bind_ortvalue_input(name, value)
            self.binding.bind_ortvalue_output(PRESENT + name.removeprefix(PAST), value)
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
        return logits

    def copied(self, capacity: int) -> Buffers:
        """Buffers of their own with the same content, and room for so many positions."""
        made = Buffers(self.runtime, self.batch, self.rounds, capacity)
        for name, value in self.values.items():
            old = value.numpy()
            kept = min(self.capacity, capacity)
            new = made.values[name].numpy()
            new[..., :kept, :] = old[..., :kept, :]
            made.values[name].update_inplace(new)
        return made

    def _empty(self, shape: list[int]) -> Any:
        from onnxruntime import OrtValue

        dtype, device = self.runtime.layout.dtype, self.runtime.device
        if device != "cpu":
            return OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)
        array = np.zeros(shape, dtype)
        self._arrays.append(array)  # the runtime's value does not keep it alive
        return OrtValue.ortvalue_from_numpy(array)
