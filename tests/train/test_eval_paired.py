"""The bootstrap against a closed form, and what it says of models that differ and that do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rinsc.errors import DataError
from rinsc.evaluation.verdict import LEAST_BLOCKS, paired_difference
from rinsc.objectives.next_token import BlockLosses

NORMAL = 1.959964  # 97.5 % of the standard normal distribution


def losses(nats: np.ndarray, byte_count: int = 100) -> BlockLosses:
    count = len(nats)
    return BlockLosses(nats, np.full(count, byte_count), np.ones(count, dtype=np.bool_))


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_interval_is_that_of_the_mean_of_differences(shift: float) -> None:
    """With blocks of one size the statistic is a mean, whose error is known: s / sqrt(n)."""
    rng = np.random.default_rng(7)
    shared, noise = rng.normal(200, 40, 400), rng.normal(shift, 2, 400)
    found = paired_difference(losses(shared + noise), losses(shared))
    bits = math.log(2) * 100
    error = NORMAL * noise.std() / math.sqrt(len(noise)) / bits
    mean = noise.mean() / bits
    assert found.bits_per_byte == pytest.approx(mean)
    assert found.low == pytest.approx(mean - error, abs=0.1 * error)
    assert found.high == pytest.approx(mean + error, abs=0.1 * error)


def test_what_both_have_in_common_is_no_noise() -> None:
    rng = np.random.default_rng(7)
    shared, other = rng.normal(200, 40, 400), rng.normal(200, 40, 400)
    paired = paired_difference(losses(shared + 1), losses(shared))
    unpaired = paired_difference(losses(other + 1), losses(shared))
    assert paired.high - paired.low < 1e-9
    assert unpaired.high - unpaired.low > 0.05


def test_large_blocks_count_for_more() -> None:
    ours, sizes = np.array([100.0, 100.0] * 20), np.array([10, 190] * 20)
    whole = np.ones(40, dtype=np.bool_)
    found = paired_difference(BlockLosses(ours, sizes, whole), BlockLosses(0 * ours, sizes, whole))
    assert found.bits_per_byte == pytest.approx(4000 / math.log(2) / 4000)


def test_the_readings() -> None:
    rng = np.random.default_rng(7)
    base = rng.normal(200, 40, 100)
    same = base + rng.normal(0, 2, 100) - 0.01
    for ours, theirs, reading in (
        (base + 1, base, "worse"),
        (base - 1, base, "better"),
        (same, base, "no difference can be told"),
    ):
        assert paired_difference(losses(ours), losses(theirs)).reading == reading


def test_the_same_losses_give_the_same_interval() -> None:
    rng = np.random.default_rng(7)
    ours, theirs = losses(rng.normal(200, 40, 50)), losses(rng.normal(200, 40, 50))
    assert paired_difference(ours, theirs) == paired_difference(ours, theirs)


def test_only_what_both_have_in_full_counts() -> None:
    nats = np.arange(20, dtype=np.float64)
    whole = np.ones(20, dtype=np.bool_)
    whole[0] = False
    ours = BlockLosses(nats + 1000 * ~whole, np.full(20, 10), whole)
    found = paired_difference(ours, losses(np.arange(17, dtype=np.float64), 10))
    assert found.blocks == 16
    assert found.bits_per_byte == pytest.approx(0)


def test_too_few_blocks_tell_nothing() -> None:
    nats = np.full(LEAST_BLOCKS - 1, 100.0)
    found = paired_difference(losses(nats + 50), losses(nats))
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.reading == "no difference can be told"
    with pytest.raises(DataError):
        paired_difference(losses(nats[:0]), losses(nats[:0]))


def test_a_model_without_numbers_is_worse() -> None:
    nats = np.full(50, 100.0)
    broken = nats.copy()
    broken[3] = math.nan
    assert paired_difference(losses(broken), losses(nats)).reading == "worse"
    assert paired_difference(losses(nats), losses(broken)).reading == "better"
    both = paired_difference(losses(broken), losses(broken))
    assert both.reading == "no difference can be told"
