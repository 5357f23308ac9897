"""How the rounds of a repeat are drawn in training: laws, their expectations, the draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from random import Random
from typing import TypeAlias, cast

from rinsc.errors import GraphError
from rinsc.graph.build import require_graph
from rinsc.graph.nodes import BlockGraph, Loop
from rinsc.graph.towers_graph import TowersGraph, verified_towers
from rinsc.graph.verify import verified
from rinsc.scalars import whole
from rinsc.spec import ModelSpec
from rinsc.syntax.settings import RepeatOptions
from rinsc.syntax.tree import MAX_ROUNDS

Sampler: TypeAlias = Callable[..., int]

QUADRATURE_STEP = 1 / 64  # deviations; see `PoissonLognormal.mean_upto`
QUADRATURE_END = 9  # deviations; what lies beyond has a probability below 1e-18


class RoundsLaw(ABC):
    """A law of the number of rounds, which is from 1 to `MAX_ROUNDS`."""

    @property
    @abstractmethod
    def pmf(self) -> Mapping[int, Fraction] | None:
        """The probability of each number of rounds; None where there is no largest one."""

    @property
    @abstractmethod
    def sampler(self) -> tuple[Sampler, tuple[float, ...]]:
        """The function of `rinsc.graph.law` that draws, and its arguments after a generator."""

    def draw(self, generator: Random) -> int:
        """One number of rounds. It depends on ``generator.random()`` alone."""
        function, arguments = self.sampler
        return function(generator, *arguments)

    @property
    def largest(self) -> int | None:
        """The most rounds that can be drawn; None where there is no such number."""
        return None if self.pmf is None else max(self.pmf)

    @property
    def mean(self) -> Fraction:
        """The expected number of rounds."""
        return self.mean_upto(MAX_ROUNDS)

    def mean_upto(self, most: int) -> Fraction:
        """The expectation of min(rounds, ``most``)."""
        pmf = cast(Mapping[int, Fraction], self.pmf)
        return sum((min(rounds, most) * p for rounds, p in pmf.items()), Fraction(0))


@dataclass(frozen=True)
class Fixed(RoundsLaw):
    """Always the same rounds."""

    rounds: int

    @property
    def pmf(self) -> Mapping[int, Fraction]:
        return {self.rounds: Fraction(1)}

    @property
    def sampler(self) -> tuple[Sampler, tuple[float, ...]]:
        return fixed_rounds, (self.rounds,)


@dataclass(frozen=True)
class Skipped(RoundsLaw):
    """Each round after the first is skipped with probability ``skip``.

    That is 1 + Binomial(rounds − 1, 1 − skip), the stochastic recursion of arXiv 2502.07503.
    """

    rounds: int
    skip: float

    @property
    def pmf(self) -> Mapping[int, Fraction]:
        trials, skip = self.rounds - 1, _written(self.skip)
        return {
            1 + run: math.comb(trials, run) * (1 - skip) ** run * skip ** (trials - run)
            for run in range(self.rounds)
        }

    @property
    def largest(self) -> int:
        return self.rounds

    @property
    def mean(self) -> Fraction:
        return 1 + (self.rounds - 1) * (1 - _written(self.skip))

    def mean_upto(self, most: int) -> Fraction:
        return _skipped_mean_upto(self.rounds, self.skip, most)

    @property
    def sampler(self) -> tuple[Sampler, tuple[float, ...]]:
        return skipped_rounds, (self.rounds, self.skip)


@dataclass(frozen=True)
class Choice(RoundsLaw):
    """One of ``counts``, each as likely; one that is written twice is twice as likely."""

    counts: tuple[int, ...]

    @property
    def pmf(self) -> Mapping[int, Fraction]:
        times = Counter(self.counts)
        return {rounds: Fraction(n, len(self.counts)) for rounds, n in times.items()}

    @property
    def sampler(self) -> tuple[Sampler, tuple[float, ...]]:
        return chosen_rounds, self.counts


@dataclass(frozen=True)
class Uniform(RoundsLaw):
    """Each number from ``low`` to ``high``, both included, as likely."""

    low: int
    high: int

    @property
    def pmf(self) -> Mapping[int, Fraction]:
        share = Fraction(1, self.high - self.low + 1)
        return dict.fromkeys(range(self.low, self.high + 1), share)

    @property
    def sampler(self) -> tuple[Sampler, tuple[float, ...]]:
        return uniform_rounds, (self.low, self.high)


@dataclass(frozen=True)
class PoissonLognormal(RoundsLaw):
    """1 + Poisson(exp(Normal(log(mean − 1) − sigma² / 2, sigma))), whose expectation is ``mean``.

    arXiv 2502.05171, section 3.3, whose r̄ is mean − 1. Draws beyond `MAX_ROUNDS` are cut to it;
    the expectation is that before cutting.
    """

    given_mean: float
    sigma: float

    @property
    def pmf(self) -> None:
        return None

    @property
    def mean(self) -> Fraction:
        return _written(self.given_mean)

    def mean_upto(self, most: int) -> Fraction:
        """The expectation of min(rounds, ``most``), to within 1e-9.

        By the trapezoidal rule over the normal variable, from −9 to 9 deviations in steps of 1/64:
        on a smooth integrand that fades out at both ends its error falls exponentially with the
        step.
        """
        return Fraction(_poisson_lognormal_mean_upto(self.given_mean, self.sigma, most))

    @property
    def sampler(self) -> tuple[Sampler, tuple[float, ...]]:
        return poisson_lognormal_rounds, (self.given_mean, self.sigma)


def rounds_law(options: RepeatOptions, rounds: int) -> RoundsLaw:
    """The law of a repeat with these options whose written exponent is ``rounds``."""
    if options.skip:
        return Skipped(rounds, options.skip)
    if options.sample is None:
        return Fixed(rounds)
    args = options.sample.args
    if options.sample.name == "poisson_lognormal":
        return PoissonLognormal(*cast(tuple[float, float], args))
    counts = cast(tuple[int, ...], args)
    return Uniform(*counts) if options.sample.name == "uniform" else Choice(counts)


def loop_law(loop: Loop) -> RoundsLaw:
    """The law of a loop's rounds in training; one that is fixed runs the rounds that it has."""
    return Fixed(loop.rounds) if loop.fixed else rounds_law(loop.options, loop.rounds)


def drawn_loops(graph: BlockGraph | TowersGraph) -> Iterator[Loop]:
    """The loops whose rounds training draws; of towers each under the name of its tower, too."""
    return (loop for loop in dialled_loops(graph) if loop.options.is_drawn)


def dialled_loops(graph: BlockGraph | TowersGraph) -> Iterator[Loop]:
    """The loops whose rounds can be asked for; of towers each under the name of its tower, too."""
    if isinstance(graph, TowersGraph):
        return (loop for loop in verified_towers(graph).loops() if not loop.fixed)
    return verified(graph).dials()


def draw_rounds(
    model: ModelSpec | BlockGraph | TowersGraph, seed: int, step: int
) -> dict[str, int]:
    """Rounds of every repeat in a training step: drawn where its options say so, else as written.

    A function of ``seed`` and ``step`` alone, so that every rank draws the same, and so does a run
    that is resumed. `rinsc train` and modules that draw for themselves run these rounds.

    >>> from rinsc import model_spec
    >>> spec = model_spec("(A^4{skip=0.5})B", preset="tiny")
    >>> [draw_rounds(spec, seed=1, step=step) for step in range(3)]
    [{'A': 1}, {'A': 3}, {'A': 2}]
    """
    graph = model if isinstance(model, TowersGraph) else require_graph(model)
    generator = step_generator(_checked_whole("seed", seed), _checked_whole("step", step))
    return {loop.name: loop_law(loop).draw(generator) for loop in dialled_loops(graph)}


def _checked_whole(name: str, value: object) -> int:
    """What draws depend on; raises `GraphError` where it is no whole number."""
    number = whole(value)
    if number is None:
        message = f"{name} must be a whole number, not {value!r:.40}"
        raise GraphError("bad-count", message, place=name, hint=f"write {name}=1")
    return number


def _written(number: float) -> Fraction:
    """A number as it was written: 0.1 is one tenth."""
    return Fraction(repr(number))


@lru_cache(maxsize=256)
def _skipped_mean_upto(rounds: int, skip: float, most: int) -> Fraction:
    """The sum of min(1 + n, most) · comb(trials, n) · run^n · skip^(trials − n), by Horner's rule.

    In whole numbers over one denominator: a sum of fractions would be reduced at every step.
    """
    trials, chance = rounds - 1, 1 - _written(skip)
    run, skipped = chance.numerator, chance.denominator - chance.numerator
    total, power = 0, 1
    for rounds_run in range(rounds):
        total = total * skipped + min(1 + rounds_run, most) * math.comb(trials, rounds_run) * power
        power *= run
    return Fraction(total, chance.denominator**trials)


@lru_cache(maxsize=256)
def _poisson_lognormal_mean_upto(mean: float, sigma: float, most: int) -> float:
    points = round(QUADRATURE_END / QUADRATURE_STEP)
    density = math.sqrt(2 * math.pi)
    return math.fsum(
        QUADRATURE_STEP
        * (math.exp(-(z**2) / 2) / density)
        * (1 + _poisson_mean_upto(poisson_rate(mean, sigma, z), most - 1))
        for z in (QUADRATURE_STEP * index for index in range(-points, points + 1))
    )


def _poisson_mean_upto(rate: float, most: int) -> float:
    """The expectation of min(N, ``most``), N being Poisson of this rate."""
    if rate == 0:
        return 0.0
    log_rate = math.log(rate)
    probabilities = (math.exp(n * log_rate - rate - math.lgamma(n + 1)) for n in range(most))
    return most - math.fsum((most - n) * p for n, p in enumerate(probabilities))


PRIME = 2**31 - 1  # of `noise_like`


def step_generator(seed: int, step: int) -> Random:
    """What the rounds of a training step are drawn from: the same on every rank."""
    return Random(f"rounds of step {step} with seed {seed}")


def fixed_rounds(generator: Random, rounds: int) -> int:
    """The rounds themselves."""
    return rounds


def skipped_rounds(generator: Random, rounds: int, skip: float) -> int:
    """The rounds that are left when each after the first is skipped with a probability."""
    return 1 + sum(generator.random() >= skip for _ in range(rounds - 1))


def chosen_rounds(generator: Random, *counts: int) -> int:
    """One of the counts, each as likely."""
    return counts[int(generator.random() * len(counts))]


def uniform_rounds(generator: Random, low: int, high: int) -> int:
    """A number from ``low`` to ``high``, both included, each as likely."""
    return low + int(generator.random() * (high - low + 1))


def poisson_lognormal_rounds(generator: Random, mean: float, sigma: float) -> int:
    """1 + Poisson(exp(Normal)), ``mean`` rounds on average and `MAX_ROUNDS` at most."""
    # A standard normal number, by Box and Muller's method (1958).
    radius = math.sqrt(-2 * math.log(1 - generator.random()))
    rate = poisson_rate(mean, sigma, radius * math.cos(2 * math.pi * generator.random()))
    # The arrivals before time `rate`, with exponential waits of mean 1.
    time, arrivals = 0.0, 0
    while arrivals < MAX_ROUNDS - 1:
        time -= math.log(1 - generator.random())
        if time > rate:
            break
        arrivals += 1
    return 1 + arrivals


def poisson_rate(mean: float, sigma: float, deviations: float) -> float:
    """The Poisson rate at so many deviations of the normal variable from its mean."""
    if mean <= 1:
        return 0.0
    log_rate = math.log(mean - 1) - sigma**2 / 2 + sigma * deviations
    return math.exp(min(log_rate, 2 * math.log(MAX_ROUNDS)))  # cut to MAX_ROUNDS in any case


def noise_seed_of(seed: int, step: int, first_row: int = 0) -> int:
    """The seed of the noise that repeats start from in a training step; 0 is that of evaluation.

    Row i of a batch part that starts at ``first_row`` has the noise of row ``first_row`` + i of
    the whole batch: `noise_like` adds 1000003 a row and 742938285 a seed, modulo `PRIME`.
    """
    # The stride lets runs of neighbouring seeds see other noise.
    whole = 1 + (seed * 1_000_003 + step) % PRIME
    seeds_a_row = 1_000_003 * pow(742_938_285, -1, PRIME)
    return (whole + first_row * seeds_a_row) % PRIME if first_row else whole
