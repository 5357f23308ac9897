"""The closed list of options: names, where they may stand, values, defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rinsc.errors import SignatureError, Span, did_you_mean, shown
from rinsc.syntax.samplers import (
    canonical_sampler,
    is_sampler,
    largest_bounded_draw,
    sampler_fault,
)
from rinsc.syntax.tree import Call, Option, Repeat, Scalar

Place: TypeAlias = Literal["block", "repeat"]
Value: TypeAlias = Scalar | Call | bool
Check: TypeAlias = Callable[[Value], bool]


@dataclass(frozen=True)
class OptionRule:
    """One option of the notation; ``form`` is how its values are written, for error messages."""

    name: str
    place: Place
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


def check_options(options: tuple[Option, ...], place: Place, source: str) -> None:
    """Raises SignatureError for the first option that is unknown, misplaced, wrong or doubled."""
    seen: set[str] = set()
    for option in options:
        error = _option_error(option, place, source, seen)
        if error is not None:
            raise error
        seen.add(option.name)


def _option_error(
    option: Option, place: Place, source: str, seen: set[str]
) -> SignatureError | None:
    name_span = Span(option.span.start, option.span.start + len(option.name))
    name = shown(option.name)
    rule = _BY_NAME.get(option.name)
    if rule is None:
        known = [rule.name for rule in RULES if rule.place == place]
        hint = did_you_mean(option.name, known)
        message = f"{name} is not an option of a {place}"
        return SignatureError("unknown-option", message, source=source, span=name_span, hint=hint)
    if rule.place != place:
        message = f"{name} is an option of a {rule.place}, not of a {place}"
        hint = {
            "block": "write it right after the block, before any power: A{each=2}^3",
            "repeat": "write it after a power: A^3{skip=0.5}",
        }[rule.place]
        return SignatureError("misplaced-option", message, source=source, span=name_span, hint=hint)
    if option.name in seen:
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


def _one_spelling(option: Option) -> Option:
    if option.name == "sample" and isinstance(option.value, Call):
        return replace(option, value=canonical_sampler(option.value))
    return option
