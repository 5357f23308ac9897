"""The samplers of rounds as the notation bounds them; how they draw is not told here."""

from __future__ import annotations

import math
from collections import Counter
from typing import cast

from rinsc.syntax.tree import MAX_CHOICES, MAX_ROUNDS, Call

_FAR = 5.0  # deviations: one draw in 3.5 million lies beyond


def is_sampler(value: object) -> bool:
    """Whether a value has the form of a sampler: its name and the types of its arguments."""
    match value:
        case Call("uniform", (int(), int())):
            return True
        case Call("choice", counts):
            return all(isinstance(count, int) for count in counts)
        case Call("poisson_lognormal", (int() | float(), int() | float())):
            return True
    return False


def sampler_fault(call: Call) -> tuple[str, str] | None:
    """What is wrong with a sampler, and a hint; None for a sound one.

    Every draw must be a number of rounds from 1, and long ones so rare that they are never met.
    """
    if call.name != "poisson_lognormal" and min(cast(tuple[int, ...], call.args)) < 1:
        return f"'{call.name}' could draw less than 1 round", "write numbers from 1"
    match call:
        case Call("poisson_lognormal", (int() | float() as mean, int() | float() as sigma)):
            if mean < 1:
                return "a mean of less than 1 round is not possible", "write a mean from 1"
            if sigma < 0:
                return "sigma is a deviation, from 0", "as in poisson_lognormal(32, 0.5)"
        case Call("uniform", (int(low), int(high))) if low > high:
            return "the first number is larger than the second", f"write uniform({high}, {low})"
        case Call("choice", counts) if len(counts) > MAX_CHOICES:
            message = f"'choice' takes at most {MAX_CHOICES} numbers, not {len(counts)}"
            return message, "leave some out, or write uniform(lo, hi)"
    if largest_draw(call) > MAX_ROUNDS:
        message = f"'{call.name}' can draw more than {MAX_ROUNDS} rounds"
        smaller = "a smaller mean or sigma" if call.name == "poisson_lognormal" else "less"
        return message, f"write {smaller}: at most {MAX_ROUNDS} rounds are possible"
    return None


def canonical_sampler(call: Call) -> Call:
    """The one spelling of a law: ``choice`` sorted, each number as seldom as its share allows.

    One that takes every number from lo to hi once is ``uniform(lo, hi)``; so is one number alone.
    ``poisson_lognormal`` of mean 1 always draws it.
    """
    match call:
        case Call("poisson_lognormal", (mean, _)) if mean == 1:
            return Call("uniform", (1, 1))
        case Call("choice", counts):
            times = Counter(cast(tuple[int, ...], counts))
            share = math.gcd(*times.values())
            numbers = tuple(n for n in sorted(times) for _ in range(times[n] // share))
            low, high = numbers[0], numbers[-1]
            if numbers == tuple(range(low, high + 1)):
                return Call("uniform", (low, high))
            return Call("choice", numbers)
    return call


def smallest_draw(call: Call) -> int:
    """The fewest rounds that a sampler draws."""
    bounded = call.name != "poisson_lognormal"
    return min(cast(tuple[int, ...], call.args)) if bounded else 1


def largest_bounded_draw(call: Call) -> int:
    """The most rounds of a sampler that has a bound; 1 for one without."""
    return largest_draw(call) if call.name != "poisson_lognormal" else 1


def largest_draw(call: Call) -> int:
    """The most rounds that a sampler draws.

    ``uniform`` and ``choice`` are bounded. ``poisson_lognormal`` is not: what stands for the most
    is 5 deviations of the Poisson number, √rate each, above its rate at 5 deviations of the normal
    one, (mean − 1) · exp(5·sigma − sigma²/2), as the rate has the expectation mean − 1. Beyond
    sigma = 5 that falls again, but only since the mean is then made by draws that are never met,
    so it counts as 5 there.
    """
    if call.name != "poisson_lognormal":
        return max(cast(tuple[int, ...], call.args))
    mean, sigma = cast(tuple[float, float], call.args)
    sigma = min(sigma, _FAR)
    rate = (mean - 1) * math.exp(_FAR * sigma - sigma * sigma / 2)
    return math.ceil(min(1 + rate + _FAR * math.sqrt(rate), 2.0 * MAX_ROUNDS))
