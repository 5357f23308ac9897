"""Which learning rates a variant is tried at, and which one it takes.

Every variant has as many trials, each of which depends on its own results alone:

    tuning = Tuning((1e-3, 2e-3, 4e-3), trials=5, seeds=(101,), budgets=("1e12",))
    measured = [(1e-3, 2.40), (2e-3, 2.35), (4e-3, 2.31)]    the best one is the highest
    next_rate(measured) == 8e-3                              so the next one goes beyond it
    measured += [(8e-3, 2.36)]                               now it lies within
    next_rate(measured) == 2.828e-3                          so the next one stands beside it

In the end a parabola through the trials beside the best one gives the rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

LEAST_TRIALS, MOST_TRIALS = 3, 15
DEFAULT_SEEDS = (101,)
OPENING, FOLLOW_UPS = 3, 2
FACTOR = 2.0  # from one rate of the grid to the next
DIGITS = 4  # of a chosen rate, so that rounding on another machine changes none

Measured: TypeAlias = tuple[float, float]  # a rate, and its loss: infinite where a trial diverged


@dataclass(frozen=True)
class Tuning:
    """How the learning rate of each variant is tuned.

    ``rates`` are tried first, by every variant; later trials, up to ``trials``, follow from the
    results of the earlier ones. Each is run with every one of ``seeds``, at each of ``budgets``.
    """

    rates: tuple[float, ...]
    trials: int
    seeds: tuple[int, ...]
    budgets: tuple[str, ...]

    @property
    def rule(self) -> tuple[object, ...]:
        """All that decides a rate beside the results."""
        return self.rates, self.trials, self.seeds


@dataclass(frozen=True)
class Choice:
    """The rate that trials point to. ``loss`` is the parabola's there; ``is_at_edge`` says that the
    best trial is the lowest or the highest, or that all beyond it diverged."""

    rate: float
    loss: float
    is_at_edge: bool


def grid(base: float, count: int = OPENING) -> tuple[float, ...]:
    """Rates around one, each twice the last.

    >>> grid(2e-3)
    (0.001, 0.002, 0.004)
    """
    return tuple(rounded(base * FACTOR ** (number - count // 2)) for number in range(count))


def rounded(rate: float) -> float:
    return float(f"{rate:.{DIGITS}g}")


def next_rate(measured: Sequence[Measured]) -> float:
    """The rate to try next: beyond an edge, or halfway beside the best one.

    >>> next_rate([(1e-3, 2.4), (2e-3, 2.3), (4e-3, 2.35)])
    0.002828
    """
    trials = sorted(measured)
    best = _best(trials)
    if best == 0 or trials[best][1] == math.inf:
        return rounded(trials[0][0] / FACTOR)
    if best == len(trials) - 1:
        return rounded(trials[-1][0] * FACTOR)
    beside = min(trials[best - 1], trials[best + 1], key=lambda trial: trial[1])
    return rounded(math.sqrt(trials[best][0] * beside[0]))


def chosen_rate(measured: Sequence[Measured]) -> Choice | None:
    """The rate that the trials point to; None where every one diverged.

    >>> chosen_rate([(1e-3, 2.4), (2e-3, 2.3), (4e-3, 2.4)])
    Choice(rate=0.002, loss=2.3, is_at_edge=False)
    """
    trials = sorted(measured)
    best = _best(trials)
    rate, loss = trials[best]
    if loss == math.inf:
        return None
    around = trials[max(0, best - 1) : best + 2]
    if len(around) < 3 or any(loss == math.inf for _, loss in around):
        return Choice(rate, loss, is_at_edge=True)
    curve = _parabola(trials, rate)
    if curve is None:
        return Choice(rate, loss, is_at_edge=False)
    window = _window(trials, rate)
    at = min(max(curve.lowest, math.log(window[0][0])), math.log(window[-1][0]))
    return Choice(rounded(math.exp(at)), curve(at), is_at_edge=False)


def loss_at(measured: Sequence[Measured], rate: float) -> float | None:
    """The loss that the trials tell of a rate: by the parabola beside the best one, and by straight
    lines beyond it. None outside of the finite trials."""
    trials = sorted(trial for trial in measured if trial[1] < math.inf)
    if not trials or not trials[0][0] <= rate <= trials[-1][0]:
        return None
    best = trials[_best(trials)][0]
    window, curve = _window(trials, best), _parabola(trials, best)
    choice = chosen_rate(measured)
    is_inside = window[0][0] <= rate <= window[-1][0]
    if choice and not choice.is_at_edge and curve is not None and is_inside:
        return curve(math.log(rate))
    for (low, at_low), (high, at_high) in pairwise(trials):
        if low <= rate <= high:
            share = math.log(rate / low) / math.log(high / low)
            return at_low + share * (at_high - at_low)
    return trials[0][1]  # there is one alone


def _best(trials: Sequence[Measured]) -> int:
    """Of equal ones the lowest rate."""
    return min(range(len(trials)), key=lambda number: (trials[number][1], number))


def _window(trials: Sequence[Measured], best: float) -> list[Measured]:
    """The finite trials that are no further from the best one than the grid's next rates."""
    reach = FACTOR * (1 + 10**-DIGITS)  # rates are rounded
    return [
        (rate, loss)
        for rate, loss in trials
        if best / reach <= rate <= best * reach and loss < math.inf
    ]


@dataclass(frozen=True)
class _Parabola:
    """Of the logarithm of the rate, with its lowest point at ``lowest``."""

    lowest: float
    loss: float
    curvature: float

    def __call__(self, at: float) -> float:
        return self.loss + self.curvature * (at - self.lowest) ** 2


def _parabola(trials: Sequence[Measured], best: float) -> _Parabola | None:
    """Least squares through the trials beside the best one; None where it has no lowest point.

    With noise it is steadier than the parabola through three of them.
    """
    middle = math.log(best)
    points = [(math.log(rate) - middle, loss) for rate, loss in _window(trials, best)]
    mean = math.fsum(y for _, y in points) / len(points)
    # Polynomials that are orthogonal over the points: each coefficient stands alone.
    shift = math.fsum(x for x, _ in points) / len(points)
    spread = math.fsum((x - shift) ** 2 for x, _ in points)
    if spread == 0:
        return None
    skew = math.fsum((x - shift) ** 3 for x, _ in points) / spread
    level = spread / len(points)

    def second(x: float) -> float:
        return (x - shift) ** 2 - skew * (x - shift) - level

    size = math.fsum(second(x) ** 2 for x, _ in points)
    slope = math.fsum((x - shift) * y for x, y in points) / spread
    if size <= 1e-12 * spread**2:
        return None
    curvature = math.fsum(second(x) * y for x, y in points) / size
    if curvature <= 0:
        return None
    lowest = shift + (skew - slope / curvature) / 2
    loss = mean + slope * (lowest - shift) + curvature * second(lowest)
    return _Parabola(middle + lowest, loss, curvature)
