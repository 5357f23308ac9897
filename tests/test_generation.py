"""Streams of ids: batches, stop ids, seeds and windows, on models small enough to do by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.errors import UsageError
from rinsc.generation import (
    CachedRow,
    PaddedRows,
    Request,
    RowLogits,
    checked_request,
    continue_tokens,
    left_padded,
    stream_ids,
    stream_tokens,
    whole_rows,
    window_moves,
)
from rinsc.sampling import Sampling
from rinsc.spec import model_spec

VOCAB, CONTEXT = 11, 8
SPEC = model_spec("AB", preset="tiny", vocab_size=VOCAB, context=CONTEXT)

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float64]


def logits_after(ids: Sequence[int]) -> Logits:
    """Numbers that depend on every id and its place."""
    seed = [int(token) + 1 for token in ids]
    return np.random.default_rng(seed).normal(size=VOCAB)


def step(ids: Ids, cache: Ids | None, mask: Ids | None) -> tuple[Logits, Ids]:
    """A model whose cache is what it has seen; -1 stands for padding."""
    seen = ids if cache is None else np.concatenate([cache, ids], axis=1)
    assert seen.shape[1] <= CONTEXT
    shown = np.ones_like(seen) if mask is None else mask
    assert shown.shape == seen.shape
    rows = [
        logits_after(row[counts == 1].tolist()) for row, counts in zip(seen, shown, strict=True)
    ]
    return np.stack(rows), seen


def padded() -> RowLogits:
    return PaddedRows(step, CONTEXT)


def alone(prompt: Sequence[int], count: int, sampling: Sampling, stop: frozenset[int]) -> list[int]:
    """One prompt without cache, batch or stream."""
    from rinsc.sampling import sample_next

    ids, rng = list(prompt), np.random.default_rng(sampling.seed)
    for _ in range(count):
        token = sample_next(logits_after(ids[-CONTEXT:]), sampling, rng)
        if token in stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


tokens = st.integers(0, VOCAB - 1)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=CONTEXT), min_size=1, max_size=4)


@given(
    rows=prompts,
    count=st.integers(0, 14),
    stop=st.frozensets(tokens, max_size=3),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_a_batch_is_each_prompt_alone(
    rows: list[list[int]], count: int, stop: frozenset[int], seed: int, temperature: float
) -> None:
    """In every way of running it; row i with the seed that follows i times."""
    request = checked_request(rows, count, SPEC, list(stop))
    expected = [
        alone(row, count, Sampling(temperature, seed=seed + place), stop)
        for place, row in enumerate(rows)
    ]
    for next_logits in (padded(), whole_rows(logits_after, CONTEXT)):
        assert continue_tokens(next_logits, request, Sampling(temperature, seed=seed)) == expected


def test_sabotage_rows_that_share_their_draws_are_seen() -> None:
    rows, sampling = [[1, 2]] * 3, Sampling(1.0, seed=4)
    made = continue_tokens(padded(), checked_request(rows, 9, SPEC), sampling)
    assert made[0] == alone([1, 2], 9, sampling, frozenset())
    assert made[0] != made[1] != made[2]


def test_ids_come_as_they_are_chosen_and_end_with_the_last_row() -> None:
    asked: list[int] = []

    def next_logits(rows: Sequence[Sequence[int]], live: Sequence[int]) -> list[Logits]:
        asked.append(len(live))
        return [np.eye(VOCAB)[(rows[place][-1] + 1) % VOCAB] for place in live]

    request = Request(((0,), (5,)), 100, frozenset({8}))
    stream = stream_tokens(next_logits, request, Sampling())
    assert next(stream) == (1, 6)
    assert asked == [2]
    assert list(stream) == [(2, 7), (3, None), (4, None), (5, None), (6, None), (7, None)]
    assert asked == [2, 2, 2, 1, 1, 1, 1, 1]


def test_a_stream_follows_one_prompt() -> None:
    request = checked_request([1, 2], 5, SPEC)
    expected = alone([1, 2], 5, Sampling(), frozenset())
    assert list(stream_ids(padded(), request, Sampling())) == expected
    with pytest.raises(UsageError, match="a stream follows one prompt, not 2"):
        stream_ids(padded(), checked_request([[1], [2]], 5, SPEC), Sampling())


def test_the_cache_is_fed_new_ids_alone_until_it_is_full() -> None:
    fed: list[tuple[int, ...]] = []

    def counted(ids: Ids, cache: Ids | None, mask: Ids | None) -> tuple[Logits, Ids]:
        fed.append(ids.shape)
        return step(ids, cache, mask)

    request = checked_request([[1, 2, 3, 4, 5], [6, 7]], 6, SPEC)
    continue_tokens(PaddedRows(counted, CONTEXT), request, Sampling())
    together = [(2, 5), (2, 1), (2, 1), (2, 1)]
    # The first row moves its window from now on; the second goes on behind a cache of its own.
    assert fed == [*together, (1, 8), (1, 6), (1, 8), (1, 1)]


def test_a_row_that_moves_on_is_run_from_its_start() -> None:
    row = CachedRow(step)
    for ids in ([1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [7], [7]):
        np.testing.assert_array_equal(row(ids), logits_after(ids))


def test_padding_stands_in_front() -> None:
    ids, mask = left_padded([[1, 2, 3], [4]])
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(("prompt", "count"), [(3, 6), (8, 1), (8, 2), (1, 8), (1, 9), (8, 0)])
def test_the_window_moves_when_the_first_token_is_out_of_sight(prompt: int, count: int) -> None:
    seen: list[int] = []

    def next_logits(ids: Sequence[int]) -> Logits:
        seen.append(ids[0])
        return np.zeros(VOCAB)

    request = checked_request([5, *[0] * (prompt - 1)], count, SPEC)
    continue_tokens(whole_rows(next_logits, CONTEXT), request, Sampling())
    assert window_moves(prompt, count, CONTEXT) == any(first != 5 for first in seen)


@pytest.mark.parametrize(
    ("given", "single"),
    [
        ([1, 2], True),
        ((1, 2), True),
        (np.array([1, 2], np.uint16), True),
        ([np.int64(1), 2], True),
        ([[1, 2]], False),
        ([np.array([1, 2]), [3]], False),
        (np.array([[1, 2]]), False),
    ],
)
def test_one_prompt_or_several(given: Any, single: bool) -> None:
    request = checked_request(given, 3, SPEC)
    assert request.is_single is single
    assert request.rows[0] == (1, 2)
    assert all(type(token) is int for row in request.rows for token in row)


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ([], "bad-prompt", "prompt is empty"),
        ([[]], "bad-prompt", "prompt 1 of 1 is empty"),
        ([[1], [], [2]], "bad-prompt", "prompt 2 of 3 is empty"),
        ([1] * 9, "prompt-too-long", "prompt has 9 tokens, more than the context of 8"),
        ([[1], [1] * 9], "prompt-too-long", "prompt 2 of 2 has 9 tokens"),
        ([1, VOCAB], "bad-token", "prompt must be of token ids from 0 to 10"),
        ([-1], "bad-token", "from 0 to 10"),
        ([1.5], "bad-token", "from 0 to 10"),
        ([1, [2]], "bad-token", "from 0 to 10"),
        ([[1], 2], "bad-token", "from 0 to 10"),
        ("some text", "bad-token", "from 0 to 10"),
        (["some", "texts"], "bad-token", "from 0 to 10"),
        (5, "bad-token", "from 0 to 10"),
        (None, "bad-token", "from 0 to 10"),
    ],
)
def test_prompts_that_are_none(given: Any, code: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_request(given, 3, SPEC)
    assert caught.value.code == code
    assert message in caught.value.message
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("stop", [[VOCAB], [-1], ["a"], "END", 5, [1.0]])
def test_stop_ids_that_are_none(stop: Any) -> None:
    with pytest.raises(UsageError, match="stop_ids must be of token ids from 0 to 10"):
        checked_request([1], 3, SPEC, stop)


@pytest.mark.parametrize("count", [-1, 1.5, None, "3"])
def test_counts_that_are_none(count: Any) -> None:
    with pytest.raises(UsageError, match="bad-count"):
        checked_request([1], count, SPEC)
