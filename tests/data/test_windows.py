"""Training windows: the same as the batches', and documents kept apart, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data.batches import NO_TARGET, TrainingWindows, cut_windows
from rinsc.errors import DataError
from tests.data.whole_batches import TrainingBatches


@given(
    tokens=st.integers(8, 200),
    length=st.integers(1, 7),
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_the_windows_are_those_of_the_batches(
    tokens: int, length: int, batch: int, seed: int
) -> None:
    stream = np.arange(tokens, dtype=np.uint16)
    windows = TrainingWindows(stream, length, seed)
    batches = TrainingBatches(cut_windows(stream, length), batch, seed)
    assert len(windows) == (tokens - 1) // length
    for step in (0, 1, 2, 17):
        rows = batches.batch(step)
        for place, row in enumerate(rows):
            window = windows.window(step * batch + place)
            assert window.input_ids.tolist() == row[:-1].tolist()
            assert window.targets.tolist() == row[1:].tolist()
            assert window.position_ids is None
            assert window.input_ids.dtype == window.targets.dtype == np.int64


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12).filter(lambda n: sum(n) > 5),
    length=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_documents_are_kept_apart(lengths: list[int], length: int, seed: int) -> None:
    owners = np.repeat(np.arange(len(lengths)), lengths)
    tokens = np.arange(len(owners), dtype=np.uint16)  # a token says where it stands
    starts = np.cumsum([0, *lengths[:-1]])
    windows = TrainingWindows(tokens, length, seed, "documents", starts)
    across = TrainingWindows(tokens, length, seed)
    for index in range(2 * len(windows)):
        window = windows.window(index)
        assert window.input_ids.tolist() == across.window(index).input_ids.tolist()
        expected_targets, expected_positions = [], []
        position, before = -1, None
        for token in window.input_ids.tolist():
            position = position + 1 if owners[token] == before else 0
            before = owners[token]
            expected_positions.append(position)
            crosses = owners[token + 1] != owners[token]
            expected_targets.append(NO_TARGET if crosses else token + 1)
        assert window.position_ids is not None
        assert window.position_ids.tolist() == expected_positions
        assert window.targets.tolist() == expected_targets


def test_the_check_of_documents_can_fail() -> None:
    tokens = np.arange(50, dtype=np.uint16)
    right = TrainingWindows(tokens, 7, 0, "documents", np.array([0, 10, 20]))
    wrong = TrainingWindows(tokens, 7, 0, "documents", np.array([0, 11, 20]))
    pairs = [(right.window(i).targets, wrong.window(i).targets) for i in range(len(right))]
    assert any(not np.array_equal(*pair) for pair in pairs)


def test_any_window_can_be_the_first() -> None:
    stream = np.arange(1000, dtype=np.uint32)
    forward = TrainingWindows(stream, 9, 3)
    seen = [forward.window(index).input_ids for index in range(250)]
    for index in (249, 3, 111, 112):
        again = TrainingWindows(stream, 9, 3).window(index)
        assert np.array_equal(again.input_ids, seen[index])


def test_what_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="do not fill one sequence of 10"):
        TrainingWindows(np.arange(10, dtype=np.uint16), 10, 0)
    with pytest.raises(ValueError, match="where they start"):
        TrainingWindows(np.arange(10, dtype=np.uint16), 2, 0, "documents")
