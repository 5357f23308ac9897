"""New tokens behind a cache, however it is held: one step, or many in a row.

A portable model gives a new cache back. A fused one can append to its cache in place. Files of
0.4.0 want the tokens that count first in each row, so they are moved there, which also keeps the
cache short. Behind a cache a batch of rows runs token by token: the attention takes no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from weakref import ref

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.contract import IDS, LOGITS, MASK
from rinsc.backends.onnx.run.buffers import FIRST_CAPACITY, Buffers, Past, Runtime
from rinsc.errors import RinscError

TESTED = 8  # positions of the caches that are compared when a session starts

Ids: TypeAlias = npt.NDArray[np.int64]
Logits: TypeAlias = npt.NDArray[np.float32]
Dials: TypeAlias = Mapping[str, npt.NDArray[np.int64]]


@dataclass
class Continuation:
    """Runs the steps of one session of ONNX Runtime.

    With ``shares_slots`` rounds share theirs, and tokens run one at a time. ``in_place`` says
    whether the cache is appended to where it stands; see `works_in_place`.
    """

    runtime: Runtime
    fused: bool
    shares_slots: bool = False
    in_place: bool = False
    least_capacity: int = FIRST_CAPACITY

    def step(self, ids: Ids, mask: Ids, past: Past, dials: Dials) -> tuple[Logits, Past]:
        """Logits (batch, seq, vocab) of new ids (batch, seq), and the cache with them.

        ``mask`` (batch, past + seq); of a fused model its first part is that of the cache.
        """
        if self.runtime.used and past.batch > 1:
            return self._row_by_row(ids, mask, past, dials)
        continues_batch = past.length > 0 and past.batch > 1  # the operator takes one token then
        if self.shares_slots or (self.fused and continues_batch):
            return self._token_by_token(ids, mask, past, dials)
        if not self.fused:
            return self._portable(ids, mask, past, dials)
        new = mask[:, past.length :]
        if new.all():
            return self._run(ids, past.counts, new, past, dials)
        return self._compacted(ids, new, past, dials)

    def _token_by_token(self, ids: Ids, mask: Ids, past: Past, dials: Dials) -> tuple[Logits, Past]:
        def runs(past: Past) -> Iterator[tuple[Logits, Past]]:
            for column in range(ids.shape[1]):
                token, counted = ids[:, column : column + 1], mask[:, : past.length + 1]
                if self.fused:
                    logits, past = self._run(token, past.counts, counted[:, -1:], past, dials)
                else:
                    logits, past = self._portable(token, counted, past, dials)
                yield logits, past

        results = self._collected(runs(past))
        logits = [computed for computed, _ in results]
        return logits[0] if len(logits) == 1 else np.concatenate(logits, axis=1), results[-1][1]

    def _row_by_row(self, ids: Ids, mask: Ids, past: Past, dials: Dials) -> tuple[Logits, Past]:
        """Each row behind a cache of its own: an exit ends the rounds of all rows that it runs."""
        rows = past.values or [self.empty(1, past.rounds, past.owner)] * past.batch
        results = self._collected(
            self.step(ids[row : row + 1], mask[row : row + 1], before, dials)
            for row, before in enumerate(rows)
        )
        logits = np.concatenate([computed for computed, _ in results])
        return logits, Past(past.owner, past.rounds, mask, [after for _, after in results])

    def _collected(self, runs: Iterator[tuple[Logits, Past]]) -> list[tuple[Logits, Past]]:
        """What several runs give; of rounds that end early, the most that any of them took."""
        used = self.runtime.used
        results, most = [], dict.fromkeys(used, 0)
        for result in runs:
            results.append(result)
            most = {name: max(count, int(used[name])) for name, count in most.items()}
        for name, count in most.items():
            used[name][...] = count
        return results

    def empty(self, batch: int, rounds: Mapping[str, int], owner: object) -> Past:
        """The cache of no position."""
        mask = np.ones((batch, 0), np.int64)
        return Past(owner, rounds, mask, None)

    def works_in_place(self, rounds: Mapping[str, int], dials: Dials) -> bool:
        """Whether a cache that is appended to in place gives the very logits of one that is not.

        It rests on how ONNX Runtime hands buffers to its operators, which no standard promises.
        """
        if not self.fused:
            return False
        small = replace(self, in_place=True, least_capacity=TESTED)
        results = [small.tried(rounds, dials), replace(small, in_place=False).tried(rounds, dials)]
        pairs = list(zip(*results, strict=True))
        return bool(pairs) and all(np.array_equal(*pair) for pair in pairs)

    def tried(self, rounds: Mapping[str, int], dials: Dials) -> list[Logits]:
        """The logits of a few tokens."""
        past = self.empty(1, rounds, None)
        results = []
        for tokens in (2, 1, 1):
            if past.length + tokens > self.runtime.context:
                break
            ids = np.full((1, tokens), past.length % self.runtime.vocab_size, np.int64)
            mask = np.ones((1, past.length + tokens), np.int64)
            logits, past = self.step(ids, mask, past, dials)
            results.append(logits)
        return results

    def _portable(self, ids: Ids, mask: Ids, past: Past, dials: Dials) -> tuple[Logits, Past]:
        logits, values = self._grown({MASK: mask, IDS: ids, **dials}, past)
        return logits, Past(past.owner, past.rounds, mask, values)

    def _compacted(self, ids: Ids, new: Ids, past: Past, dials: Dials) -> tuple[Logits, Past]:
        """Tokens that count are moved to the front of their row, and their logits back."""
        order = np.argsort(1 - new, axis=1, kind="stable")
        length = max(int(new.sum(axis=1).max()), 1)
        rows = np.arange(len(ids))[:, None]
        front = order[:, :length]
        compacted, after = self._run(ids[rows, front], past.counts, new[rows, front], past, dials)
        logits = np.zeros((*ids.shape, compacted.shape[-1]), compacted.dtype)
        logits[rows, front] = compacted
        whole = replace(after, mask=np.concatenate([past.mask, new], axis=1))
        after.values.written = ref(whole)
        return logits, whole

    def _run(
        self, ids: Ids, before: Ids, new: Ids, past: Past, dials: Dials
    ) -> tuple[Logits, Past]:
        """A fused step: each row has ``before`` tokens, and those of ``new`` stand first in it."""
        mask = np.concatenate([past.mask, new], axis=1)
        cached = np.arange(int(before.max())) < before[:, None]
        added = new.copy()
        added[:, 0] = 1  # models of 0.4.0 append at least one token to each row
        counted = np.concatenate([cached.astype(np.int64), added], axis=1)
        arrays = {IDS: ids, MASK: counted, **dials}
        buffers = self.room(past, counted.shape[1])
        logits = buffers.run(arrays)
        after = Past(past.owner, past.rounds, mask, buffers)
        buffers.written = ref(after)
        return logits, after

    def room(self, past: Past, total: int) -> Buffers:
        """Buffers that may be appended to, with room for so many positions."""
        buffers: Buffers | None = past.values
        if buffers is None:
            capacity = self.capacity(total)
            return Buffers(self.runtime, past.batch, past.rounds, capacity, self.in_place)
        is_last = buffers.written is not None and buffers.written() is past
        if is_last and total <= buffers.capacity:
            return buffers
        return buffers.copied(self.capacity(total))

    def capacity(self, total: int) -> int:
        """Twice what is needed, so that copies stay rare; off the CPU the whole context at once.

        Raises `RinscError` for more than the context.
        """
        context = self.runtime.context
        if total > context:
            message = f"{total} positions exceed the context of {context}"
            hint = "start again with the last of them"
            raise RinscError("context-exceeded", message, hint=hint)
        doubled = max(self.least_capacity, 2 * total) if self.runtime.device == "cpu" else context
        return min(doubled, context)

    def _grown(self, arrays: Mapping[str, Any], past: Past) -> tuple[Logits, Mapping[str, Any]]:
        """Logits and what is present, as values that the runtime makes: never copied out."""
        from onnxruntime import OrtValue

        values = past.values
        if values is None:
            sizes = self.runtime.layout.sizes(past.batch, 0, past.rounds)
            values = {
                name: OrtValue.ortvalue_from_shape_and_type(shape, self.runtime.layout.dtype)
                for name, shape in sizes.items()
            }
        # The arrays are held until the run is over: the runtime's values do not keep them alive.
        inputs = {name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        names = [LOGITS, *self.runtime.layout.outputs, *self.runtime.used]
        logits, *present = self.runtime.session.run_with_ort_values(names, {**inputs, **values})
        for count in list(self.runtime.used.values())[::-1]:
            count[...] = present.pop().numpy()
        return logits.numpy(), dict(zip(self.runtime.layout.shapes, present, strict=True))


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

        total = self._total + 1
        if self._past is not None:
            self._buffers = self._continuation.room(self._past, total)
            self._past = None  # its memory may go when the buffers are replaced
        else:
            assert self._buffers is not None
            self._buffers = self._buffers.copied(self._continuation.capacity(total))
        self._buffers.written = None  # nobody else may append here now
        self._binding = self._buffers.binding
        self._capacity = self._buffers.capacity
        lengths = np.full(len(self._ids), self._total) if self._is_even else self._lengths
        counted = np.arange(self._capacity) < lengths[:, None]
        self._mask = counted.astype(np.int64)
        self._mask[:, -1] = 1
        self._bind_inputs()
        logits = OrtValue.ortvalue_from_numpy(self._logits)
        self._binding.bind_ortvalue_output(LOGITS, logits)

    def _bind_inputs(self) -> None:
        arrays = {IDS: self._ids, MASK: self._mask, **self._dials}
        for name, array in arrays.items():
            self._binding.bind_cpu_input(name, array)

    def _step(self) -> npt.NDArray[np.float32]:
        assert self._past is not None
        new = np.ones((self._past.batch, 1), np.int64)
        mask = np.concatenate([self._past.mask, new], axis=1)
        logits, self._past = self._continuation.step(self._ids, mask, self._past, self._dials)
        return logits[:, 0]
