"""How far a difference between two variants may move with another held-out text.

Seeds do not show this noise: all runs are measured on the same text. But that text is one draw, and
two models read the same windows of it. So the difference is taken window by window, where what is
hard for both cancels, and the windows are the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rinsc.objectives import Pieces
from rinsc.study.ranking import CONFIDENCE

LEAST_WINDOWS = 10  # fewer say little about another text


@dataclass(frozen=True)
class TextInterval:
    """Of the gap between two variants, over so many windows; lower is better."""

    low: float
    high: float
    windows: int


def text_interval(
    ours: Sequence[Pieces], theirs: Sequence[Pieces], *, less_is_better: bool = True
) -> TextInterval | None:
    """The 95 % interval of our mean figure less theirs, over other texts of this kind.

    Both sides are of runs on the same windows; None where they are not, or are too few. Seeds count
    by their mean, so that their noise is not in it.

    >>> sizes, whole = np.full(12, 100), np.ones(12, dtype=bool)
    >>> hard = Pieces(np.arange(12.0) + 5, sizes, whole)
    >>> easy = Pieces(np.arange(12.0), sizes, whole)
    >>> found = text_interval([easy], [hard])
    >>> round(found.low, 4), round(found.high, 4)  # the same in every window
    (-0.05, -0.05)
    """
    from scipy.stats import t

    runs = [*ours, *theirs]
    if not ours or not theirs or any(len(run.sizes) != len(runs[0].sizes) for run in runs):
        return None
    sizes = runs[0].sizes
    windows = len(sizes)
    if windows < LEAST_WINDOWS or any(not np.array_equal(run.sizes, sizes) for run in runs):
        return None
    mine, other = (np.mean([run.totals for run in side], axis=0) for side in (ours, theirs))
    apart = mine - other if less_is_better else other - mine
    gap = float(apart.sum() / sizes.sum())
    # A ratio of two sums: its error is that of the sum of what each window is off the ratio.
    off = apart - gap * sizes
    error = math.sqrt(windows / (windows - 1) * float(off @ off)) / float(sizes.sum())
    reach = float(t.ppf((1 + CONFIDENCE) / 2, windows - 1)) * error
    return TextInterval(gap - reach, gap + reach, windows)
