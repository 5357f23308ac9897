"""Scaling laws of trained runs: loss = limit + scale · x ** -exponent, and what they predict.

For a given exponent the law is linear in the other two. So they are found by non-negative least
squares, and the exponent by a search in one dimension (variable projection): no starting point
matters, and a fit takes milliseconds. Residuals are relative to the loss.

Exponent and limit lean on each other: a higher limit with a higher exponent fits nearly as well.
An interval is therefore the profile of the fit: all values that some law reaches without a sum of
squares beyond what the noise allows. The figure by which to compare two variants is the *gap* that
their laws predict at a multiple of the largest budget.

    >>> x = [1e15 * 4**step for step in range(6)]
    >>> curve = Curve("AB", tuple(x), tuple(2 + 3 * (each / 1e15) ** -0.25 for each in x))
    >>> (found,) = fit([curve])
    >>> round(found.law.exponent, 3), round(found.law.limit, 3)
    (0.25, 2.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.errors import DataError, Problem

LEAST_BUDGETS = 5
CONFIDENCE = 0.95
EXPONENTS = np.geomspace(0.004, 5.0, 321)  # those that are looked at first
FINER, REFINEMENTS = 25, 3  # exponents between two neighbours, and how often
SAME_BUDGET = 1.02  # runs end within a step of their budget, so that x differs a little

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """The losses of one variant, a run each, at the compute (or tokens) ``x``."""

    name: str
    x: tuple[float, ...]
    loss: tuple[float, ...]

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """Each budget once, smallest first: the geometric mean of its runs."""
        return tuple(float(np.exp(np.log(self.x)[group].mean())) for group in self.groups)

    @cached_property
    def groups(self) -> list[npt.NDArray[np.intp]]:
        """The runs of each budget, by number."""
        order = np.argsort(self.x, kind="stable")
        steps = np.diff(np.log(self.x)[order]) > math.log(SAME_BUDGET)
        return list(np.split(order, np.flatnonzero(steps) + 1))

    @cached_property
    def means(self) -> Floats:
        """For each run the mean loss of its budget."""
        means = np.empty(len(self.loss))
        for group in self.groups:
            means[group] = np.mean(np.array(self.loss)[group])
        return means

    def without_largest(self) -> Curve:
        """The runs but for those of the largest budget."""
        runs = sorted(int(run) for group in self.groups[:-1] for run in group)
        x, loss = (tuple(values[run] for run in runs) for values in (self.x, self.loss))
        return Curve(self.name, x, loss)


@dataclass(frozen=True)
class Law:
    """loss = limit + scale · x ** -exponent."""

    exponent: float
    limit: float
    scale: float

    def __call__(self, x: float) -> float:
        return float(self.limit + self.scale * x**-self.exponent)


@dataclass(frozen=True)
class HeldOut:
    """The runs of the largest budget, predicted from the others.

    The interval is of what was to be expected of their mean, with the noise of the runs.
    """

    x: float
    measured: float
    predicted: float
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Prediction:
    """A loss, or a gap between two, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A law with its intervals, and how well it holds.

    ``noise`` is the relative standard deviation of a run, of ``freedom`` degrees. ``misfit`` is the
    probability of so bad a fit were the law true; None where no budget has two runs. ``refusal``
    says why exponent and limit are not to be claimed, and is empty where they may be.
    """

    curve: Curve
    law: Law
    noise: float
    freedom: int
    exponent: Interval
    limit: Interval
    misfit: float | None
    held_out: HeldOut
    refusal: str

    def predict(self, x: float) -> Prediction:
        """The mean loss at ``x``, with the interval of the law."""
        value = self.law(x)
        return Prediction(value, *_Profile(self.curve).level_interval(x, value, self._allowed))

    def exponents_and_limits(self, count: int = 200) -> tuple[Floats, Floats, Flags]:
        """Exponents (count,), limits (count,) and whether `allows` each pair of them."""
        exponents = np.geomspace(*_widened(self.exponent, EXPONENTS[0], EXPONENTS[-1]), count)
        least = min(self.curve.loss)
        limits = np.linspace(*_widened(self.limit, 0.0, least), count)
        profile = _Profile(self.curve)
        squares = np.stack(
            [profile.squares(math.inf, limit, exponents) for limit in limits], axis=1
        )
        return exponents, limits, squares <= profile.best()[1] + self._allowed_together

    def allows(self, exponent: float, limit: float) -> bool:
        """Whether a pair is in the joint region: within the noise of the best fit."""
        profile = _Profile(self.curve)
        squares = profile.squares(math.inf, limit, np.array([exponent]))
        return bool(squares[0] <= profile.best()[1] + self._allowed_together)

    def exponent_profile(self, count: int = 40) -> list[tuple[float, float]]:
        """Exponents, and how much worse the best law with each fits, in units of the noise²."""
        profile = _Profile(self.curve)
        exponents = np.geomspace(*_widened(self.exponent, EXPONENTS[0], EXPONENTS[-1]), count)
        worse = (profile.free(exponents)[0] - profile.best()[1]) / (self.noise**2 or 1.0)
        return list(zip(exponents.tolist(), worse.tolist(), strict=True))

    @property
    def allowed_by_noise(self) -> float:
        """What an exponent may fit worse, in units of the noise, and still be in the interval."""
        return _f_quantile(1, self.freedom)

    @property
    def _allowed_together(self) -> float:
        return 2 * self.noise**2 * _f_quantile(2, self.freedom)

    @property
    def _allowed(self) -> float:
        return self.noise**2 * _f_quantile(1, self.freedom)


def fit(curves: Sequence[Curve]) -> tuple[Fit, ...]:
    """Fit a law to each curve; the noise of a run, relative to its loss, is pooled over all.

    Raises DataError for curves of fewer than five budgets, and for values that are not above 0.
    """
    problems = [problem for curve in curves for problem in _problems(curve)]
    if problems or not curves:
        raise DataError.of(
            *problems or [Problem("no-points", "there are no runs to fit", hint="give a curve")]
        )
    profiles = [_Profile(curve) for curve in curves]
    bests = [profile.best() for profile in profiles]
    freedom = sum(len(curve.loss) - 3 for curve in curves)
    noise = math.sqrt(sum(squares for _, squares in bests) / freedom)
    return tuple(
        _fit(profile, law, squares, noise, freedom)
        for profile, (law, squares) in zip(profiles, bests, strict=True)
    )


def gap(ours: Fit, theirs: Fit, x: float) -> Prediction:
    """How much lower or higher the loss of one variant is predicted than the other's at ``x``.

    The two intervals are joined as those of independent figures.
    """
    one, other = ours.predict(x), theirs.predict(x)
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return Prediction(value, low, high)


def _problems(curve: Curve) -> list[Problem]:
    if not all(math.isfinite(value) and value > 0 for value in (*curve.x, *curve.loss)):
        message = "compute and losses must be finite and above 0"
        return [Problem("bad-points", message, place=curve.name, hint="leave diverged runs out")]
    budgets = len(curve.budgets)
    if budgets < LEAST_BUDGETS:
        message = f"a law needs runs at {LEAST_BUDGETS} budgets or more, and there are {budgets}"
        hint = "train at more budgets, two to four times apart"
        return [Problem("too-few-budgets", message, place=curve.name, hint=hint)]
    return []


def _fit(profile: _Profile, law: Law, squares: float, noise: float, freedom: int) -> Fit:
    curve = profile.curve
    allowed = noise**2 * _f_quantile(1, freedom)
    exponent = profile.exponent_interval(squares + allowed)
    limit = profile.level_interval(math.inf, law.limit, allowed)
    refusal = ""
    if law.scale == 0:
        refusal = "the losses do not fall with what was spent"
    elif law.limit == 0:
        refusal = "the limit is at 0: the runs show no end of the fall"
    elif exponent[0] == EXPONENTS[0] or exponent[1] == EXPONENTS[-1]:
        refusal = "the runs fit any exponent: use more budgets, or seeds"
    checks = _misfit(curve, squares), _held_out(curve, noise, freedom)
    return Fit(curve, law, noise, freedom, exponent, limit, *checks, refusal)


def _held_out(curve: Curve, noise: float, freedom: int) -> HeldOut:
    rest, largest = curve.without_largest(), curve.groups[-1]
    profile = _Profile(rest)
    law, _ = profile.best()
    x, predicted = curve.budgets[-1], law(curve.budgets[-1])
    allowed = noise**2 * _f_quantile(1, freedom)
    low, high = profile.level_interval(x, predicted, allowed)
    own = math.sqrt(allowed / len(largest)) * predicted  # the noise of the held-out runs
    return HeldOut(
        x,
        float(np.mean(np.array(curve.loss)[largest])),
        predicted,
        predicted - math.hypot(predicted - low, own),
        predicted + math.hypot(high - predicted, own),
    )


def _misfit(curve: Curve, squares: float) -> float | None:
    """The probability of so bad a fit, judged by how much runs of one budget differ."""
    from scipy.stats import f

    pure = float(np.sum((np.array(curve.loss) / curve.means - 1) ** 2))
    budgets, runs = len(curve.groups), len(curve.loss)
    if runs == budgets or budgets <= 3 or pure == 0:
        return None
    ratio = max(squares - pure, 0.0) / (budgets - 3) / (pure / (runs - budgets))
    return float(f.sf(ratio, budgets - 3, runs - budgets))


def _f_quantile(count: int, freedom: int) -> float:
    from scipy.stats import f

    return float(f.ppf(CONFIDENCE, count, freedom))


def _widened(interval: Interval, least: float, most: float) -> Interval:
    """Half as wide again to both sides, within bounds, as a joint region is wider."""
    low, high = interval
    room = 0.5 * (high - low)
    return max(low - room, least), min(high + room, most)


class _Profile:
    """Least sums of squares of a curve: for given exponents, the other two solved for.

    With the level p of the law at some x0 given, loss - p = slope · (u - u0), where u is
    (x / least x) ** -exponent: one unknown is left. The limit is the level at infinity.
    """

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self._least_x = float(min(curve.x))
        self._log_x = np.log(np.array(curve.x) / self._least_x)
        self._loss = np.array(curve.loss)
        self._weight = 1 / curve.means**2  # residuals are relative
        self._u = np.exp(-np.outer(EXPONENTS, self._log_x))

    def best(self) -> tuple[Law, float]:
        """The best law and its sum of squares."""
        exponent, least = self._search(lambda u, _: self._free(u)[0])
        _, limit, slope = self.free(np.array([exponent]))
        return Law(exponent, float(limit[0]), float(slope[0]) * self._least_x**exponent), least

    def free(self, exponents: Floats) -> tuple[Floats, Floats, Floats]:
        """Sums of squares, limits and slopes of the best law of each exponent."""
        return self._free(np.exp(-np.outer(exponents, self._log_x)))

    def exponent_interval(self, most: float) -> Interval:
        """The exponents at which some law has no greater sum of squares than ``most``."""
        best = self.best()[0].exponent

        def excess(exponent: float) -> float:
            return float(self.free(np.array([exponent]))[0][0]) - most

        return (
            _end(excess, best, lambda low: low / 1.05, EXPONENTS[0]),
            _end(excess, best, lambda high: high * 1.05, EXPONENTS[-1]),
        )

    def level_interval(self, x0: float, value: float, allowed: float) -> Interval:
        """The levels at ``x0`` that some law reaches within ``allowed`` of the least squares."""
        most = self._least(x0, value) + allowed
        step = 1e-4 * max(value, 1e-3 * float(min(self.curve.loss)))

        def excess(level: float) -> float:
            return self._least(x0, level) - most

        def further(level: float, side: int) -> float:
            return level + side * max(step, abs(level - value))  # twice as far from the value

        return (
            _end(excess, value, lambda low: further(low, -1), 0.0),
            _end(excess, value, lambda high: further(high, 1), 10 * float(max(self.curve.loss))),
        )

    def squares(self, x0: float, level: float, exponents: Floats) -> Floats:
        """Least sums of squares at each exponent, of laws that are at ``level`` at ``x0``."""
        return self._pinned(np.exp(-np.outer(exponents, self._log_x)), exponents, x0, level)

    def _least(self, x0: float, level: float) -> float:
        """The least sum of squares of all laws that are at ``level`` at ``x0``."""
        return self._search(lambda u, exponents: self._pinned(u, exponents, x0, level))[1]

    def _search(self, squares: Callable[[Floats, Floats], Floats]) -> tuple[float, float]:
        """The exponent of the least sum of squares, and that: a grid, and finer ones around it."""
        exponents, values = EXPONENTS, squares(self._u, EXPONENTS)
        for _ in range(REFINEMENTS):
            index = int(np.argmin(values))
            around = exponents[max(index - 1, 0)], exponents[min(index + 1, len(exponents) - 1)]
            exponents = np.linspace(*around, FINER)
            values = squares(np.exp(-np.outer(exponents, self._log_x)), exponents)
        index = int(np.argmin(values))
        return float(exponents[index]), float(values[index])

    def _free(self, u: Floats) -> tuple[Floats, Floats, Floats]:
        """Sums of squares, limits and slopes for each row of ``u``, both at least 0."""
        w, y = self._weight, self._loss
        total, mean_u, mean_y = w.sum(), u @ w, w @ y
        spread = (u**2) @ w - mean_u**2 / total
        slope = np.maximum(((u * y) @ w - mean_u * mean_y / total) / spread, 0.0)
        limit = (mean_y - slope * mean_u) / total
        without = (u * y) @ w / ((u**2) @ w)  # with the limit at 0
        slope = np.where(limit < 0, without, slope)
        limit = np.maximum(limit, 0.0)
        residual = y - limit[:, None] - slope[:, None] * u
        return (residual**2) @ w, limit, slope

    def _pinned(self, u: Floats, exponents: Floats, x0: float, level: float) -> Floats:
        """As `_free`, for laws that are at ``level`` at ``x0``."""
        w = self._weight
        u0 = np.exp(-exponents * math.log(x0 / self._least_x)) if math.isfinite(x0) else 0.0
        u0 = np.broadcast_to(u0, exponents.shape)
        rise, fall = u - u0[:, None], self._loss - level
        slope = (rise * fall) @ w / ((rise**2) @ w)
        # The limit, level - slope · u0, is at least 0; so is the slope.
        most = np.full(len(slope), math.inf)
        np.divide(level, u0, out=most, where=u0 > 0)
        slope = np.clip(slope, 0.0, most)
        residual = fall - slope[:, None] * rise
        return np.asarray((residual**2) @ w)


def _end(
    excess: Callable[[float], float],
    inner: float,
    further: Callable[[float], float],
    bound: float,
) -> float:
    """Where ``excess`` rises above 0 on the way from ``inner`` outwards; at most the bound."""
    from scipy.optimize import brentq

    while inner != bound:
        outer = further(inner)
        if abs(outer - inner) >= abs(bound - inner):
            outer = bound
        if excess(outer) > 0:
            low, high = sorted((inner, outer))
            if excess(inner) >= 0:  # the noise is below what floats can tell
                return float(inner)
            return float(brentq(excess, low, high, xtol=1e-10 * max(high, 1e-3)))
        inner = outer
    return float(bound)
