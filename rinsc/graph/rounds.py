"""Rounds asked for at run time, checked against the repeats of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from rinsc.errors import GraphError, Problem, did_you_mean
from rinsc.graph.nodes import BlockGraph

Rounds: TypeAlias = int | Mapping[str, int] | None

MAX_ROUNDS = 1024


def resolve_rounds(graph: BlockGraph, rounds: Rounds) -> dict[str, int]:
    """Rounds of every repeat by its name; repeats that ``rounds`` leaves out run as written.

    One number sets every repeat. Raises `GraphError` for an unknown repeat, and for rounds that
    are not whole numbers from 1 to `MAX_ROUNDS`.
    """
    written = {loop.name: loop.rounds for loop in graph.loops()}
    if rounds is None:
        return written
    if isinstance(rounds, Mapping):
        unknown = [name for name in rounds if name not in written]
        if unknown:
            raise GraphError(_unknown_repeat(unknown[0], written))
        asked = {**written, **rounds}
    else:
        asked = dict.fromkeys(written, rounds) or {"": rounds}
    for name, count in asked.items():
        if type(count) is not int or not 1 <= count <= MAX_ROUNDS:
            of = f" of repeat '{name}'" if name else ""
            message = f"rounds{of} are {count!r}; they must be whole and from 1 to {MAX_ROUNDS}"
            raise GraphError(Problem("bad-rounds", message, hint="ask for at least one round"))
    if not written:
        if asked[""] != 1:
            raise GraphError(_unknown_repeat("", written))
        return {}
    return asked


def _unknown_repeat(name: str, written: Mapping[str, int]) -> Problem:
    if not written:
        message = "rounds were given, but this model has no repeat"
        return Problem("unknown-repeat", message, hint="write one into the signature, as in A^3B")
    return Problem(
        "unknown-repeat", f"'{name}' is not a repeat of this model", hint=did_you_mean(name, written)
    )
