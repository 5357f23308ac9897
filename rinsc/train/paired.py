"""Two models on the same text: the difference of their bits per byte, and how sure it is.

The interval is a paired bootstrap over blocks of held-out text (Efron and Tibshirani, An
Introduction to the Bootstrap, chapter 13): it says what another text of this kind could have
given. What another seed of training could have given is not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.errors import DataError, Problem
from rinsc.train.evaluate import BlockLosses

RESAMPLES = 2000
CONFIDENCE = 0.95
LEAST_BLOCKS = 10  # a resample of fewer says little

Reading: TypeAlias = Literal["better", "worse", "no difference can be told"]


@dataclass(frozen=True)
class Difference:
    """Bits per byte of a model and of its baseline, and the 95 % interval of their difference.

    All on the same ``blocks``; the interval is infinite where they are fewer than `LEAST_BLOCKS`.
    """

    ours: float
    theirs: float
    low: float
    high: float
    blocks: int

    @property
    def bits_per_byte(self) -> float:
        """The model's less the baseline's."""
        return self.ours - self.theirs

    @property
    def reading(self) -> Reading:
        """Lower is better; an interval with 0 in it tells nothing."""
        if self.low > 0:
            return "worse"
        return "better" if self.high < 0 else "no difference can be told"


def paired_difference(ours: BlockLosses, theirs: BlockLosses, *, seed: int = 0) -> Difference:
    """The difference on the blocks that both have in full; the same every time.

    Both must be of the same text, cut into the same blocks. Raises DataError where they have none
    in common.
    """
    common = min(len(ours.nats), len(theirs.nats))
    both = ours.is_whole[:common] & theirs.is_whole[:common]
    ours, theirs = ours.only(both), theirs.only(both)
    blocks = len(ours.nats)
    if blocks == 0:
        hint = "use more text, or shorter sequences"
        raise DataError(Problem("too-little-text", "the runs have no text in common", hint=hint))
    found = ours.bits_per_byte, theirs.bits_per_byte
    if not all(map(math.isfinite, found)):
        return Difference(*found, *_without_numbers(*found), blocks)
    if blocks < LEAST_BLOCKS:
        return Difference(*found, -math.inf, math.inf, blocks)
    rng = np.random.default_rng(seed)
    draws = np.empty(RESAMPLES)
    for place in range(RESAMPLES):
        times = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks)
        draws[place] = _bits_per_byte(ours, times) - _bits_per_byte(theirs, times)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Difference(*found, float(low), float(high), blocks)


def _without_numbers(ours: float, theirs: float) -> tuple[float, float]:
    """The interval where a model gives no numbers: it is worse than one that does."""
    low = math.inf if math.isfinite(theirs) else -math.inf
    high = -math.inf if math.isfinite(ours) else math.inf
    return low, high


def _bits_per_byte(losses: BlockLosses, times: npt.NDArray[np.int64]) -> float:
    """Of a text in which each block stands so many times."""
    return float(times @ losses.nats) / math.log(2) / float(times @ losses.byte_counts)
