"""What a cost may be asked for: whole positive counts, within a model's context."""

from __future__ import annotations

from rinsc.errors import Problem, SpecError
from rinsc.scalars import whole
from rinsc.spec import ModelSpec
from rinsc.spec.checks import shown
from rinsc.syntax.problems import plural

MAX_COUNT = 10**18  # tokens or sequences; no run comes near


def checked_counts(**counts: int) -> tuple[int, ...]:
    """The counts as Python's own numbers.

    Raises `SpecError` for those that are not whole numbers from 1 to `MAX_COUNT`.
    """
    problems, numbers = [], []
    for name, count in counts.items():
        number = whole(count)
        if number is not None and 1 <= number <= MAX_COUNT:
            numbers.append(number)
        else:
            limits = f"from 1 to {MAX_COUNT:.0e}".replace("e+", "e")
            message = f"{name} must be a whole number {limits}, not {shown(count)}"
            hint = f"give {name} as a whole number {limits}"
            problems.append(Problem("bad-count", message, place=name, hint=hint))
    if problems:
        raise SpecError(*problems)
    return tuple(numbers)


def checked_sequence(spec: ModelSpec, given: int) -> int:
    """The length of a sequence; raises `SpecError` for one that the model cannot take."""
    (seq,) = checked_counts(seq=given)
    if seq > spec.context:
        message = (
            f"{plural(seq, 'token')} are beyond the context of {spec.context} of '{spec.text}'"
        )
        hint = "shorten the sequence, or raise the context"
        raise SpecError(Problem("beyond-context", message, place="seq", hint=hint))
    return seq
