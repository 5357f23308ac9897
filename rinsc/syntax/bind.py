"""Free exponents get their values; then options that cannot stand together are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rinsc.errors import SignatureError, plural, setting
from rinsc.scalars import whole
from rinsc.syntax.expand import (
    check_limits,
    exponent_hint,
    fewest_rounds,
    free_exponents,
    most_rounds,
    require_bound,
)
from rinsc.syntax.options import effective
from rinsc.syntax.tree import (
    MAX_DIGITS,
    Option,
    Repeat,
    Sequence,
    Signature,
    repeats,
    rewritten,
)


def check_contradictions(sig: Signature) -> None:
    """Raises SignatureError (``contradicting-options``) for the first option that cannot stand.

    An option at its default contradicts nothing; what depends on a free exponent is found once it
    is bound.
    """
    for repeat in repeats(sig.body):
        for option, message, hint in _contradictions(repeat):
            raise SignatureError(
                "contradicting-options", message, source=sig.source, span=option.span, hint=hint
            )


def _contradictions(repeat: Repeat) -> Iterator[tuple[Option, str, str]]:
    """Each option at fault, with a message and a hint."""
    written = {option.name: option for option in effective(repeat.options)}
    inject = "inject" in written
    if (start := written.get("init")) and not inject:
        message = f"a loop with init={start.value} would not see what comes before it"
        yield start, message, "add inject=add, gate or concat, or remove 'init'"
    if (skip := written.get("skip")) and (sample := written.get("sample")):
        later = max(skip, sample, key=lambda option: option.span.start)
        yield later, "'skip' and 'sample' both say how rounds are drawn", "keep one of the two"
    if (by := written.get("adapter_by")) and "adapter" not in written:
        message = "'adapter_by' says which adapter a round takes, and there is none"
        yield (
            by,
            message,
            "add adapter=linear, shared(rank), lora(rank), scale, embed or gate, or remove it",
        )
    if (grad := written.get("grad")) and isinstance(repeat.count, int):
        yield from _gradient(grad, repeat, repeat.count, inject)
        yield from _untrained(written, grad, fewest_rounds(repeat, repeat.count))


def _gradient(
    grad: Option, repeat: Repeat, count: int, inject: bool
) -> Iterator[tuple[Option, str, str]]:
    """What is wrong with ``grad`` on a repeat of ``count`` rounds."""
    assert isinstance(grad.value, int)
    if grad.value > count:
        message = f"grad={grad.value} is more than the {plural(count, 'round')} of this repeat"
        yield grad, message, f"write grad={count} or less, or remove it"
    elif grad.value < (most := most_rounds(repeat)) and not inject:
        message = f"with grad={grad.value}, what comes before the loop would get no gradient"
        where = f" where {plural(most, 'round')} are drawn" if most > count else ""
        yield grad, message + where, "add inject=add, gate or concat, or remove 'grad'"


def _untrained(
    written: Mapping[str, Option], grad: Option, fewest: int
) -> Iterator[tuple[Option, str, str]]:
    """Weights of the repeat that only rounds without gradients would use."""
    assert isinstance(grad.value, int)
    early = fewest - grad.value
    if early < 1:
        return
    start, adapter = written.get("init"), written.get("adapter")
    if start is not None and start.value == "learned":
        message = f"with grad={grad.value}, the learned start would never be trained"
        yield start, message, "write init=zero or init=noise, or remove 'grad'"
    if adapter is not None and "adapter_by" not in written:
        message = f"with grad={grad.value}, the adapters of the first {plural(early, 'round')} "
        message += "would never be trained"
        yield adapter, message, "add adapter_by=count, or remove 'grad'"


def bind(sig: Signature, values: Mapping[str, int]) -> Signature:
    """``sig`` with every free exponent replaced by its value.

    Raises SignatureError for an exponent without a value (``unbound-exponent``), a value without
    an exponent (``unknown-exponent``), a value that is no power (``bad-power``,
    ``power-too-large``), for options that do not fit the values (``contradicting-options``), and
    when the result is over the limits.
    """
    free = free_exponents(sig)
    for name in values:
        if name not in free:
            raise unknown_exponent(name, list(free))
    numbers: dict[str, int] = {}
    for name, span in free.items():
        if name in values:
            numbers[name] = _checked(name, values[name], replace(sig.body, span=span), sig.source)

    def with_number(repeat: Repeat) -> Repeat:
        return replace(repeat, count=numbers.get(str(repeat.count), repeat.count))

    bound = replace(sig, body=rewritten(sig.body, repeat=with_number)) if numbers else sig
    require_bound(bound)
    check_contradictions(bound)
    check_limits(bound)
    return bound


def unknown_exponent(name: str, free: list[str]) -> SignatureError:
    """The error for a value that is given to no free exponent."""
    known = f"its free exponents: {', '.join(free)}" if free else "it has no free exponents"
    message = f"the signature has no free exponent '{name}'"
    return SignatureError(
        "unknown-exponent", message, place=setting(f"bind: {name}", f"--set {name}"), hint=known
    )


def _checked(name: str, number: int, at: Sequence, source: str) -> int:
    """The value of an exponent as Python's own number."""
    value = whole(number)
    if value is None or value < 1:
        message = f"the exponent '{name}' must be a whole number from 1"
        raise SignatureError(
            "bad-power", message, source=source, span=at.span, hint=exponent_hint(name)
        )
    if value >= 10**MAX_DIGITS:
        message = f"the exponent '{name}' has more than {MAX_DIGITS} digits"
        raise SignatureError(
            "power-too-large", message, source=source, span=at.span, hint=exponent_hint(name)
        )
    return value
