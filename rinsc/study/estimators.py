"""Other ways to fit a scaling law, as a check on `rinsc.study.scaling`.

The estimators M2 and M4 are those of arXiv 2209.06640, by the author of RINS: least squares in the
logarithm of the loss above its limit. M4 bends the law towards a loss at no training, which suits
curves that begin at chance. `huber` takes less notice of outliers, as in arXiv 2203.15556. All of
them search for their nonlinear parameters directly, so that they end where the published ones do,
only sooner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rinsc.study.scaling import Curve, Floats, Law, fit

MARGIN = 1e-3  # of the least loss that its limit is below it, so that no logarithm is infinite
HUBER_DELTA = 1e-3  # of the logarithm of a loss, as in arXiv 2203.15556


@dataclass(frozen=True)
class Estimate:
    """What one estimator finds: the law's exponent and limit, and the loss that it predicts."""

    exponent: float
    limit: float
    predict: Callable[[float], float]


def estimates(curve: Curve) -> Mapping[str, Estimate]:
    """The law of a curve by each estimator; the runs of a budget count as their mean."""
    (fitted,) = fit([curve])
    return {
        "least squares": _of_law(fitted.law),
        "M2": m2(curve),
        "M4": m4(curve),
        "Huber": huber(curve, fitted.law),
    }


def m2(curve: Curve) -> Estimate:
    """loss = limit + scale · x ** -exponent, by least squares of log(loss - limit)."""
    from scipy.optimize import minimize_scalar

    log_x, loss = _points(curve)
    design = np.stack([np.ones_like(log_x), -log_x], axis=1)

    def solve(limit: float) -> tuple[Floats, float]:
        return _least_squares(design, np.log(loss - limit))

    # Of several minima the one next to the least loss is meant, where the published search begins.
    least = float(loss.min())
    logs = np.linspace(math.log(MARGIN * least), math.log(least), 200)
    squares = [solve(least - math.exp(log))[1] for log in logs]
    falls = (index for index, step in enumerate(np.diff(squares)) if step > 0)
    index = next(falls, len(logs) - 1)
    bounds = logs[max(index - 1, 0)], logs[min(index + 1, len(logs) - 1)]
    closest = minimize_scalar(lambda log: solve(least - math.exp(log))[1], bounds=bounds)
    limit = least - math.exp(closest.x)
    (log_scale, exponent), _ = solve(limit)
    return _of_law(Law(float(exponent), max(limit, 0.0), math.exp(log_scale)))


def m4(curve: Curve) -> Estimate:
    """(loss - limit) / (start - loss) ** bend = scale · x ** -exponent, by least squares of its
    logarithm; none of scale's logarithm, exponent and bend is negative."""
    from scipy.optimize import brentq, minimize, nnls

    log_x, loss = _points(curve)
    log_x = log_x - log_x.min()  # so that the scale is that of the first budget
    least, most = float(loss.min()), float(loss.max())
    near = math.log(max(1 - m2(curve).limit / least, MARGIN))

    def solve(raw: Floats) -> tuple[Floats, float, float, float]:
        below, above = (math.exp(max(value, math.log(MARGIN))) for value in raw)
        limit, start = least * (1 - below), most * (1 + above)
        if limit < 0:
            return np.zeros(3), limit, start, 1e6 * (1 - limit)
        design = np.stack([np.ones_like(log_x), -log_x, np.log(start - loss)], axis=1)
        target = np.log(loss - limit)
        # The intercept has either sign: two columns.
        coefficients, norm = nnls(np.hstack([design, -design[:, :1]]), target)
        return (
            np.array([coefficients[0] - coefficients[3], coefficients[1], coefficients[2]]),
            limit,
            start,
            norm**2,
        )

    best = min(
        (
            minimize(lambda raw: solve(raw)[3], [near, above], method="Nelder-Mead")
            for above in (-3.0, 0.0, 3.0)
        ),
        key=lambda result: float(result.fun),
    )
    (log_scale, exponent, bend), limit, start, _ = solve(best.x)
    least_x = min(curve.x)

    def predict(x: float) -> float:
        power = log_scale - exponent * math.log(x / least_x)

        def excess(value: float) -> float:
            left = math.log(value - limit) - bend * math.log(start - value)
            return float(left - power)

        margin = 1e-12 * (start - limit)
        ends = float(limit + margin), float(start - margin)
        if excess(ends[0]) > 0:
            return limit
        return start if excess(ends[1]) < 0 else float(brentq(excess, *ends))

    return Estimate(float(exponent), limit, predict)


def huber(curve: Curve, start: Law) -> Estimate:
    """loss = limit + scale · x ** -exponent, with Huber's loss of log(loss), from ``start`` on."""
    from scipy.optimize import minimize

    log_x, loss = _points(curve)
    log_loss = np.log(loss)

    def objective(raw: Floats) -> float:
        residual = np.logaddexp(raw[0], raw[1] - raw[2] * log_x) - log_loss
        size = np.abs(residual)
        far = HUBER_DELTA * (size - HUBER_DELTA / 2)
        return float(np.where(size <= HUBER_DELTA, residual**2 / 2, far).sum())

    options: dict[str, Any] = {"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-15}
    first = [math.log(max(start.limit, 1e-6)), math.log(max(start.scale, 1e-12)), start.exponent]
    solution = minimize(objective, first, method="Nelder-Mead", options=options).x
    return _of_law(Law(float(solution[2]), math.exp(solution[0]), math.exp(solution[1])))


def _of_law(law: Law) -> Estimate:
    return Estimate(law.exponent, law.limit, law)


def _points(curve: Curve) -> tuple[Floats, Floats]:
    """The logarithm of each budget, and its mean loss."""
    loss = np.array([np.mean(np.array(curve.loss)[group]) for group in curve.groups])
    return np.log(curve.budgets), loss


def _least_squares(design: Floats, target: Floats) -> tuple[Floats, float]:
    solution = np.asarray(np.linalg.lstsq(design, target, rcond=None)[0], dtype=np.float64)
    return solution, float(np.sum((design @ solution - target) ** 2))
