"""Rounds asked for at run time, checked against the repeats of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from rinsc.errors import GraphError, Problem, did_you_mean, plural
from rinsc.graph.nodes import BlockGraph, checked_count
from rinsc.graph.verify import verified
from rinsc.scalars import whole
from rinsc.syntax.options import largest_draw
from rinsc.syntax.tree import MAX_ROUNDS as MAX_ROUNDS

Rounds: TypeAlias = int | Mapping[str, int] | None

SHOWN_ROUNDS = 8  # one after the other, where there are more
MAX_RUN_VISITS = 1 << 16  # of all blocks: what nested repeats multiply to


def resolve_rounds(graph: BlockGraph, rounds: Rounds) -> dict[str, int]:
    """Rounds of every dial by its name; repeats that ``rounds`` leaves out run as written.

    One number sets every dial; those of numpy and torch are welcome. Raises `GraphError` for an
    unknown repeat, for rounds that are not whole numbers from 1 to `MAX_ROUNDS`, and for more than
    `MAX_RUN_VISITS` visits in all.
    """
    written = {loop.name: loop.rounds for loop in verified(graph).dials()}
    if rounds is None:
        return written
    asked = _asked_rounds(written, rounds)
    visits = sum(graph.visit_counts(asked).values())
    if visits > MAX_RUN_VISITS:
        message = f"these rounds visit blocks {visits:.2e} times; at most {MAX_RUN_VISITS} are run"
        raise GraphError("too-many-visits", message, hint="ask for fewer rounds")
    return asked


def plain_rounds(rounds: Rounds) -> Rounds:
    """The same rounds with Python's own numbers in place of those of other libraries.

    What is no whole number stays as it is, for `resolve_rounds` to refuse.
    """
    if isinstance(rounds, Mapping):
        return {name: whole(count) or count for name, count in rounds.items()}
    return None if rounds is None else whole(rounds) or rounds


def rounds_in_words(counts: Mapping[str, int]) -> str:
    """``3``, or ``A=3, B=2`` where repeats differ; nothing where there are none."""
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{name}={count}" for name, count in counts.items())


def rounds_up_to(most: int) -> list[int]:
    """Numbers to show: 1 to ``most``; where that is a long way, doubled ones, and ``most``."""
    if most <= SHOWN_ROUNDS:
        return list(range(1, most + 1))
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


class RoundsWarning(UserWarning):
    """A model runs more rounds than it was trained at; what it gives may be worth little."""


def trained_rounds(graph: BlockGraph) -> dict[str, int]:
    """The most rounds of every dial in training, by the signature.

    Those that its sampler draws (`largest_draw`), or those written where it has none.
    """
    return {
        loop.name: largest_draw(loop.options.sample) if loop.options.sample else loop.rounds
        for loop in verified(graph).dials()
    }


def beyond_training(rounds: Mapping[str, int], trained: Mapping[str, int]) -> str | None:
    """What is to be said of ``rounds`` above the ``trained`` ones; None where there are none."""
    above = [
        f"repeat '{name}' runs {plural(count, 'round')} and was trained at {trained[name]} at most"
        for name, count in rounds.items()
        if count > trained.get(name, count)
    ]
    return "; ".join(above) or None


def _asked_rounds(written: Mapping[str, int], rounds: int | Mapping[str, int]) -> dict[str, int]:
    """Each repeat's rounds, each of them possible alone."""
    if not isinstance(rounds, Mapping):
        count = checked_count(rounds, "")
        if not written and count != 1:
            raise GraphError.of(_unknown_repeat("", written))
        return dict.fromkeys(written, count)
    asked = dict(written)
    for name, given in rounds.items():
        if name not in written:
            raise GraphError.of(_unknown_repeat(str(name), written))
        asked[name] = checked_count(given, f" of repeat '{name}'")
    return asked


def _unknown_repeat(name: str, written: Mapping[str, int]) -> Problem:
    if not written:
        message = "rounds were given, but this model has no repeat"
        return Problem("unknown-repeat", message, hint="write one into the signature, as in A^3B")
    message = f"'{name}' is not a repeat of this model"
    return Problem("unknown-repeat", message, hint=did_you_mean(name, written))
