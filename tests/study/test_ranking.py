"""Rankings against scipy's Dunnett test, least squares by hand, and simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rinsc.errors import DataError
from rinsc.study.ranking import dunnett_critical, dunnett_probability, rank


def losses_of(table: np.ndarray) -> dict[str, dict[str, float]]:
    """``table`` (variants, seeds) by name; what is nan is a run that is not there."""
    return {
        f"V{row}": {str(seed): float(x) for seed, x in enumerate(values) if not math.isnan(x)}
        for row, values in enumerate(table)
    }


@pytest.mark.parametrize("freedom", [1, 2, 7, 100])
def test_one_variant_is_students_t(freedom: int) -> None:
    expected = stats.t.ppf(0.975, freedom)
    assert dunnett_critical((0.5**0.5,), freedom) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("counts", [(5, 5, 5, 5), (9, 4, 3, 6), (2, 5, 5, 9)])
def test_probabilities_are_scipys(counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(loc, 1, count) for loc, count in zip((0, 1, 2, 0.5), counts, strict=True)]
    for alternative in ("two-sided", "less"):
        found = stats.dunnett(
            *groups[1:], control=groups[0], alternative=alternative, rng=np.random.default_rng(1)
        )
        loadings = [math.sqrt(count / (count + counts[0])) for count in counts[1:]]
        for statistic, p in zip(found.statistic, found.pvalue, strict=True):
            value = abs(statistic) if alternative == "two-sided" else -statistic
            one_sided = alternative == "less"
            ours = dunnett_probability(value, loadings, sum(counts) - 4, one_sided=one_sided)
            assert 1 - ours == pytest.approx(p, abs=2e-3)  # scipy's is a quasi-random integral


def test_intervals_are_those_of_the_formula() -> None:
    table = 3 + np.random.default_rng(3).normal(0, 0.01, (6, 4))
    found = rank(losses_of(table), "V2")
    residual = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    sd = math.sqrt((residual**2).sum() / (5 * 3))
    assert found.freedom == 15
    assert found.run_sd == pytest.approx(sd)
    half = dunnett_critical((0.5**0.5,) * 5, 15) * sd * math.sqrt(2 / 4)
    for item in found.ranks:
        row = int(item.variant[1:])
        assert item.gap == pytest.approx(table[row].mean() - table[2].mean(), abs=1e-12)
        if row != 2:
            assert (item.low, item.high) == pytest.approx((item.gap - half, item.gap + half))
    assert [item.loss for item in found.ranks] == sorted(item.loss for item in found.ranks)


@given(st.integers(0, 2**32 - 1))
def test_missing_runs_bias_nothing(seed: int) -> None:
    """Without noise the gaps are exact, whatever runs are missing, as the seeds' part is known."""
    rng = np.random.default_rng(seed)
    variants, seeds = rng.normal(3, 1, 5), rng.normal(0, 1, 4)
    table = variants[:, None] + seeds
    missing = rng.random(table.shape) < 0.3
    missing[0] = missing[:, 0] = False  # so that all can be compared
    table[missing] = math.nan
    found = rank(losses_of(table), "V0")
    gaps = {item.variant: item.gap for item in found.ranks}
    for row, level in enumerate(variants):
        assert gaps[f"V{row}"] == pytest.approx(level - variants[0], abs=1e-9)


def test_seeds_of_their_own_count_as_noise() -> None:
    rng = np.random.default_rng(4)
    losses = {
        name: {f"{name}{seed}": float(x) for seed, x in enumerate(rng.normal(3, 0.01, 3))}
        for name in ("AB", "A^2B")
    }
    found = rank(losses, "AB")
    groups = [list(by_seed.values()) for by_seed in losses.values()]
    pooled = math.sqrt(np.mean([np.var(group, ddof=1) for group in groups]))
    assert found.freedom == 4
    assert found.run_sd == pytest.approx(pooled)


def test_equal_variants_have_no_winner_and_the_intervals_hold() -> None:
    """Sixty equal variants, three seeds, a thousand studies."""
    studies, winners, covered, best = 1000, 0, 0, 0
    rng = np.random.default_rng(0)
    for _ in range(studies):
        table = 3 + rng.normal(0, 0.004, 3) + rng.normal(0, 0.004, (60, 3))
        ranks = rank(losses_of(table), "V0").ranks
        winners += any(item.reading == "better" for item in ranks)
        covered += all(item.low <= 0 <= item.high for item in ranks)
        best += ranks[0].ties_best
    assert winners / studies <= 0.06
    assert 0.93 <= covered / studies <= 0.97
    assert best == studies


def test_the_best_variant_is_in_the_set_of_the_best() -> None:
    """Hsu's promise, with one variant truly best by two standard deviations of a run."""
    rng, studies, kept, size = np.random.default_rng(1), 300, 0, 0
    for _ in range(studies):
        table = 3 + rng.normal(0, 0.004, (20, 3))
        table[7] -= 0.008
        best = rank(losses_of(table), "V0").best
        kept += "V7" in best
        size += len(best)
    assert kept / studies >= 0.95
    assert size / studies < 20


def test_the_least_gap_is_seen_in_four_of_five_studies() -> None:
    rng, studies, seen = np.random.default_rng(2), 400, 0
    gap = rank(losses_of(3 + rng.normal(0, 0.004, (400, 3))), "V0").run_sd  # 0.004, nearly
    critical = dunnett_critical((0.5**0.5,) * 19, 38)
    least = (critical + stats.t.ppf(0.8, 38)) * 0.004 * math.sqrt(2 / 3)
    told = []
    for _ in range(studies):
        table = 3 + rng.normal(0, 0.004, (20, 3))
        table[5] -= least
        found = rank(losses_of(table), "V0")
        told.append(found.least_gap)
        seen += next(item for item in found.ranks if item.variant == "V5").reading == "better"
    assert gap == pytest.approx(0.004, rel=0.1)
    assert np.mean(told) == pytest.approx(least, rel=0.03)
    assert seen / studies == pytest.approx(0.8, abs=0.06)


def test_diverged_runs_are_set_apart() -> None:
    losses = {
        "AB": {"0": 3.0, "1": 3.1},
        "A^2B": {"0": 2.9, "1": math.nan},
        "A^3B": {"0": 2.9, "1": 3.0},
        "A^9": {"0": math.inf},
    }
    found = rank(losses, "AB")
    assert found.diverged == (("A^2B", "1"), ("A^9", "0"))
    assert {item.variant: item.runs for item in found.ranks} == {
        "AB": 2,
        "A^2B": 1,
        "A^3B": 2,
    }


@pytest.mark.parametrize(
    ("losses", "code"),
    [
        ({"AB": {"0": 3.0}, "A^2B": {"0": 2.9}}, "too-few-seeds"),
        ({"AB": {"0": math.nan}, "A^2B": {"0": 2.9, "1": 3.0}}, "no-baseline"),
        ({"A^2B": {"0": 2.9, "1": 3.0}}, "no-baseline"),
        ({}, "no-baseline"),
    ],
)
def test_what_cannot_be_ranked_is_an_error(losses: dict[str, dict[str, float]], code: str) -> None:
    with pytest.raises(DataError) as caught:
        rank(losses, "AB")
    assert caught.value.code == code
    assert caught.value.hint
