"""Which variant is best at one budget, and how sure a few seeds make it.

A bootstrap over three seeds covers three quarters of what it promises. So the noise of a run is
pooled over all variants: loss = variant + seed + noise, with one variance. From it follow

- an interval for each variant's difference from the baseline, which all hold together (Dunnett
  1955): with sixty variants that are equal to the baseline, one in twenty studies claims a winner;
- the set of variants that cannot be told from the best (Hsu 1984);
- the smallest gap that the study could have seen.

Lower is better throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.errors import DataError

CONFIDENCE = 0.95
POWER = 0.8  # of a study that is said to see a gap
Z_NODES, SCALE_NODES = 96, 64  # of the integrals of Dunnett's probability

Reading: TypeAlias = Literal["better", "worse", "not told apart"]
Losses: TypeAlias = Mapping[str, Mapping[str, float]]  # by variant and seed


@dataclass(frozen=True)
class Rank:
    """A variant beside the baseline: its mean loss, and the simultaneous interval of the gap.

    ``gap`` is its loss less the baseline's. ``ties_best`` says that it may be the best one.
    """

    variant: str
    runs: int
    loss: float
    gap: float
    low: float
    high: float
    ties_best: bool

    @property
    def reading(self) -> Reading:
        """What the interval allows to claim, with all other claims of the study."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "not told apart"


@dataclass(frozen=True)
class Ranking:
    """All variants, best first; ``ranks`` holds the baseline too.

    ``run_sd`` is the noise of one run: variant and seed taken out. ``critical`` is Dunnett's value
    for ``freedom`` degrees of freedom. ``least_gap`` is seen in four of five studies like this one.
    ``diverged`` names runs without a finite loss, which count for nothing else.
    """

    baseline: str
    ranks: tuple[Rank, ...]
    run_sd: float
    freedom: int
    critical: float
    least_gap: float
    diverged: tuple[tuple[str, str], ...] = ()

    @property
    def best(self) -> tuple[str, ...]:
        """The variants that cannot be told from the best."""
        return tuple(rank.variant for rank in self.ranks if rank.ties_best)


def rank(losses: Losses, baseline: str, *, confidence: float = CONFIDENCE) -> Ranking:
    """Rank variants by their losses at one budget.

    ``losses`` has a loss for each variant and seed; a seed is the same data order for all. Runs
    may be missing, and those that are not finite are set apart. Raises DataError for a baseline
    without runs, and where no variant has a second seed to show the noise.

    >>> seeds = {"AB": {"0": 3.00, "1": 3.02}, "A^2B": {"0": 2.90, "1": 2.93}}
    >>> found = rank(seeds, "AB")
    >>> [(each.variant, round(each.gap, 3)) for each in found.ranks]
    [('A^2B', -0.095), ('AB', 0.0)]
    """
    runs = [
        (variant, seed, float(loss))
        for variant, by_seed in losses.items()
        for seed, loss in by_seed.items()
    ]
    diverged = tuple((variant, seed) for variant, seed, loss in runs if not math.isfinite(loss))
    runs = [run for run in runs if math.isfinite(run[2])]
    variants = list(dict.fromkeys(variant for variant, _, _ in runs))
    if baseline not in variants:
        hint = f"name one of {', '.join(variants[:8])}" if variants else "run the study first"
        raise DataError("no-baseline", f"the baseline '{baseline}' has no finished run", hint=hint)
    variants.insert(0, variants.pop(variants.index(baseline)))
    means, covariance, residual_ss, freedom = _two_way(runs, variants)
    if freedom < 1:
        hint = "run every variant with at least two seeds"
        raise DataError("too-few-seeds", "the runs are too few to show the noise of one", hint=hint)
    run_sd = math.sqrt(residual_ss / freedom)
    counts = [sum(run[0] == variant for run in runs) for variant in variants]
    correlations = _loadings(counts)
    critical = dunnett_critical(correlations, freedom, confidence) if len(variants) > 1 else 0.0
    from_baseline = run_sd * _difference_sd(covariance, 0)
    ties = _ties_with_best(means, run_sd, covariance, counts, freedom, confidence)
    gaps = means - means[0]
    ranks = [
        Rank(
            variant,
            counts[index],
            float(means[index]),
            float(gaps[index]),
            float(gaps[index] - critical * from_baseline[index]),
            float(gaps[index] + critical * from_baseline[index]),
            bool(ties[index]),
        )
        for index, variant in enumerate(variants)
    ]
    typical = float(np.median(from_baseline[1:])) if len(variants) > 1 else 0.0
    least_gap = (critical + _t_quantile(POWER, freedom)) * typical
    order = sorted(ranks, key=lambda item: (item.loss, item.variant))
    return Ranking(baseline, tuple(order), run_sd, freedom, critical, least_gap, diverged)


Floats: TypeAlias = npt.NDArray[np.float64]


def _two_way(
    runs: Sequence[tuple[str, str, float]], variants: Sequence[str]
) -> tuple[Floats, Floats, float, int]:
    """Means of the variants, their covariance per unit of variance, residual sum of squares and
    degrees of freedom, of loss = variant + seed + noise.

    Where variants share too few seeds to tell the seeds' part, it counts as noise.
    """
    index = {variant: number for number, variant in enumerate(variants)}
    columns = np.array([index[variant] for variant, _, _ in runs])
    losses = np.array([loss for _, _, loss in runs])
    by_variant = np.eye(len(variants))[columns]
    seeds = {seed: number for number, seed in enumerate(dict.fromkeys(run[1] for run in runs))}
    by_seed = np.eye(len(seeds))[[seeds[seed] for _, seed, _ in runs]]
    # Effects that sum to zero: a variant's coefficient is its mean over all seeds.
    design = np.hstack([by_variant, by_seed[:, :-1] - by_seed[:, -1:]])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        design = by_variant
    inverse = np.linalg.inv(design.T @ design)
    fitted = inverse @ (design.T @ losses)
    residual = losses - design @ fitted
    own = slice(len(variants))
    return fitted[own], inverse[own, own], float(residual @ residual), len(runs) - len(fitted)


def _difference_sd(covariance: Floats, control: int) -> Floats:
    """Of each variant's mean less the control's, per unit of the noise of a run."""
    variance = np.diag(covariance) + covariance[control, control] - 2 * covariance[control]
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def _ties_with_best(
    means: Floats,
    run_sd: float,
    covariance: Floats,
    counts: Sequence[int],
    freedom: int,
    confidence: float,
) -> list[bool]:
    """Whether each variant may be the best: none of the others is better beyond the noise."""
    ties = []
    for index, mean in enumerate(means):
        others = np.arange(len(means)) != index
        if not others.any():
            return [True]
        loadings = _loadings([counts[index], *(counts[int(j)] for j in np.flatnonzero(others))])
        critical = dunnett_critical(loadings, freedom, confidence, one_sided=True)
        reach = critical * run_sd * _difference_sd(covariance, index)[others]
        ties.append(bool(np.all(mean - means[others] <= reach)))
    return ties


def _loadings(counts: Sequence[int]) -> tuple[float, ...]:
    """Of each variant on the noise it shares with the control, whose count stands first."""
    control = counts[0]
    return tuple(math.sqrt(count / (count + control)) for count in counts[1:])


@lru_cache(maxsize=256)
def dunnett_critical(
    loadings: tuple[float, ...],
    freedom: int,
    confidence: float = CONFIDENCE,
    *,
    one_sided: bool = False,
) -> float:
    """How many standard errors all differences from a control stay within, together.

    ``loadings`` has sqrt(n / (n + n_control)) for each of the others: 1 / sqrt(2) at equal counts.
    """
    from scipy.optimize import brentq

    def excess(critical: float) -> float:
        probability = dunnett_probability(critical, loadings, freedom, one_sided=one_sided)
        return probability - confidence

    high = 8.0
    while excess(high) < 0:  # few degrees of freedom have long tails
        high *= 4
    return float(brentq(excess, 0.0, high, xtol=1e-6))


def dunnett_probability(
    critical: float, loadings: Sequence[float], freedom: int, *, one_sided: bool = False
) -> float:
    """That every difference from the control stays within so many standard errors.

    Given the control's noise z and the estimated scale u, the differences are independent: the
    product of normal probabilities is integrated over both.
    """
    from scipy.special import ndtr
    from scipy.stats import chi

    scale_law = chi(freedom, scale=1 / math.sqrt(freedom))
    low, high = scale_law.ppf(1e-10), scale_law.ppf(1 - 1e-10)
    nodes, weights = np.polynomial.legendre.leggauss(SCALE_NODES)
    u = (low + high) / 2 + (high - low) / 2 * nodes
    u_weights = scale_law.pdf(u) * weights * (high - low) / 2
    z, z_weights = np.polynomial.hermite_e.hermegauss(Z_NODES)
    z_weights = z_weights / math.sqrt(2 * math.pi)
    logs = np.zeros((len(u), len(z)))
    for loading in sorted(set(loadings)):
        rest = math.sqrt(1 - loading**2)
        upper = ndtr((critical * u[:, None] + loading * z) / rest)
        lower = 0.0 if one_sided else ndtr((-critical * u[:, None] + loading * z) / rest)
        with np.errstate(divide="ignore"):
            logs += loadings.count(loading) * np.log(upper - lower)
    return float(u_weights @ np.exp(logs) @ z_weights)


def _t_quantile(probability: float, freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(probability, freedom))
