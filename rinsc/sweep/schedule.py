"""The physical layers that a model runs, in order, and a short way to write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TypeAlias

from rinsc.errors import GraphError, Problem
from rinsc.graph import BlockGraph, Loop, Visit

MAX_EXECUTED = 1 << 15  # layers, written out one by one

_Steps: TypeAlias = list["Visit | tuple[Loop, _Steps]"]


def executed_layers(graph: BlockGraph) -> list[int]:
    """The layers that run at the rounds written, in order, numbered from 1 by first use.

    Raises `GraphError` where they are more than `MAX_EXECUTED`.
    """
    return _executed(graph, _steps(graph), None)


def turned_layers(graph: BlockGraph) -> Iterator[tuple[Loop, list[int]]]:
    """Each dial, and the layers that run when it stands one round lower, or higher where it has
    but one. Raises as `executed_layers` does."""
    written = {loop.name: loop.rounds for loop in graph.dials()}
    steps = _steps(graph)
    for loop in graph.dials():
        turned = loop.rounds - 1 if loop.rounds > 1 else loop.rounds + 1
        yield loop, _executed(graph, steps, {**written, loop.name: turned})


def _steps(graph: BlockGraph) -> _Steps:
    """The steps of the graph and of the bodies in it, put in order once."""
    return [(step, _steps(step.body)) if isinstance(step, Loop) else step for step in graph.steps()]


def _executed(graph: BlockGraph, steps: _Steps, rounds: Mapping[str, int] | None) -> list[int]:
    count = graph.executed_layers(rounds)
    if count > MAX_EXECUTED:
        message = f"{count} layers run, too many to compare them one by one"
        hint = f"compare models that run at most {MAX_EXECUTED} layers"
        raise GraphError(Problem("too-many-layers", message, hint=hint))
    numbers: dict[tuple[str, int], int] = {}
    executed = []
    for visit in _visits(steps, rounds):
        layers = range(graph.blocks[visit.block].layers)
        for layer in reversed(layers) if visit.reverse else layers:
            number = numbers.setdefault((visit.block, layer), len(numbers) + 1)
            executed += [number] * visit.each
    return executed


def _visits(steps: _Steps, rounds: Mapping[str, int] | None) -> Iterator[Visit]:
    for step in steps:
        if isinstance(step, Visit):
            yield step
            continue
        loop, body = step
        for _ in range(loop.rounds_of(rounds)):
            yield from _visits(body, rounds)


def schedule_text(executed: list[int], most: int) -> str:
    """``1-6 ×3, 7-12``: layers in a row as one, what repeats at once as a power.

    ``1-3 each ×2`` is 1 1 2 2 3 3, and ``3-1`` is 3 2 1. At most ``most`` segments are written.
    """
    segments = [(text, len(list(same))) for text, same in groupby(_segments(executed))]
    texts = [text if times == 1 else f"{text} ×{times}" for text, times in segments]
    return listed(texts, most)


def listed(texts: Sequence[str], most: int) -> str:
    """The texts with commas between them, the first ``most`` where there are more."""
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f", … and {more} more" if more > 0 else "")


def _segments(executed: list[int]) -> Iterator[str]:
    """Stretches in which the layer rises, or falls, by one at each step."""
    turns = _turns(executed)
    start = 0
    while start < len(executed):
        each = 1
        while executed[start : start + each + 1] == executed[start : start + 1] * (each + 1):
            each += 1
        end = _end_of_stretch(executed, start, each, turns)
        first, last = executed[start], executed[end - 1]
        if first == last:
            yield from [f"{first}"] * each
        else:
            yield f"{first}-{last}" + (f" each ×{each}" if each > 1 else "")
        start = end


def _end_of_stretch(executed: list[int], start: int, each: int, turns: set[int]) -> int:
    """Where the stretch ends whose layers run ``each`` times in place."""
    end = start + each
    slope = executed[end] - executed[start] if end < len(executed) else 0
    while abs(slope) == 1 and executed[end - 1] not in turns:
        following = executed[end : end + each]
        if following != [executed[end - 1] + slope] * each:
            break
        after = executed[end + each : end + each + 2]
        if after[:1] == following[:1] and after[1:] != [executed[end - 1]]:
            break  # it runs more often than those before, and is no turn
        end += each
    return end


def _turns(executed: list[int]) -> set[int]:
    """Layers after which, or before whose successor, something far away stands elsewhere."""
    turns = set()
    for left, right in pairwise(executed):
        if abs(right - left) > 1:
            turns |= {left, right - 1}
    return turns
