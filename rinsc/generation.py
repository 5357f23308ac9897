"""Streams of token ids from a model's logits: one prompt or many, behind a cache or without.

Needs numpy alone; each runtime brings the function from ids to logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from rinsc.errors import UsageError, plural
from rinsc.graph import BlockGraph, Rounds
from rinsc.sampling import Sampling, sample_next
from rinsc.scalars import whole
from rinsc.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rinsc.sampling import Logits

    Ids = npt.NDArray[np.int64]

__all__ = [
    "Prompt",
    "Request",
    "RowLogits",
    "Settings",
    "cached_rows",
    "checked_request",
    "collected",
    "continue_tokens",
    "single_ids",
    "stream_ids",
    "stream_tokens",
    "whole_rows",
    "window_moves",
]

Cache = TypeVar("Cache")

# All sequences so far, and which of them go on, to the logits (vocab,) after each of the latter.
RowLogits: TypeAlias = Callable[[Sequence[Sequence[int]], Sequence[int]], "Sequence[Logits]"]

# New ids (batch, seq), the cache of those before (None at the start) and the mask (batch,
# past + seq), 0 for padding (None for none), to the logits (batch, vocab) and the cache of all.
Step: TypeAlias = Callable[["Ids", Cache | None, "Ids | None"], tuple["Logits", Cache]]

Prompt: TypeAlias = "Sequence[int] | npt.NDArray[np.integer]"


class Settings(TypedDict, total=False):
    """What generation is told by keyword, in every runtime; see `Sampling` for the first four."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    stop_ids: Sequence[int]
    rounds: Rounds


@dataclass(frozen=True)
class Request:
    """What is to be continued, how far, and the ids that end a row."""

    rows: tuple[tuple[int, ...], ...]
    new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    is_single: bool = False


def checked_request(
    prompt: Prompt | Sequence[Prompt],
    new_tokens: int,
    spec: ModelSpec,
    stop_ids: Sequence[int] = (),
) -> Request:
    """One prompt or a sequence of prompts, as the rows of a request.

    Raises `UsageError` for no prompt, an empty one, one that is longer than the context, ids that
    are not in the vocabulary, and a negative count.
    """
    items: list[Any] = _listed(prompt)
    is_single = not items or whole(items[0]) is not None
    listed = [items] if is_single else [_listed(row) for row in items]
    rows = tuple(
        _prompt_ids("prompt" if is_single else f"prompt {number} of {len(listed)}", row, spec)
        for number, row in enumerate(listed, start=1)
    )
    stops = frozenset(_ids("stop_ids", _listed(stop_ids), spec))
    count = whole(new_tokens)
    if count is None or count < 0:
        message = "the number of new tokens must be whole and at least 0"
        raise UsageError("bad-count", message, hint="say how many to add")
    return Request(rows, count, stops, is_single)


def window_moves(prompt_tokens: int, new_tokens: int, context: int) -> bool:
    """Whether the last tokens are chosen without sight of the first ones."""
    return new_tokens > 0 and prompt_tokens + new_tokens - 1 > context


def _prompt_ids(name: str, row: Sequence[Any], spec: ModelSpec) -> tuple[int, ...]:
    if not row:
        raise UsageError("bad-prompt", f"{name} is empty", hint="give at least one token")
    if len(row) > spec.context:
        message = f"{name} has {plural(len(row), 'token')}, more than the context of {spec.context}"
        hint = f"give at most {spec.context} of them, the last ones, or a model of a larger context"
        raise UsageError("prompt-too-long", message, hint=hint)
    return _ids(name, row, spec)


def _ids(name: str, tokens: Sequence[Any], spec: ModelSpec) -> tuple[int, ...]:
    """Token ids as Python's own numbers; raises `UsageError` for one that is none."""
    ids = tuple(number for item in tokens if (number := whole(item)) is not None)
    if len(ids) < len(tokens) or not all(0 <= item < spec.vocab_size for item in ids):
        message = f"{name} must be of token ids from 0 to {spec.vocab_size - 1}"
        hint = "give ids that the model's own tokenizer makes of a text"
        raise UsageError("bad-token", message, hint=hint)
    return ids


def _listed(items: Any) -> list[Any]:
    """The items of a sequence; of a text, or of what is none, one item that is no token id."""
    try:
        return [None] if isinstance(items, str) else list(items)
    except TypeError:
        return [None]


def stream_tokens(
    next_logits: RowLogits, request: Request, sampling: Sampling
) -> Iterator[tuple[int | None, ...]]:
    """The ids chosen for every row, step by step; None for a row that has ended.

    A row ends before the first of the stop ids, the stream with its last row. Row i draws what its
    prompt alone draws with the seed ``sampling.seed + i``.
    """
    import numpy as np

    rows = [list(row) for row in request.rows]
    generators = [np.random.default_rng(sampling.seed + row) for row in range(len(rows))]
    live = list(range(len(rows)))
    for _ in range(request.new_tokens):
        chosen: list[int | None] = [None] * len(rows)
        for row, logits in zip(live, next_logits(rows, live), strict=True):
            token = sample_next(logits, sampling, generators[row])
            if token not in request.stop_ids:
                chosen[row] = token
                rows[row].append(token)
        live = [row for row in live if chosen[row] is not None]
        if not live:
            return
        yield tuple(chosen)


def continue_tokens(
    next_logits: RowLogits, request: Request, sampling: Sampling
) -> list[list[int]]:
    """The ids that follow each row, as `stream_tokens` chooses them."""
    return collected(stream_tokens(next_logits, request, sampling), len(request.rows))


def collected(steps: Iterator[tuple[int | None, ...]], rows: int) -> list[list[int]]:
    """The ids of each of so many rows, of what `stream_tokens` gives."""
    continued: list[list[int]] = [[] for _ in range(rows)]
    for chosen in steps:
        for row, token in zip(continued, chosen, strict=True):
            if token is not None:
                row.append(token)
    return continued


def stream_ids(next_logits: RowLogits, request: Request, sampling: Sampling) -> Iterator[int]:
    """The ids that follow the one row of a request; raises `UsageError` for several."""
    return single_ids(stream_tokens(next_logits, request, sampling), request)


def single_ids(steps: Iterator[tuple[int | None, ...]], request: Request) -> Iterator[int]:
    """What `stream_tokens` gives for one row; raises `UsageError` for several."""
    if len(request.rows) != 1:
        message = f"a stream follows one prompt, not {len(request.rows)}"
        raise UsageError("bad-prompt", message, hint="generate several at once instead")
    return (token for (token,) in steps if token is not None)


def whole_rows(next_logits: Callable[[Sequence[int]], Logits], context: int) -> RowLogits:
    """Row by row without a cache: the last ``context`` ids of each are run for every token."""
    return lambda rows, live: [next_logits(rows[row][-context:]) for row in live]


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
    _cached_ids: list[int] = field(default_factory=list)
    _cache: Cache | None = None

    def __call__(self, ids: Sequence[int]) -> Logits:
        import numpy as np

        cached = len(self._cached_ids)
        continues = 0 < cached < len(ids) and list(ids[:cached]) == self._cached_ids
        past, self._cache = self._cache if continues else None, None
        new = np.array([ids[cached:] if continues else ids], np.int64)
        logits, self._cache = self.step(new, past, None)
        self._cached_ids = list(ids)
        last: Logits = logits[0]
        return last


@dataclass
class SeparateRows(Generic[Cache]):
    """Each row behind a cache of its own, which sees its last ``context`` ids."""

    step: Step[Cache]
    context: int
    _rows: dict[int, CachedRow[Cache]] = field(default_factory=dict)

    def __call__(self, rows: Sequence[Sequence[int]], live: Sequence[int]) -> list[Logits]:
        logits = []
        for index in live:
            row = self._rows.setdefault(index, CachedRow(self.step))
            logits.append(row(rows[index][-self.context :]))
        return logits


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
        return [logits[row] for row in live]


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Rows of different lengths as ids (batch, seq), 0 in front, and the mask of what counts."""
    import numpy as np

    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return ids, mask
