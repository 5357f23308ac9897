"""Free exponents get their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rinsc.errors import Problem, SignatureError
from rinsc.scalars import whole
from rinsc.syntax.contradictions import check_contradictions
from rinsc.syntax.expand import check_limits, free_exponents, require_bound
from rinsc.syntax.limits import MAX_DIGITS
from rinsc.syntax.problems import signature_error
from rinsc.syntax.tree import BlockRef, Node, Repeat, Sequence, Signature


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
            raise _unknown(name, list(free))
    numbers: dict[str, int] = {}
    for name, span in free.items():
        if name in values:
            numbers[name] = _checked(name, values[name], replace(sig.body, span=span), sig.source)
    bound = replace(sig, body=_bind_items(sig.body, numbers))
    require_bound(bound)
    check_contradictions(bound)
    check_limits(bound)
    return bound


def _bind_items(sequence: Sequence, values: Mapping[str, int]) -> Sequence:
    return replace(sequence, items=tuple(_bind(item, values) for item in sequence.items))


def _bind(node: Node, values: Mapping[str, int]) -> Node:
    match node:
        case BlockRef():
            return node
        case Sequence():
            return _bind_items(node, values)
        case Repeat(body, count):
            if isinstance(body, Sequence):
                body = _bind_items(body, values)
            if isinstance(count, str):
                count = values.get(count, count)
            return replace(node, body=body, count=count)


def _unknown(name: str, free: list[str]) -> SignatureError:
    known = f"its free exponents: {', '.join(free)}" if free else "it has no free exponents"
    message = f"the signature has no free exponent '{name}'"
    return SignatureError(Problem("unknown-exponent", message, place=f"--set {name}", hint=known))


def _checked(name: str, given: int, at: Sequence, source: str) -> int:
    """The value of an exponent as Python's own number."""
    value = whole(given)
    if value is None or value < 1:
        message = f"the exponent '{name}' must be a whole number from 1"
        raise signature_error("bad-power", message, source, at.span, f"--set {name}=3")
    if value >= 10**MAX_DIGITS:
        message = f"the exponent '{name}' has more than {MAX_DIGITS} digits"
        raise signature_error("power-too-large", message, source, at.span, f"--set {name}=3")
    return value
