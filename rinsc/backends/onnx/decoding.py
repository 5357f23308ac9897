"""Token after token with as little as possible between two runs of the runtime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.buffers import Buffers
from rinsc.backends.onnx.continuation import Continuation, Dials
from rinsc.backends.onnx.past import Past


class Decoding:
    """Calls add one token (batch,) to each sequence and give the logits (batch, vocab) after it.

    With a cache that is appended to in place all is bound once, the mask as wide as the room for
    the cache: its last column is the new token's, what is not yet written does not count, and no
    shape changes from call to call. The logits are overwritten by the next call.
    """

    def __init__(self, continuation: Continuation, past: Past, dials: Dials) -> None:
        self._continuation = continuation
        self._past: Past | None = past
        self._dials = dials
        self._lengths = past.counts
        self._total = int(self._lengths.max())
        self._is_even = bool((self._lengths == self._total).all())
        self._capacity = 0
        self._buffers: Buffers | None = None
        self._ids = np.zeros((past.batch, 1), np.int64)
        self._mask = np.zeros((past.batch, 0), np.int64)
        self._logits = np.empty((past.batch, 1, continuation.runtime.vocab_size), np.float32)
        self._last_logits = self._logits[:, 0]
        self._run = continuation.runtime.session.run_with_iobinding
        alone = past.batch == 1 or not continuation.runtime.used  # else rows have their own caches
        self._is_bound = continuation.in_place and alone
        self._reads_arrays = continuation.runtime.device == "cpu"  # elsewhere binding copies them

    def __call__(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        self._ids[:, 0] = tokens
        if not self._is_bound:
            return self._step()
        if self._total >= self._capacity:
            self._make_room()
        if not self._reads_arrays:
            self._bind_inputs()
        self._run(self._binding)
        if self._is_even:
            self._mask[:, self._total] = 1
        else:
            self._mask[np.arange(len(self._ids)), self._lengths] = 1
            self._lengths += 1
        self._total += 1
        return self._last_logits

    def _make_room(self) -> None:
        """Bind buffers that have room for what comes, a mask as wide, and all that stays."""
        from onnxruntime import OrtValue

        wanted = self._total + 1
        if self._past is not None:
            self._buffers = self._continuation.room(self._past, wanted)
            self._past = None  # its memory may go when the buffers are replaced
        else:
            assert self._buffers is not None
            self._buffers = self._buffers.copied(self._continuation.capacity(wanted))
        self._buffers.written = None  # nobody else may append here now
        self._binding = self._buffers.binding
        self._capacity = self._buffers.capacity
        lengths = np.full(len(self._ids), self._total) if self._is_even else self._lengths
        counted = np.arange(self._capacity) < lengths[:, None]
        self._mask = counted.astype(np.int64)
        self._mask[:, -1] = 1
        self._bind_inputs()
        logits = OrtValue.ortvalue_from_numpy(self._logits)
        self._binding.bind_ortvalue_output("logits", logits)

    def _bind_inputs(self) -> None:
        arrays = {"input_ids": self._ids, "attention_mask": self._mask, **self._dials}
        for name, array in arrays.items():
            self._binding.bind_cpu_input(name, array)

    def _step(self) -> npt.NDArray[np.float32]:
        assert self._past is not None
        new = np.ones((self._past.batch, 1), np.int64)
        mask = np.concatenate([self._past.mask, new], axis=1)
        logits, self._past = self._continuation.step(self._ids, mask, self._past, self._dials)
        return logits[:, 0]
