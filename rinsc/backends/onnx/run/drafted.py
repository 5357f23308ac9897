"""One sequence that drafts at few rounds and verifies at all of them, in the same buffers.

The slots of a repeat have its rounds as their leading dimension, so that the first rounds of the
verification's cache are, as they stand, the cache of the draft. Both append in place; what a draft
wrote behind the verified length is overwritten by the verification, and tokens are taken back by
counting fewer of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.contract import IDS, LOGITS, MASK, present_of
from rinsc.backends.onnx.run.buffers import Buffers, Past
from rinsc.backends.onnx.run.continuation import Continuation, Dials, Ids, Logits


@dataclass
class Pass:
    """Calls run so many new tokens behind a length, in buffers that are bound once."""

    session: Any
    binding: Any
    ids: Ids
    mask: Ids
    logits: Logits
    held: Sequence[Any]

    def __call__(self, tokens: Sequence[int], length: int) -> Logits:
        self.ids[0] = tokens
        self.mask[0, :length] = 1
        self.mask[0, length:] = 0
        self.mask[0, -len(tokens) :] = 1  # as many count as there are, wherever they stand
        self.session.run_with_iobinding(self.binding)
        logits: Logits = self.logits[0]
        return logits


@dataclass
class DraftedSequence:
    """The `DraftedRows` of one prompt; the logits are overwritten by the next call of their kind.

    ``begun`` gives the cache of a prompt and the logits after it; ``window`` the logits after ids
    without a cache.
    """

    continuation: Continuation
    begun: Any
    window: Any
    draft_rounds: Mapping[str, int]
    draft_dials: Dials
    dials: Dials
    _length: int = 0
    _behind: int = 0  # drafted
    _past: Past | None = None
    _buffers: Buffers | None = None
    _passes: dict[tuple[bool, int], Pass] = field(default_factory=dict)

    def begin(self, rows: Sequence[Sequence[int]]) -> Sequence[npt.NDArray[np.float32]]:
        (row,) = rows
        logits, self._past = self.begun(row)
        self._length = len(row)
        return [logits]

    def draft(self, live: Sequence[int], tokens: Sequence[int]) -> Sequence[Logits]:
        logits = self._pass(1, is_draft=True, behind=self._behind)(
            tokens, self._length + self._behind
        )
        self._behind += 1
        return [logits[0]]

    def verify(self, live: Sequence[int], tokens: Sequence[Sequence[int]]) -> Sequence[Logits]:
        (new,) = tokens
        self._behind = 0
        return [self._pass(len(new), is_draft=False)(new, self._length)]

    def keep(self, live: Sequence[int], counts: Sequence[int]) -> None:
        self._length += counts[0]

    def whole(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        self._buffers, self._past = None, None
        self._passes.clear()
        last: npt.NDArray[np.float32] = self.window(ids)
        return last

    def _pass(self, tokens: int, *, is_draft: bool, behind: int = 0) -> Pass:
        total = self._length + behind + tokens
        if self._buffers is None or total > self._buffers.capacity:
            self._make_room(total)
        key = (is_draft, tokens)
        if key not in self._passes:
            self._passes[key] = self._bound(tokens, is_draft=is_draft)
        return self._passes[key]

    def _make_room(self, total: int) -> None:
        if self._buffers is None:
            assert self._past is not None
            self._buffers = self.continuation.room(self._past, total)
            self._past = None
        else:
            self._buffers = self._buffers.copied(self.continuation.capacity(total))
        self._buffers.written = None  # nobody else may append here now
        self._passes.clear()

    def _bound(self, tokens: int, *, is_draft: bool) -> Pass:
        from onnxruntime import OrtValue

        buffers, runtime = self._buffers, self.continuation.runtime
        assert buffers is not None
        values = buffers.first_rounds(self.draft_rounds) if is_draft else buffers.values
        binding = runtime.session.io_binding()
        ids = np.zeros((1, tokens), np.int64)
        mask = np.zeros((1, buffers.capacity), np.int64)
        logits = np.empty((1, tokens, runtime.vocab_size), np.float32)
        dials = self.draft_dials if is_draft else self.dials
        for name, array in {IDS: ids, MASK: mask, **dials}.items():
            binding.bind_cpu_input(name, array)
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(present_of(name), value)
        bound = OrtValue.ortvalue_from_numpy(logits)
        binding.bind_ortvalue_output(LOGITS, bound)
        return Pass(runtime.session, binding, ids, mask, logits, [buffers, values, bound])
