"""Which tokens each step sees, against plain slicing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data.batches import TokenizedCorpus, cut_windows, evenly_spaced
from rinsc.data.documents import Corpus
from rinsc.errors import DataError
from tests.data.whole_batches import TrainingBatches


@given(tokens=st.integers(2, 200), length=st.integers(1, 40))
def test_windows_are_slices_and_each_target_comes_once(tokens: int, length: int) -> None:
    stream = np.arange(tokens, dtype=np.uint16)
    if tokens < length + 1:
        with pytest.raises(DataError, match="do not fill one sequence"):
            cut_windows(stream, length)
        return
    windows = cut_windows(stream, length)
    count = (tokens - 1) // length
    expected = [stream[n * length : n * length + length + 1].tolist() for n in range(count)]
    assert windows.tolist() == expected
    assert windows[:, 1:].flatten().tolist() == list(range(1, count * length + 1))


@given(
    windows=st.integers(1, 13),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_epoch_sees_every_window_once(windows: int, batch: int, seed: int) -> None:
    stream = cut_windows(np.arange(windows + 1, dtype=np.uint16), 1)
    batches = TrainingBatches(stream, batch, seed)
    steps = windows * 3
    seen = [int(row[0]) for step in range(steps) for row in batches.batch(step)]
    for epoch in range(3 * batch):
        part = seen[epoch * windows : (epoch + 1) * windows]
        assert Counter(part) == Counter(range(windows))
    assert batches.epochs(steps) == 3 * batch


def test_a_batch_depends_on_seed_and_step_alone(tokens: TokenizedCorpus) -> None:
    windows = cut_windows(tokens.train, 23)
    forward = TrainingBatches(windows, 4, seed=1)
    in_order = [forward.batch(step) for step in range(50)]
    backward = TrainingBatches(windows, 4, seed=1)
    for step in reversed(range(50)):
        assert np.array_equal(backward.batch(step), in_order[step])
    assert not np.array_equal(TrainingBatches(windows, 4, seed=2).batch(0), in_order[0])
    assert in_order[0].shape == (4, 24)
    assert in_order[0].dtype == np.int64


def test_epochs_differ_in_order() -> None:
    windows = cut_windows(np.arange(101, dtype=np.uint16), 1)
    batches = TrainingBatches(windows, 100, seed=0)
    assert not np.array_equal(batches.batch(0), batches.batch(1))


@given(windows=st.integers(1, 50), count=st.integers(1, 60))
def test_a_sample_is_spread_and_always_the_same(windows: int, count: int) -> None:
    stream = cut_windows(np.arange(windows + 1, dtype=np.uint16), 1)
    chosen = evenly_spaced(stream, count)[:, 0].tolist()
    assert len(chosen) == len(set(chosen)) == min(count, windows)
    assert chosen == sorted(chosen)
    gaps = np.diff([*chosen, windows])
    assert gaps.max() - gaps.min() <= 1
    assert np.array_equal(evenly_spaced(stream, None), stream)


def test_the_record_says_what_was_encoded(tokens: TokenizedCorpus, corpus: Corpus) -> None:
    assert tokens.record["corpus"] == corpus.record()
    text_bytes = sum(document.byte_count for document in corpus.held_out)
    assert tokens.token_bytes[tokens.held_out].sum() == text_bytes
