"""A ranking with both of its noises, of seeds and of text, and what it allows to say.

Seeds do not show the noise of text: all runs are measured on the same one. But that text is one
draw, and two models read the same windows of it. So the difference is taken window by window, where
what is hard for both cancels, and the windows are the draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rinsc.objectives import Pieces
from rinsc.study.ranking import CONFIDENCE, Rank, Ranking

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


@dataclass(frozen=True)
class Standing:
    """A ranking at one budget, and for each variant the interval of its gap over other texts, where
    the runs have kept their windows."""

    ranking: Ranking
    text: Mapping[str, TextInterval] = field(default_factory=dict)

    @property
    def ranks(self) -> tuple[Rank, ...]:
        """All variants, best first."""
        return self.ranking.ranks

    def facts(self) -> dict[str, object]:
        """The ranking as plain data."""
        ranking = self.ranking
        return {
            "run_sd": ranking.run_sd,
            "freedom": ranking.freedom,
            "critical": ranking.critical,
            "least_gap": ranking.least_gap,
            "best": list(ranking.best),
            "diverged": [list(pair) for pair in ranking.diverged],
            "ranks": [
                {
                    **vars(item),
                    "reading": item.reading,
                    "text_interval": None if text is None else vars(text),
                }
                for item in ranking.ranks
                for text in [self.text.get(item.variant)]
            ],
        }


def reading_in_words(item: Rank, baseline: str) -> str:
    """What the interval of a variant allows to claim."""
    reading = "baseline" if item.variant == baseline else item.reading
    return f"{reading}, may be the best" if item.ties_best else reading


def regret_in_words(item: Rank, baseline: str) -> str:
    """Whether training with rounds costs a variant that is then run at one round."""
    if item.variant == baseline:
        return "baseline"
    outcomes = {"better": "no regret", "worse": "regret", "not told apart": "undecided"}
    return outcomes[item.reading]


def noise_in_words(standing: Standing) -> str:
    """The noise of a run, and what the study can see."""
    ranking = standing.ranking
    return (
        f"a run's noise is {ranking.run_sd:.4f}, gaps of {ranking.least_gap:.4f} are seen four "
        f"times in five"
    )
