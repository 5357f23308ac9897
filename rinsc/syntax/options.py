"""The closed list of options: names, where they may stand, values, defaults.

The samplers of rounds are here as the notation bounds them; `rinsc.graph.law` has how they draw.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

from rinsc.errors import SignatureError, Span, did_you_mean, shown
from rinsc.syntax.tree import MAX_CHOICES, MAX_ROUNDS, Call, Option, Repeat, Scalar

Owner: TypeAlias = Literal["block", "repeat"]
Value: TypeAlias = Scalar | Call | bool
Check: TypeAlias = Callable[[Value], bool]

_FAR = 5.0  # deviations: one draw in 3.5 million lies beyond


@dataclass(frozen=True)
class OptionRule:
    """One option of the notation; ``form`` is how its values are written, for error messages."""

    name: str
    owner: Owner
    form: str
    check: Check
    default: Value | None = None


def _is_count(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_probability(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _is_flag(value: Value) -> bool:
    return value is True


def _is_name(value: Value) -> bool:
    return isinstance(value, str)


def _one_of(*names: str) -> Check:
    return lambda value: isinstance(value, str) and value in names


def _is_adapter(value: Value) -> bool:
    match value:
        case Call("lora" | "shared", (int(rank),)):
            return rank >= 1
    return isinstance(value, str) and value in ("linear", "scale", "embed", "gate")


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


RULES: tuple[OptionRule, ...] = (
    OptionRule("each", "block", "each=n, n from 1", _is_count, default=1),
    OptionRule("reverse", "block", "reverse, without a value", _is_flag),
    OptionRule("tie", "block", "tie=attention or tie=mlp", _one_of("attention", "mlp")),
    OptionRule("kind", "block", "kind=NAME, a layer kind", _is_name),
    OptionRule("skip", "repeat", "skip=p, p from 0 and below 1", _is_probability, default=0),
    OptionRule(
        "sample",
        "repeat",
        "sample=uniform(lo, hi), choice(n, ...) or poisson_lognormal(mean, sigma)",
        is_sampler,
    ),
    OptionRule(
        "adapter",
        "repeat",
        "adapter=linear, shared(rank), lora(rank), scale, embed or gate",
        _is_adapter,
    ),
    OptionRule(
        "adapter_by",
        "repeat",
        "adapter_by=round or adapter_by=count",
        _one_of("round", "count"),
        default="round",
    ),
    OptionRule("inject", "repeat", "inject=add, gate or concat", _one_of("add", "gate", "concat")),
    OptionRule(
        "init",
        "repeat",
        "init=carry, zero, noise or learned",
        _one_of("carry", "zero", "noise", "learned"),
        default="carry",
    ),
    OptionRule("grad", "repeat", "grad=k, k from 1", _is_count),
    OptionRule(
        "kv", "repeat", "kv=own, first or last", _one_of("own", "first", "last"), default="own"
    ),
)

OF_A_BLOCK = ("kind", "tie")  # options that hold for the block wherever it is visited

_BY_NAME = {rule.name: rule for rule in RULES}


def check_options(options: tuple[Option, ...], owner: Owner, source: str) -> None:
    """Raises SignatureError for the first option that is unknown, misplaced, wrong or doubled."""
    earlier: set[str] = set()
    for option in options:
        error = _option_error(option, owner, source, earlier)
        if error is not None:
            raise error
        earlier.add(option.name)


def _option_error(
    option: Option, owner: Owner, source: str, earlier: set[str]
) -> SignatureError | None:
    name_span = Span(option.span.start, option.span.start + len(option.name))
    name = shown(option.name)
    rule = _BY_NAME.get(option.name)
    if rule is None:
        known = [rule.name for rule in RULES if rule.owner == owner]
        hint = did_you_mean(option.name, known)
        message = f"{name} is not an option of a {owner}"
        return SignatureError("unknown-option", message, source=source, span=name_span, hint=hint)
    if rule.owner != owner:
        message = f"{name} is an option of a {rule.owner}, not of a {owner}"
        hint = {
            "block": "write it right after the block, before any power: A{each=2}^3",
            "repeat": "write it after a power: A^3{skip=0.5}",
        }[rule.owner]
        return SignatureError("misplaced-option", message, source=source, span=name_span, hint=hint)
    if option.name in earlier:
        message = f"{name} is given twice"
        return SignatureError(
            "duplicate-option", message, source=source, span=name_span, hint="keep one of the two"
        )
    if not rule.check(option.value):
        message = f"{name} does not take this value"
        hint = f"write {rule.form}"
        return SignatureError(
            "bad-option-value", message, source=source, span=option.span, hint=hint
        )
    if option.name == "sample" and isinstance(option.value, Call):
        fault = sampler_fault(option.value)
        if fault is not None:
            message, hint = fault
            return SignatureError(
                "bad-option-value", message, source=source, span=option.span, hint=hint
            )
    return None


def is_default(option: Option) -> bool:
    """Whether writing ``option`` says the same as leaving it out."""
    rule = _BY_NAME[option.name]
    return rule.default is not None and option.value == rule.default


def effective(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """The options that are not at their default, sorted by name."""
    if not options:
        return ()
    return tuple(sorted((o for o in options if not is_default(o)), key=lambda o: o.name))


def effective_of(repeat: Repeat) -> tuple[Option, ...]:
    """The options of a repeat that change what it runs, laws of its rounds in their one spelling.

    At the rounds written and at those that training draws: a single round is never skipped and
    shares its cache slot with no other; a single adapter needs no rule which one is taken; a
    sampler that always draws the rounds written is none.
    """
    options = tuple(map(_one_spelling, effective(repeat.options)))
    draws = [o.value for o in options if isinstance(o.value, Call) and o.name == "sample"]
    one_adapter = repeat.count == 1 and all(largest_bounded_draw(call) == 1 for call in draws)
    silent = {
        "skip": repeat.count == 1,
        "kv": repeat.count == 1,
        "adapter_by": one_adapter,
        "sample": draws == [Call("uniform", (repeat.count, repeat.count))],
    }
    return tuple(option for option in options if not silent.get(option.name, False))


def is_kept(repeat: Repeat) -> bool:
    """Whether a repeat says more than its unfolded visits: it has options, or is still free."""
    return isinstance(repeat.count, str) or bool(repeat.options and effective_of(repeat))


def _one_spelling(option: Option) -> Option:
    if option.name == "sample" and isinstance(option.value, Call):
        return replace(option, value=canonical_sampler(option.value))
    return option


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
