"""Broken laws: found where there is a break, and no claim where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from rinsc.study.forms import broken_law, residuals
from rinsc.study.laws import fit_laws, in_words
from rinsc.study.scaling import Curve, fit
from tests.study.test_scaling import NOISE, curve, law


def broken(seed: int = 0) -> Curve:
    """A curve whose exponent rises from 0.12 to 0.2 at the fifth of eight budgets."""
    x = np.repeat(4.0 ** np.arange(8), 3)
    late = 1.5 + 2 * 256**-0.12 * (x / 256) ** -0.2
    loss = np.where(x < 256, law(x, 1.5, 2.0, 0.12), late)
    noise = NOISE * np.random.default_rng(seed).normal(size=len(x))
    return Curve("A^2B", tuple(x), tuple(loss * (1 + noise)))


def test_a_break_is_found_where_it_is() -> None:
    (fitted,) = fit([broken()])
    found = broken_law(fitted)
    assert found is not None
    assert found.is_better
    assert found.limit == pytest.approx(1.5, abs=0.15)
    assert found.first == pytest.approx(0.12, abs=0.03)
    assert found.first + found.change == pytest.approx(0.2, abs=0.06)
    assert 64 < found.at < 1024
    target = 4.0**8
    truth = 1.5 + 2 * 256**-0.12 * (target / 256) ** -0.2
    assert abs(found(target) - truth) < abs(fitted.law(target) - truth) / 3
    report = fit_laws([broken()])
    assert any("breaks at" in line for line in in_words(report))
    assert f"{found(report.target):.4f}" in report.tables()[1].rows[0]


@pytest.mark.parametrize(("budgets", "seeds"), [(7, 1), (6, 3)])
def test_a_law_that_holds_is_seldom_doubted(budgets: int, seeds: int) -> None:
    doubted = 0
    for number in range(40):
        (fitted,) = fit([curve(np.random.default_rng([budgets, seeds, number]), budgets, seeds)])
        found = broken_law(fitted)
        assert found is not None
        doubted += found.is_better
    assert doubted <= 2


def test_five_budgets_show_no_break() -> None:
    assert broken_law(fit([curve(np.random.default_rng(0), 5)])[0]) is None


def test_residuals_are_in_percent_of_the_law() -> None:
    runs = curve(np.random.default_rng(1))
    (fitted,) = fit([runs])
    for (x, percent), loss in zip(residuals(fitted), runs.loss, strict=True):
        assert fitted.law(x) * (1 + percent / 100) == pytest.approx(loss)


def test_the_profile_is_lowest_at_the_law_and_bounds_its_interval() -> None:
    (fitted,) = fit([curve(np.random.default_rng(2))])
    points = fitted.exponent_profile(400)
    exponents, worse = (np.array(each) for each in zip(*points, strict=True))
    assert exponents[np.argmin(worse)] == pytest.approx(fitted.law.exponent, rel=0.02)
    inside = exponents[worse <= fitted.allowed_by_noise]
    assert inside.min() == pytest.approx(fitted.exponent[0], rel=0.03)
    assert inside.max() == pytest.approx(fitted.exponent[1], rel=0.03)
