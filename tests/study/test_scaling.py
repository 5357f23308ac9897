"""Scaling laws against scipy's least squares, published estimators, and simulated studies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from rinsc.errors import DataError
from rinsc.study.estimators import estimates, m2
from rinsc.study.laws import read_points
from rinsc.study.planning import cheapest, designs
from rinsc.study.scaling import Curve, Fit, fit, gap

TRANSLATION = Path(__file__).with_name("translation.csv")
NOISE = 1e-3


def law(x: np.ndarray, limit: float, scale: float, exponent: float) -> np.ndarray:
    return limit + scale * x**-exponent


def curve(
    rng: np.random.Generator | None = None,
    budgets: int = 7,
    seeds: int = 3,
    *,
    limit: float = 1.5,
    scale: float = 2.0,
    exponent: float = 0.12,
    start: float = 1.0,
) -> Curve:
    """Runs at budgets four times apart, with relative noise where there is an ``rng``."""
    x = np.repeat(start * 4.0 ** np.arange(budgets), seeds)
    loss = law(x / start, limit, scale, exponent)
    if rng is not None:
        loss = loss * (1 + NOISE * rng.normal(size=len(x)))
    return Curve("A^2B", tuple(x), tuple(loss))


@given(
    st.floats(0.03, 0.9),
    st.floats(0.01, 5.0),
    st.floats(0.1, 5.0),
    st.sampled_from([1.0, 1e9, 1e18]),
)
def test_an_exact_law_is_found(exponent: float, limit: float, scale: float, start: float) -> None:
    exact = curve(limit=limit, scale=scale, exponent=exponent, start=start, seeds=1)
    (found,) = fit([exact])
    assert found.law.exponent == pytest.approx(exponent, rel=1e-3)
    assert found.law.limit == pytest.approx(limit, rel=1e-3, abs=1e-3)
    further = 4.0**8
    expected = law(np.array(further), limit, scale, exponent)
    assert found.law(start * further) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_and_its_intervals_are_those_of_scipy(seed: int) -> None:
    """Where there are many runs, a profile and the linear interval agree."""
    runs = curve(np.random.default_rng(seed), budgets=8, seeds=40)
    (found,) = fit([runs])
    values, covariance = curve_fit(
        law, np.array(runs.x), np.array(runs.loss), p0=(1, 2, 0.2), sigma=runs.means
    )
    assert (found.law.limit, found.law.scale, found.law.exponent) == pytest.approx(values, rel=1e-4)
    for interval, index in ((found.limit, 0), (found.exponent, 2)):
        half = 1.967 * math.sqrt(covariance[index, index])
        assert interval[0] == pytest.approx(values[index] - half, abs=0.15 * half)
        assert interval[1] == pytest.approx(values[index] + half, abs=0.15 * half)


CLAIMS = ("gap", "loss", "exponent", "limit", "held out", "joint region")


def shares_that_hold(budgets: int, seeds: int, studies: int) -> np.ndarray:
    """How often each of `CLAIMS` holds, over simulated studies of two variants. Gap and loss are at
    four times the largest budget."""
    target = 4.0**budgets
    first, second = {"limit": 1.5, "exponent": 0.12}, {"limit": 1.48, "exponent": 0.121}
    truth = [law(np.array(target), scale=2.0, **true) for true in (first, second)]
    hits = np.zeros(len(CLAIMS))
    for number in range(studies):
        rng = np.random.default_rng([budgets, seeds, number, 1])
        one, other = fit([curve(rng, budgets, seeds, **true) for true in (first, second)])
        between, ahead = gap(one, other, target), one.predict(target)
        hits += [
            between.low <= truth[0] - truth[1] <= between.high,
            ahead.low <= truth[0] <= ahead.high,
            one.exponent[0] <= first["exponent"] <= one.exponent[1],
            one.limit[0] <= first["limit"] <= one.limit[1],
            one.held_out.is_inside,
            one.allows(first["exponent"], first["limit"]),
        ]
    return hits / studies


@pytest.mark.parametrize(("budgets", "seeds"), [(5, 3), (7, 5)])
def test_intervals_cover_what_they_promise(budgets: int, seeds: int) -> None:
    """150 studies here; `tests.bench.test_study_claims` has 1,000 of each size."""
    shares = shares_that_hold(budgets, seeds, 150)
    assert (shares >= 0.9).all(), shares
    assert shares.mean() <= 0.98


def test_the_joint_region_is_narrow_and_slanted() -> None:
    """A higher limit goes with a higher exponent, and the pair with neither is left out."""
    (found,) = fit([curve(np.random.default_rng(0))])
    exponents, limits, inside = found.exponents_and_limits()
    nearest = (
        np.argmin(abs(exponents - found.law.exponent)),
        np.argmin(abs(limits - found.law.limit)),
    )
    assert inside[nearest]
    for row, column in ((0, 0), nearest, (-1, -1), (60, 60), (150, 20)):
        assert found.allows(exponents[row], limits[column]) == inside[row, column]
    rows, columns = np.nonzero(inside)
    assert np.corrcoef(exponents[rows], limits[columns])[0, 1] > 0.95
    box = np.ptp(rows) * np.ptp(columns)
    assert inside.sum() < 0.3 * box
    for axis, interval, values in ((1, found.exponent, exponents), (0, found.limit, limits)):
        reached = values[inside.any(axis)]
        assert reached.min() < interval[0] < interval[1] < reached.max()


def test_a_law_that_does_not_hold_is_told() -> None:
    rng = np.random.default_rng(1)
    x = np.repeat(4.0 ** np.arange(8), 3)
    broken = law(x, 1.5, 2.0, 0.12) - 0.05 * (x > 4**5)
    runs = Curve("A^2B", tuple(x), tuple(broken * (1 + NOISE * rng.normal(size=len(x)))))
    (found,), (right,) = fit([runs]), fit([curve(rng, 8)])
    assert found.misfit is not None
    assert found.misfit < 1e-6
    assert not found.held_out.is_inside or found.noise > 3 * NOISE
    assert right.misfit is not None
    assert right.misfit > 0.01


def test_no_claim_without_a_limit_or_an_exponent() -> None:
    rising = curve(limit=0.0, seeds=1)
    steeper = Curve(
        "A", rising.x, tuple(y * x**-0.02 for x, y in zip(rising.x, rising.loss, strict=True))
    )
    bent = Curve("A", rising.x, tuple(y - 0.01 * n**2 for n, y in enumerate(steeper.loss)))
    (found,) = fit([bent])
    assert found.law.limit == 0
    assert "limit is at 0" in found.refusal
    flat = Curve("A", rising.x, tuple(3 + 1e-3 * (-1) ** n for n in range(7)))
    (found,) = fit([flat])
    assert "any exponent" in found.refusal


@pytest.mark.parametrize(
    ("x", "loss", "code"),
    [
        ((1, 2, 4, 8), (4, 3, 2, 1), "too-few-budgets"),
        ((1, 1.001, 4, 8, 16), (4, 4, 3, 2, 1), "too-few-budgets"),
        ((1, 2, 4, 8, 16), (4, 3, 2, math.nan, 1), "bad-points"),
        ((0, 2, 4, 8, 16), (4, 3, 2, 1, 1), "bad-points"),
    ],
)
def test_what_cannot_be_fitted_is_an_error(
    x: tuple[float, ...], loss: tuple[float, ...], code: str
) -> None:
    with pytest.raises(DataError) as caught:
        fit([Curve("A", x, loss)])
    assert caught.value.code == code


def test_all_estimators_find_an_exact_law() -> None:
    exact = curve(start=1e15, seeds=1)
    for name, found in estimates(exact).items():
        assert found.exponent == pytest.approx(0.12, rel=1e-3), name
        assert found.limit == pytest.approx(1.5, rel=1e-3), name
        assert found.predict(4.0**8 * 1e15) == pytest.approx(1.5 + 2 * 4 ** (-0.96), rel=1e-5), name


def published_m2(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Alternately least squares for scale and exponent, and Newton's steps for the limit."""
    limit = y.min() - 1e-3
    design = np.stack([np.ones_like(x), np.log(x)], axis=1)
    for _ in range(2000):
        (log_scale, slope), *_ = np.linalg.lstsq(design, np.log(y - limit), rcond=None)
        log_power = log_scale + slope * np.log(x)
        for _ in range(50):
            residual = np.log(y - limit) - log_power
            gradient = -np.mean(residual / (y - limit))
            bend = np.mean((1 - residual) / (y - limit) ** 2)
            limit = min(max(limit - 0.1 * gradient / bend, 0.0), y.min() - 1e-3)
    return -slope, limit


@pytest.mark.parametrize("index", range(5))
def test_m2_is_the_published_one_on_published_curves(index: int) -> None:
    """Translation models of arXiv 2209.06640, from that paper's benchmark (Apache-2.0)."""
    runs = read_points(TRANSLATION).curves[index].without_largest()
    exponent, limit = published_m2(np.array(runs.x), np.array(runs.loss))
    found = m2(runs)
    assert found.exponent == pytest.approx(exponent, rel=2e-3)
    assert found.limit == pytest.approx(limit, rel=2e-3)


def test_the_planned_uncertainty_is_what_studies_have() -> None:
    (found,) = fit([curve(np.random.default_rng(0), 5, 3)])
    target, predicted = 4 * found.curve.budgets[-1], []
    for number in range(200):
        (one,) = fit([curve(np.random.default_rng([7, number]), 6, 2)])
        predicted.append(one.law(target))
    plan = next(each for each in designs(found) if (each.budgets, each.seeds) == (6, 2))
    from scipy.stats import t

    reach = t.ppf(0.975, 18) + t.ppf(0.8, 18)
    standard_error = plan.least_gap / reach / math.sqrt(2)
    # The noise is that of fifteen runs, so that it may be off by a third.
    expected = np.std(predicted) * found.noise / NOISE
    assert standard_error == pytest.approx(expected, rel=0.2)


def test_more_runs_resolve_more() -> None:
    (found,) = fit([curve(np.random.default_rng(0), 5, 3)])
    plans = designs(found)
    least = {(each.budgets, each.seeds): each.least_gap for each in plans}
    assert all(least[b, s + 1] < least[b, s] for b, s in least if (b, s + 1) in least)
    assert all(least[b + 1, s] < least[b, s] for b, s in least if (b + 1, s) in least)
    middle = sorted(least.values())[len(least) // 2]
    chosen = cheapest(plans, middle)
    assert chosen is not None
    assert chosen.least_gap <= middle
    assert all(each.cost >= chosen.cost for each in plans if each.least_gap <= middle)
    assert cheapest(plans, 0.0) is None


def test_a_gap_is_one_law_less_the_other() -> None:
    rng = np.random.default_rng(3)
    one, other = fit([curve(rng), curve(rng, limit=1.4)])
    found, back = gap(one, other, 1e6), gap(other, one, 1e6)
    assert found.value == pytest.approx(one.law(1e6) - other.law(1e6))
    assert (found.low, found.high) == pytest.approx((-back.high, -back.low))


def test_runs_that_end_within_a_step_share_a_budget() -> None:
    x = (1.0, 1.004, 4.0, 3.99, 16, 64, 256)
    runs = Curve("A", x, tuple(law(np.array(x), 1.5, 2, 0.12)))
    assert len(runs.budgets) == 5
    assert isinstance(fit([runs])[0], Fit)
