"""Whether a law of one power is the right form: a law whose exponent changes once, beside it.

    loss = limit + scale · x^-first · (1 + (x / break)^(1 / SHARPNESS))^(-change · SHARPNESS)

is the broken law of arXiv 2210.14891 with one break. For given exponents and break it is linear in
limit and scale, so that these three are searched alone. A law with two more unknowns always fits
better; where it fits so much better that noise alone does not explain it, the simple law does not
hold, and what it predicts beyond the runs is not to be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rinsc.study.scaling import Curve, Fit, Floats

LEAST_BUDGETS_OF_A_BREAK = 6
SHARPNESS = 0.2  # of the break, in natural logarithms of x: a factor of e^0.2
EXPONENTS = np.geomspace(0.01, 1.5, 14)
CHANGES = np.concatenate([-np.geomspace(0.01, 1.0, 7)[::-1], np.geomspace(0.01, 1.5, 8)])
BREAKS = 8  # that are tried, between the first and the last budget
DOUBT = 0.01  # the probability below which the simple law is said not to hold


@dataclass(frozen=True)
class BrokenLaw:
    """``doubt`` is the probability of so great an improvement were the simple law true."""

    limit: float
    scale: float
    first: float
    change: float
    at: float
    squares: float
    doubt: float

    def __call__(self, x: float) -> float:
        return self.limit + self.scale * float(
            _shape(np.array([x]), self.first, self.change, self.at)[0]
        )

    @property
    def is_better(self) -> bool:
        """Whether the simple law does not hold."""
        return self.doubt < DOUBT


def broken_law(fitted: Fit) -> BrokenLaw | None:
    """The broken law of a curve; None of one with too few budgets to show a break."""
    from scipy.optimize import minimize
    from scipy.stats import f

    curve = fitted.curve
    freedom = len(curve.loss) - 5
    if len(curve.budgets) < LEAST_BUDGETS_OF_A_BREAK or freedom < 1:
        return None
    x = np.array(curve.x)
    low, high = (math.log(curve.budgets[index]) for index in (1, -2))
    grid = [
        (first, change, at)
        for at in np.linspace(low, high, BREAKS)
        for first in EXPONENTS
        for change in CHANGES
        if first + change > 0
    ]
    shapes = np.stack([_shape(x, a, b, math.exp(c)) for a, b, c in grid])
    start = grid[int(np.argmin(_solve(curve, shapes)[0]))]

    def squares(raw: Floats) -> float:
        first, change, at = raw
        if first <= 0 or first + change <= 0 or not low <= at <= high:
            return math.inf
        return float(_solve(curve, _shape(x, first, change, math.exp(at))[None])[0][0])

    options = {"maxiter": 400, "xatol": 1e-6, "fatol": 1e-14}
    first, change, at = minimize(squares, start, method="Nelder-Mead", options=options).x
    least, limit, scale = _solve(curve, _shape(x, first, change, math.exp(at))[None])
    simple = _simple_squares(fitted)
    # The break is searched for, which an F test of two unknowns does not know: three are counted.
    ratio = max(simple - least[0], 0.0) / 3 / max(least[0] / freedom, 1e-30)
    return BrokenLaw(
        *(float(limit[0]), float(scale[0]), float(first), float(change), math.exp(at)),
        *(float(least[0]), float(f.sf(ratio, 3, freedom))),
    )


def residuals(fitted: Fit) -> list[tuple[float, float]]:
    """How far each run is off its law, in percent of it, by what it spent."""
    return [
        (x, 100 * (loss / fitted.law(x) - 1))
        for x, loss in zip(fitted.curve.x, fitted.curve.loss, strict=True)
    ]


def _simple_squares(fitted: Fit) -> float:
    off = np.array(fitted.curve.loss) - [fitted.law(x) for x in fitted.curve.x]
    return float(np.sum((off / fitted.curve.means) ** 2))


def _shape(x: Floats, first: float, change: float, at: float) -> Floats:
    """What the scale of a broken law is multiplied with; 1 at ``at``, without the break there."""
    ratio = np.log(x / at)
    bent = np.logaddexp(0.0, ratio / SHARPNESS) * SHARPNESS
    return np.asarray(np.exp(-first * ratio - change * bent))


def _solve(curve: Curve, shapes: Floats) -> tuple[Floats, Floats, Floats]:
    """Sums of squares, limits and scales for each row of ``shapes``, none of them negative."""
    weight, loss = 1 / curve.means**2, np.array(curve.loss)
    total, mean_u, mean_y = weight.sum(), shapes @ weight, weight @ loss
    square = (shapes**2) @ weight
    spread = np.maximum(square - mean_u**2 / total, 1e-300)
    scale = np.maximum(((shapes * loss) @ weight - mean_u * mean_y / total) / spread, 0.0)
    limit = (mean_y - scale * mean_u) / total
    scale = np.where(limit < 0, (shapes * loss) @ weight / square, scale)
    limit = np.maximum(limit, 0.0)
    off = loss - limit[:, None] - scale[:, None] * shapes
    return (off**2) @ weight, limit, scale
