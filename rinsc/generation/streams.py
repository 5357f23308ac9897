"""Ids chosen one step at a time, for every row of a request."""

from __future__ import annotations

from collections.abc import Iterator

from rinsc.errors import Problem, UsageError
from rinsc.generation.request import Request
from rinsc.generation.rows import RowLogits
from rinsc.sampling import Sampling, sample_next


def stream_tokens(
    next_logits: RowLogits, request: Request, sampling: Sampling
) -> Iterator[tuple[int | None, ...]]:
    """The ids chosen for every row, step by step; None for a row that has ended.

    A row ends before the first of the stop ids, the stream with its last row. Row i draws what its
    prompt alone draws with the seed ``sampling.seed + i``.
    """
    import numpy as np

    rows = [list(row) for row in request.rows]
    generators = [np.random.default_rng(sampling.seed + place) for place in range(len(rows))]
    live = list(range(len(rows)))
    for _ in range(request.new_tokens):
        chosen: list[int | None] = [None] * len(rows)
        for place, logits in zip(live, next_logits(rows, live), strict=True):
            token = sample_next(logits, sampling, generators[place])
            if token not in request.stop_ids:
                chosen[place] = token
                rows[place].append(token)
        live = [place for place in live if chosen[place] is not None]
        if not live:
            return
        yield tuple(chosen)


def continue_tokens(
    next_logits: RowLogits, request: Request, sampling: Sampling
) -> list[list[int]]:
    """The ids that follow each row, as `stream_tokens` chooses them."""
    made: list[list[int]] = [[] for _ in request.rows]
    for chosen in stream_tokens(next_logits, request, sampling):
        for row, token in zip(made, chosen, strict=True):
            if token is not None:
                row.append(token)
    return made


def stream_ids(next_logits: RowLogits, request: Request, sampling: Sampling) -> Iterator[int]:
    """The ids that follow the one row of a request; raises `UsageError` for several."""
    if len(request.rows) != 1:
        message = f"a stream follows one prompt, not {len(request.rows)}"
        raise UsageError(Problem("bad-prompt", message, hint="generate several at once instead"))
    steps = stream_tokens(next_logits, request, sampling)
    return (token for (token,) in steps if token is not None)
