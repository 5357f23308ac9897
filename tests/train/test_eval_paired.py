"""The bootstrap against a closed form, and what it says of models that differ and that do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rinsc.errors import DataError
from rinsc.evaluation.verdict import LEAST_BLOCKS, Difference, paired_difference
from rinsc.objectives import Pieces, objective

NORMAL = 1.959964  # 97.5 % of the standard normal distribution


BITS_PER_BYTE = objective("next_token").figures[0]
ACCURACY = objective("classify").figures[0]


def apart(ours: Pieces, theirs: Pieces) -> Difference:
    return paired_difference(ours, theirs, BITS_PER_BYTE)


def losses(nats: np.ndarray, byte_count: int = 100) -> Pieces:
    count = len(nats)
    return Pieces(nats / math.log(2), np.full(count, byte_count), np.ones(count, dtype=np.bool_))


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_interval_is_that_of_the_mean_of_differences(shift: float) -> None:
    """With blocks of one size the statistic is a mean, whose error is known: s / sqrt(n)."""
    rng = np.random.default_rng(7)
    shared, noise = rng.normal(200, 40, 400), rng.normal(shift, 2, 400)
    found = apart(losses(shared + noise), losses(shared))
    bits = math.log(2) * 100
    error = NORMAL * noise.std() / math.sqrt(len(noise)) / bits
    mean = noise.mean() / bits
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - error, abs=0.1 * error)
    assert found.high == pytest.approx(mean + error, abs=0.1 * error)


def test_what_both_have_in_common_is_no_noise() -> None:
    rng = np.random.default_rng(7)
    shared, other = rng.normal(200, 40, 400), rng.normal(200, 40, 400)
    paired = apart(losses(shared + 1), losses(shared))
    unpaired = apart(losses(other + 1), losses(shared))
    assert paired.high - paired.low < 1e-9
    assert unpaired.high - unpaired.low > 0.05


def test_large_blocks_count_for_more() -> None:
    ours, sizes = np.array([100.0, 100.0] * 20), np.array([10, 190] * 20)
    whole = np.ones(40, dtype=np.bool_)
    found = apart(Pieces(ours, sizes, whole), Pieces(0 * ours, sizes, whole))
    assert found.value == pytest.approx(1)


def test_the_readings() -> None:
    rng = np.random.default_rng(7)
    base = rng.normal(200, 40, 100)
    same = base + rng.normal(0, 2, 100) - 0.01
    for ours, theirs, reading in (
        (base + 1, base, "worse"),
        (base - 1, base, "better"),
        (same, base, "no difference can be told"),
    ):
        assert apart(losses(ours), losses(theirs)).reading == reading


def test_the_same_losses_give_the_same_interval() -> None:
    rng = np.random.default_rng(7)
    ours, theirs = losses(rng.normal(200, 40, 50)), losses(rng.normal(200, 40, 50))
    assert apart(ours, theirs) == apart(ours, theirs)


def test_only_what_both_have_in_full_counts() -> None:
    nats = np.arange(20, dtype=np.float64)
    whole = np.ones(20, dtype=np.bool_)
    whole[0] = False
    ours = Pieces((nats + 1000 * ~whole) / math.log(2), np.full(20, 10), whole)
    found = apart(ours, losses(np.arange(17, dtype=np.float64), 10))
    assert found.blocks == 16
    assert found.value == pytest.approx(0)


def test_too_few_blocks_tell_nothing() -> None:
    nats = np.full(LEAST_BLOCKS - 1, 100.0)
    found = apart(losses(nats + 50), losses(nats))
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.reading == "no difference can be told"
    with pytest.raises(DataError):
        apart(losses(nats[:0]), losses(nats[:0]))


def test_a_model_without_numbers_is_worse() -> None:
    nats = np.full(50, 100.0)
    broken = nats.copy()
    broken[3] = math.nan
    assert apart(losses(broken), losses(nats)).reading == "worse"
    assert apart(losses(nats), losses(broken)).reading == "better"
    both = apart(losses(broken), losses(broken))
    assert both.reading == "no difference can be told"


def test_of_accuracy_more_is_better() -> None:
    rng = np.random.default_rng(7)
    right = rng.random(400) < 0.8
    ours, theirs = (
        losses(right.astype(float)),
        losses((right & (rng.random(400) < 0.9)).astype(float)),
    )
    found = paired_difference(ours, theirs, ACCURACY)
    assert found.value > 0
    assert found.reading == "better"
    assert found.worse_by == (-found.high, -found.low)
    assert paired_difference(theirs, ours, ACCURACY).reading == "worse"
