"""How many budgets and seeds a study needs to see a gap between two scaling laws.

From one fitted law and the noise of its runs follows how uncertain a law of more or fewer runs
would be. The question is the gap that two variants are predicted to have at a target, a multiple
of the largest budget so far; a design *resolves* a gap if four studies in five would see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rinsc.study.scaling import CONFIDENCE, LEAST_BUDGETS, Fit, Floats

POWER = 0.8
MOST_BUDGETS, MOST_SEEDS = 9, 8


@dataclass(frozen=True)
class Design:
    """A study of two variants: so many budgets, each ``factor`` times the last, and seeds.

    ``cost`` is the x of all its runs, in units of the largest budget so far. ``least_gap`` is the
    smallest gap at the target that it resolves.
    """

    budgets: int
    seeds: int
    factor: float
    cost: float
    least_gap: float


def designs(fitted: Fit, times: float = 4.0) -> list[Design]:
    """Designs that begin at the smallest budget of a fit, cheapest first.

    The target is ``times`` the fit's largest budget.
    """
    have = fitted.curve.budgets
    factor = (have[-1] / have[0]) ** (1 / (len(have) - 1))
    rows = [
        _design(fitted, budgets, seeds, factor, times * have[-1])
        for budgets in range(LEAST_BUDGETS, MOST_BUDGETS + 1)
        for seeds in range(1, MOST_SEEDS + 1)
    ]
    return sorted(rows, key=lambda design: (design.cost, design.least_gap))


def cheapest(plans: Sequence[Design], gap: float) -> Design | None:
    """The cheapest design that resolves a gap; None where none does."""
    return next((design for design in plans if design.least_gap <= gap), None)


def _design(fitted: Fit, budgets: int, seeds: int, factor: float, target: float) -> Design:
    from scipy.stats import t

    x = np.array([fitted.curve.budgets[0] * factor**step for step in range(budgets)])
    freedom = 2 * (budgets * seeds - 3)
    reach = t.ppf((1 + CONFIDENCE) / 2, freedom) + t.ppf(POWER, freedom)
    error = math.sqrt(2 / seeds) * _prediction_error(fitted, x, target)
    cost = 2 * seeds * float(x.sum()) / fitted.curve.budgets[-1]
    return Design(budgets, seeds, factor, cost, float(reach * error))


def _prediction_error(fitted: Fit, x: Floats, target: float) -> float:
    """Standard error of the law at ``target``, from a run at each ``x``."""

    def slopes(at: Floats) -> Floats:
        """Of the law by limit, scale and exponent, each in units of its own."""
        power = fitted.law.scale * at**-fitted.law.exponent
        return np.stack([np.ones_like(at), power, -power * np.log(at / x[0])], axis=1)

    losses = np.array([fitted.law(value) for value in x])
    rows = slopes(x) / losses[:, None]
    covariance = np.linalg.pinv(rows.T @ rows)
    (gradient,) = slopes(np.array([target]))
    return fitted.noise * math.sqrt(float(gradient @ covariance @ gradient))
