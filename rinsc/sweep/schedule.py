"""A short way to write which physical layers a model runs, from its visits and loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TypeAlias

from rinsc.graph import BlockGraph, Loop, Visit
from rinsc.sweep.listing import listed
from rinsc.sweep.words import always_follows

_Piece: TypeAlias = tuple[str, int]  # a text, and how often it stands in a row


@dataclass(frozen=True)
class _Stretch:
    """Layers in a row, each run ``each`` times in place; ``last`` is below ``first`` where they
    fall. ``visit`` is the last visit that it stands for."""

    first: int
    last: int
    each: int
    visit: Visit

    @property
    def piece(self) -> _Piece:
        if self.first == self.last:
            return f"{self.first}", self.each
        each = f" each ×{self.each}" if self.each > 1 else ""
        return f"{self.first}-{self.last}{each}", 1


def schedule_text(graph: BlockGraph, most: int) -> str:
    """``0-5 ×3, 6-11``: the layers at the rounds written, counted from 0 as ``rinsc show`` does.

    ``0-2 each ×2`` is 0 0 1 1 2 2, ``2-0`` is 2 1 0, and a loop of several stretches stands in
    parentheses. At most ``most`` stretches are written, and half as many in each loop.
    """
    return _listed(_Chart(graph).pieces(graph, most), most)


class _Chart:
    """Where each block ends, and which visits always follow one another."""

    def __init__(self, graph: BlockGraph) -> None:
        ends = accumulate(block.layers for block in graph.blocks.values())
        self._last = dict(zip(graph.blocks, (end - 1 for end in ends), strict=True))
        self._blocks = graph.blocks
        self._followers = _followers(graph)

    def pieces(self, graph: BlockGraph, most: int) -> list[_Piece]:
        """What the graph or the body of a loop runs, equal pieces in a row as one."""
        found: list[_Piece] = []
        for step in self._joined(graph):
            found += [step.piece] if isinstance(step, _Stretch) else self._loop(step, most // 2)
        return [
            (text, sum(times for _, times in same))
            for text, same in groupby(found, key=lambda piece: piece[0])
        ]

    def _loop(self, loop: Loop, most: int) -> list[_Piece]:
        body = self.pieces(loop.body, most)
        if loop.rounds == 1:
            return body
        if len(body) == 1:
            ((text, times),) = body
            return [(text, times * loop.rounds)]
        return [(f"({_listed(body, max(most, 1))})", loop.rounds)]

    def _joined(self, graph: BlockGraph) -> list[_Stretch | Loop]:
        """The steps, with visits that always follow one another as one stretch."""
        found: list[_Stretch | Loop] = []
        for step in graph.steps():
            new = self._stretch(step) if isinstance(step, Visit) else step
            last = found[-1] if found else None
            if isinstance(last, _Stretch) and isinstance(new, _Stretch) and self._go_on(last, new):
                found.pop()
                new = replace(new, first=last.first)
            found.append(new)
        return found

    def _stretch(self, visit: Visit) -> _Stretch:
        last = self._last[visit.block]
        first = last - self._blocks[visit.block].layers + 1
        ends = (last, first) if visit.reverse else (first, last)
        return _Stretch(*ends, visit.each, visit)

    def _go_on(self, one: _Stretch, other: _Stretch) -> bool:
        if self._followers.get(one.visit) != other.visit or one.each != other.each:
            return False
        step = other.first - one.last
        slopes = (stretch.last - stretch.first for stretch in (one, other))
        return abs(step) == 1 and all(slope * step >= 0 for slope in slopes)


def _followers(graph: BlockGraph) -> Mapping[Visit, Visit]:
    """The visit that always follows one, where that always precedes it."""
    numbers: dict[Visit, int] = {}
    flat = tuple(numbers.setdefault(visit, len(numbers)) for visit in graph.visits())
    visits = list(numbers)
    return {visits[left]: visits[right] for left, right in always_follows(flat).items()}


def _listed(pieces: list[_Piece], most: int) -> str:
    return listed([text if times == 1 else f"{text} ×{times}" for text, times in pieces], most)
