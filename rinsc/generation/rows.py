"""The logits after each row: whole passes, a cache for each row, or one for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from rinsc.graph import BlockGraph

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rinsc.sampling import Logits

    Ids = npt.NDArray[np.int64]

Cache = TypeVar("Cache")

# All sequences so far, and which of them go on, to the logits (vocab,) after each of the latter.
RowLogits: TypeAlias = Callable[[Sequence[Sequence[int]], Sequence[int]], "Sequence[Logits]"]

# New ids (batch, seq), the cache of those before (None at the start) and the mask (batch,
# past + seq), 0 for padding (None for none), to the logits (batch, vocab) and the cache of all.
Step: TypeAlias = Callable[["Ids", Cache | None, "Ids | None"], tuple["Logits", Cache]]


def whole_rows(next_logits: Callable[[Sequence[int]], Logits], context: int) -> RowLogits:
    """Row by row without a cache: the last ``context`` ids of each are run for every token."""
    return lambda rows, live: [next_logits(rows[place][-context:]) for place in live]


def cached_rows(step: Step[Cache], graph: BlockGraph) -> RowLogits:
    """Rows behind a cache, each as it would be alone.

    They share one where they can: noise that a loop starts from depends on the place in a batch.
    """
    from_noise = any(loop.options.start == "noise" for loop in graph.loops())
    kind = SeparateRows if from_noise else PaddedRows
    return kind(step, graph.spec.context)


@dataclass
class CachedRow(Generic[Cache]):
    """The logits after one sequence, from a cache of the sequence without its last tokens.

    A sequence that does not continue the last one, such as a window that has moved on, is run from
    its start.
    """

    step: Step[Cache]
    _seen: list[int] = field(default_factory=list)
    _cache: Cache | None = None

    def __call__(self, ids: Sequence[int]) -> Logits:
        import numpy as np

        known = len(self._seen)
        continues = 0 < known < len(ids) and list(ids[:known]) == self._seen
        past, self._cache = self._cache if continues else None, None
        new = np.array([ids[known:] if continues else ids], np.int64)
        logits, self._cache = self.step(new, past, None)
        self._seen = list(ids)
        last: Logits = logits[0]
        return last


@dataclass
class SeparateRows(Generic[Cache]):
    """Each row behind a cache of its own, which sees its last ``context`` ids."""

    step: Step[Cache]
    context: int
    _rows: dict[int, CachedRow[Cache]] = field(default_factory=dict)

    def __call__(self, rows: Sequence[Sequence[int]], live: Sequence[int]) -> list[Logits]:
        made = []
        for place in live:
            row = self._rows.setdefault(place, CachedRow(self.step))
            made.append(row(rows[place][-self.context :]))
        return made


@dataclass
class PaddedRows(Generic[Cache]):
    """All rows behind one cache, padded on the left; rows that have ended are run with the others.

    Once the longest row fills the context, each goes on by itself, as it would alone; where rounds
    share their cache slots, the approximation that this is then begins anew in shorter rows.
    """

    step: Step[Cache]
    context: int
    _cache: Cache | None = None
    _mask: Ids | None = None  # None where there is no padding
    _length: int = 0
    _separate: SeparateRows[Cache] = field(init=False)

    def __post_init__(self) -> None:
        self._separate = SeparateRows(self.step, self.context)

    def __call__(self, rows: Sequence[Sequence[int]], live: Sequence[int]) -> Sequence[Logits]:
        import numpy as np

        if self._length == self.context:
            self._cache = None
            return self._separate(rows, live)
        if self._length == 0:
            ids, mask = left_padded(rows)
            self._mask = None if mask.all() else mask
        else:
            ids = np.array([row[-1:] for row in rows], np.int64)
            if self._mask is not None:
                self._mask = np.pad(self._mask, ((0, 0), (0, 1)), constant_values=1)
        self._length += ids.shape[1]
        logits, self._cache = self.step(ids, self._cache, self._mask)
        return [logits[place] for place in live]


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Rows of different lengths as ids (batch, seq), 0 in front, and the mask of what counts."""
    import numpy as np

    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, longest - len(row) :] = row
        mask[place, longest - len(row) :] = 1
    return ids, mask
