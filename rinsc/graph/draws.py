"""The numbers that training draws: each is a function of a seed and a step.

Emitted modules carry the text of these functions, so that a module draws what the laws say. Each
function therefore uses nothing but builtins, `math`, `Random`, and names of this file.
"""

from __future__ import annotations

import math
from random import Random

from rinsc.syntax.tree import MAX_ROUNDS

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
