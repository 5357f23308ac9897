"""What a study claims, over simulated studies whose truth is known: how often it is right."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rinsc.study.laws import fit_laws
from rinsc.study.ranking import rank
from rinsc.study.scaling import Curve
from tests.study.test_ranking import losses_of
from tests.study.test_scaling import CLAIMS, curve, shares_that_hold

STUDIES = 1000


def test_equal_variants_have_no_winner() -> None:
    """Sixty equal variants and three seeds."""
    rng, winners, together, alone, gaps = np.random.default_rng(0), 0, 0, 0, 0
    for _ in range(STUDIES):
        table = 3 + rng.normal(0, 0.004, 3) + rng.normal(0, 0.004, (60, 3))
        ranking = rank(losses_of(table), "V0")
        others = [item for item in ranking.ranks if item.variant != "V0"]
        winners += any(item.reading == "better" for item in others)
        together += all(item.low <= 0 <= item.high for item in others)
        single = rank(losses_of(table[:2]), "V0")  # one comparison: Student's interval
        (item,) = (item for item in single.ranks if item.variant != "V0")
        alone += item.low <= 0 <= item.high
        gaps += 1
    print(
        f"\nsome false winner {winners / STUDIES:.1%}; all intervals hold {together / STUDIES:.1%}"
    )
    print(f"the interval of one comparison holds {alone / gaps:.1%}")
    assert winners / STUDIES <= 0.06
    assert 0.93 <= together / STUDIES <= 0.97
    assert 0.93 <= alone / gaps <= 0.97


@pytest.mark.parametrize("budgets", [5, 7])
@pytest.mark.parametrize("seeds", [3, 5])
def test_scaling_intervals_hold(budgets: int, seeds: int) -> None:
    shares = shares_that_hold(budgets, seeds, STUDIES)
    shown = ", ".join(f"{name} {share:.1%}" for name, share in zip(CLAIMS, shares, strict=True))
    print(f"\n{budgets} budgets, {seeds} seeds: {shown}")
    assert (shares >= 0.93).all()
    assert (shares <= 0.97).all()


def test_all_fits_of_a_report_take_less_than_five_seconds() -> None:
    """Five variants at seven budgets with three seeds, all estimators and checks."""
    rng = np.random.default_rng(0)
    runs = [curve(rng, limit=1.5 - 0.01 * number) for number in range(5)]
    curves = [Curve(f"V{number}", each.x, each.loss) for number, each in enumerate(runs)]
    fit_laws(curves[:1])  # what is imported first
    begun = time.process_time()
    report = fit_laws(curves)
    for each in report.laws:
        each.fit.exponents_and_limits(48)
        each.fit.exponent_profile()
    spent = time.process_time() - begun
    print(f"\nall fits of a report: {spent:.1f} s")
    assert spent < 5
