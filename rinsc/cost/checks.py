"""What a cost may be asked for: whole positive counts, within a model's context."""

from __future__ import annotations

from rinsc.errors import Problem, SpecError
from rinsc.spec import ModelSpec
from rinsc.spec.checks import shown

MAX_COUNT = 10**18  # tokens or sequences; no run comes near


def require_counts(**counts: int) -> None:
    """Raises `SpecError` for counts that are not whole numbers from 1 to `MAX_COUNT`."""
    problems = []
    for name, count in counts.items():
        if type(count) is not int or not 1 <= count <= MAX_COUNT:
            limits = f"from 1 to {MAX_COUNT:.0e}".replace("e+", "e")
            message = f"{name} must be a whole number {limits}, not {shown(count)}"
            hint = f"give {name} as a whole number {limits}"
            problems.append(Problem("bad-count", message, place=name, hint=hint))
    if problems:
        raise SpecError(*problems)


def require_sequence(spec: ModelSpec, seq: int) -> None:
    """Raises `SpecError` for a sequence that the model cannot take."""
    require_counts(seq=seq)
    if seq > spec.context:
        message = f"{seq} tokens are beyond the context of {spec.context} of '{spec.text}'"
        hint = "shorten the sequence, or raise the context"
        raise SpecError(Problem("beyond-context", message, place="seq", hint=hint))
