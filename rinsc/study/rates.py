"""Which learning rates a variant is tried at, and which one it takes.

Every variant has as many trials, each of which depends on its own results alone:

    tuning = Tuning((1e-3, 2e-3, 4e-3), trials=5, seeds=(101,), budgets=("1e12",))
    measured = [(1e-3, 2.40), (2e-3, 2.35), (4e-3, 2.31)]    the best one is the highest
    next_rate(measured) == 8e-3                              so the next one goes beyond it
    measured += [(8e-3, 2.36)]                               now it lies within
    next_rate(measured) == 2.828e-3                          so the next one stands beside it

In the end a parabola through the best trial and its neighbours gives the rate.
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
    window = trials[max(0, best - 1) : best + 2]
    if best == 0 or len(window) < 3 or any(loss == math.inf for _, loss in window):
        return Choice(rate, loss, is_at_edge=True)
    at = _vertex(window)
    return Choice(rounded(math.exp(at)), _parabola(window, at), is_at_edge=False)


def loss_at(measured: Sequence[Measured], rate: float) -> float | None:
    """The loss that the trials say of a rate: by the parabola beside the best one, and by straight
    lines beyond it. None outside of the finite trials."""
    trials = sorted(trial for trial in measured if trial[1] < math.inf)
    if not trials or not trials[0][0] <= rate <= trials[-1][0]:
        return None
    choice = chosen_rate(measured)
    best = _best(trials)
    window = trials[max(0, best - 1) : best + 2]
    if choice and not choice.is_at_edge and window[0][0] <= rate <= window[-1][0]:
        return _parabola(window, math.log(rate))
    for (low, at_low), (high, at_high) in pairwise(trials):
        if low <= rate <= high:
            share = math.log(rate / low) / math.log(high / low)
            return at_low + share * (at_high - at_low)
    return trials[0][1]  # there is one alone


def _best(trials: Sequence[Measured]) -> int:
    """Of equal ones the lowest rate."""
    return min(range(len(trials)), key=lambda number: (trials[number][1], number))


def _vertex(window: Sequence[Measured]) -> float:
    """The logarithm of the rate where the parabola through three trials is lowest."""
    (low, middle, high), (a, b, c) = (
        [math.log(rate) for rate, _ in window],
        [y for _, y in window],
    )
    left, right = (middle - low) * (c - b), (high - middle) * (a - b)
    if left + right <= 0:  # three equal losses
        return middle
    return middle + ((high - middle) * right - (middle - low) * left) / (2 * (left + right))


def _parabola(window: Sequence[Measured], at: float) -> float:
    total = 0.0
    for rate, loss in window:
        others = [math.log(other) for other, _ in window if other != rate]
        weights = [(at - other) / (math.log(rate) - other) for other in others]
        total += loss * math.prod(weights)
    return total
