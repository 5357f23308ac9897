"""Which rounds ``rinsc bench`` and ``rinsc eval`` measure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.errors import UsageError, option_values
from rinsc.graph import rounds_in_words

if TYPE_CHECKING:
    from rinsc.backends.onnx import Session

MOST = 32  # numbers of rounds in one table
MOST_BY_DEFAULT = 8
_PART = re.compile(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?")


def asked_rounds(*texts: str) -> list[int]:
    """``1..4``, ``1,2,4``, ``1..4,8`` as numbers, each once, fewest first; raises UsageError."""
    numbers: set[int] = set()
    text = ",".join(texts)
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            message = f"--rounds does not take '{text[:60]}'"
            raise _usage(message, "write 1..4, or 1,2,4, or 3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise _usage(f"--rounds {part.strip()} runs backwards", f"write {last}..{first}")
        if last - first >= MOST or len(numbers) > MOST:
            raise _too_many()
        numbers.update(range(first, last + 1))
    if len(numbers) > MOST:
        raise _too_many()
    return sorted(numbers)


def rounds_by_repeat(
    numbers: Sequence[int] | None, session: Session, form: str, file: Path
) -> list[dict[str, int]]:
    """Each number as rounds of every repeat, fewest first.

    By default up to those written, where a repeat with fewer of them than another stays at its own.
    Raises UsageError for rounds that no such model runs, or that this file was not written for.
    """
    from rinsc.graph import resolve_rounds

    written = dict(session.rounds)
    if numbers is None:
        if form == "fixed" or not written:
            return [written]
        most = default_rounds(max(written.values()))
        return [{name: min(count, each) for name, count in written.items()} for each in most]
    with option_values():
        every = [resolve_rounds(session.graph, number) for number in numbers]
    for each in every:
        if form == "fixed" and each != written:
            message = f"the model was compiled for {_shown(written)}, not {_counted(each)}"
            hint = "compile it with --rounds dynamic, or leave --rounds out"
            raise _usage(message, hint, file)
        if form == "gated" and any(count > written[name] for name, count in each.items()):
            message = f"the model runs at most {_shown(written)}, not {_counted(each)}"
            raise _usage(message, "ask for fewer, or compile it with more", file)
    return every


def default_rounds(most: int) -> list[int]:
    """1 to ``most``; where that is a long way, doubled ones, and ``most``."""
    if most <= MOST_BY_DEFAULT:
        return list(range(1, most + 1))
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


def _shown(counts: Mapping[str, int]) -> str:
    words = _counted(counts)
    return f"{words} round{'s' * (words != '1')}"


def _counted(counts: Mapping[str, int]) -> str:
    return rounds_in_words(counts) if counts else "1"


def _too_many() -> UsageError:
    return _usage(f"--rounds asks for more than {MOST} numbers", "write some of them, as 1,2,4,8")


def _usage(message: str, hint: str, place: Path | None = None) -> UsageError:
    where = None if place is None else str(place)
    return UsageError("usage", message, place=where, hint=hint)
