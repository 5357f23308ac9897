"""Intervals over another text: a bootstrap of the windows, and simulated texts."""

from __future__ import annotations

import numpy as np
import pytest

from rinsc.evaluation.verdict import paired_difference
from rinsc.objectives import OBJECTIVES, Pieces
from rinsc.study.standing import text_interval

FIGURE = OBJECTIVES["next_token"].figures[0]


def pieces(totals: np.ndarray, sizes: np.ndarray) -> Pieces:
    return Pieces(totals, sizes, np.ones(len(sizes), dtype=np.bool_))


def drawn(rng: np.random.Generator, windows: int) -> tuple[Pieces, Pieces]:
    """Two models on the windows of one text: hard ones are hard for both."""
    sizes = rng.integers(60, 140, windows)
    hard = rng.normal(2.0, 0.5, windows)
    ours = hard - 0.01 + rng.normal(0, 0.05, windows)
    return pieces(ours * sizes, sizes), pieces(hard * sizes, sizes)


def test_the_interval_is_that_of_a_bootstrap_of_pairs() -> None:
    ours, theirs = drawn(np.random.default_rng(0), 400)
    found, expected = text_interval([ours], [theirs]), paired_difference(ours, theirs, FIGURE)
    assert found is not None
    assert found.windows == expected.blocks == 400
    assert (found.low + found.high) / 2 == pytest.approx(expected.value)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.06 * width)
    assert found.high == pytest.approx(expected.high, abs=0.06 * width)


def test_the_interval_covers_the_gap_of_all_texts() -> None:
    inside = 0
    for seed in range(1000):
        found = text_interval(*([each] for each in drawn(np.random.default_rng([7, seed]), 40)))
        assert found is not None
        inside += found.low <= -0.01 <= found.high
    assert 0.93 <= inside / 1000 <= 0.97


def test_seeds_count_by_their_mean() -> None:
    rng = np.random.default_rng(3)
    (first, theirs), (second, _) = drawn(rng, 50), drawn(rng, 50)
    second = pieces(second.totals, first.sizes)
    mean = pieces((first.totals + second.totals) / 2, first.sizes)
    assert text_interval([first, second], [theirs]) == text_interval([mean], [theirs])


def test_where_more_is_better_the_gap_turns_round() -> None:
    ours, theirs = drawn(np.random.default_rng(4), 50)
    less, more = (text_interval([ours], [theirs], less_is_better=each) for each in (True, False))
    assert less is not None
    assert more is not None
    assert (more.low, more.high) == pytest.approx((-less.high, -less.low))


def test_other_windows_or_too_few_give_none() -> None:
    ours, theirs = drawn(np.random.default_rng(5), 50)
    shorter = pieces(theirs.totals[:40], theirs.sizes[:40])
    other = pieces(theirs.totals, theirs.sizes + 1)
    nine = [pieces(each.totals[:9], each.sizes[:9]) for each in (ours, theirs)]
    for pair in (([ours], [shorter]), ([ours], [other]), ([nine[0]], [nine[1]]), ([], [theirs])):
        assert text_interval(*pair) is None
