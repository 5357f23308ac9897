"""The physical layers that a model runs, in order, and a short way to write them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TypeAlias

from rinsc.errors import GraphError, listed
from rinsc.graph import BlockGraph, Loop, Visit
from rinsc.layers import trace_programs
from rinsc.variants.enumerate import always_follows

MAX_EXECUTED = 1 << 15  # layers, written out one by one
_NUMBER = "L"  # the type of a layer's number in an array

# A layer with all that it is and what acts on the state before it; the end of the model is the last
Run: TypeAlias = tuple[object, ...]

_Steps: TypeAlias = list["Visit | tuple[Loop, _Steps]"]


def turned_layers(graph: BlockGraph) -> Iterator[tuple[Loop, bytes]]:
    """Each dial, and the layers that run when it stands one round lower, or higher where it has
    but one: in order, numbered from 0 by first use, as an array of integers in bytes.

    Raises `GraphError` where they are more than `MAX_EXECUTED`.
    """
    _check_bound(graph.executed_layers())
    numbers: dict[tuple[str, int], int] = {}
    for loop, layers in _Line(graph, _steps(graph), numbers).turned():
        _check_bound(len(layers) // array(_NUMBER).itemsize)
        yield loop, layers


def executed_runs(graph: BlockGraph) -> list[Run]:
    """Each layer that runs at the rounds written, with its kind, what it shares, and what acts on
    the state since the layer before; then the end of the model.

    Two models whose lists begin alike run alike so far, apart from training. Raises as
    `turned_layers` does.
    """
    _check_bound(graph.executed_layers())
    return _Runs(graph).of_the_graph()


def _steps(graph: BlockGraph) -> _Steps:
    """The steps of the graph and of the bodies in it, put in order once."""
    return [(step, _steps(step.body)) if isinstance(step, Loop) else step for step in graph.steps()]


class _Line:
    """Layers that steps run, in order. A turn of a dial does not change which layer is used first,
    so each keeps its number, and only the turned stretch is written anew."""

    def __init__(
        self, graph: BlockGraph, steps: _Steps, numbers: dict[tuple[str, int], int]
    ) -> None:
        self._loops: list[tuple[int, Loop, _Line]] = []  # where each begins, in bytes
        self.layers = b""
        runs, length = [], 0
        for step in steps:
            if isinstance(step, Visit):
                run = _numbered(graph, step, numbers)
            else:
                loop, body = step
                line = _Line(graph, body, numbers)
                self._loops.append((length, loop, line))
                run = line.layers * loop.rounds
            runs.append(run)
            length += len(run)
        self.layers = b"".join(runs)

    def turned(self) -> Iterator[tuple[Loop, bytes]]:
        """Each dial, outer before inner, with the layers that run when it is turned."""
        for start, loop, line in self._loops:
            end = start + len(line.layers) * loop.rounds
            before, after = self.layers[:start], self.layers[end:]
            if not loop.fixed:
                rounds = loop.rounds - 1 if loop.rounds > 1 else loop.rounds + 1
                yield loop, before + line.layers * rounds + after
            for inner, layers in line.turned():
                yield inner, before + layers * loop.rounds + after


def _numbered(graph: BlockGraph, visit: Visit, numbers: dict[tuple[str, int], int]) -> bytes:
    layers = array(_NUMBER)
    for layer in _layers(graph, visit):
        number = numbers.setdefault((visit.block, layer), len(numbers))
        layers.extend([number] * visit.each)
    return layers.tobytes()


def _check_bound(count: int) -> None:
    if count > MAX_EXECUTED:
        message = f"{count} layers run, too many to compare them one by one"
        hint = f"compare models that run at most {MAX_EXECUTED} layers"
        raise GraphError("too-many-layers", message, hint=hint)


def _layers(graph: BlockGraph, visit: Visit) -> range:
    """The layers of the visit's block in the order in which they run."""
    layers = range(graph.blocks[visit.block].layers)
    return layers[::-1] if visit.reverse else layers


class _Runs:
    """The walk behind `executed_runs`: names are numbered by first use, since they mean nothing."""

    def __init__(self, graph: BlockGraph) -> None:
        self._graph = graph
        self._programs = programs = trace_programs(graph.spec)
        self._framed = {*programs.enter, *programs.leave}  # kinds that do more in a visit
        blocks = graph.blocks.values()
        layers = {b.kind: [o.name for o in blocks if o.kind == b.kind] for b in blocks}
        self._varying = {k for k, n in layers.items() if len(programs.distinct_layers(n)) > 1}
        self._numbers: dict[tuple[object, ...], int] = {}
        self._counts: dict[str, int] = {}
        self._before: list[object] = []
        self._runs: list[Run] = []

    def of_the_graph(self) -> list[Run]:
        self._walk(self._graph)
        return [*self._runs, ("end", *self._before)]

    def _walk(self, graph: BlockGraph) -> None:
        ends = [len(self._runs)]  # of the nodes so far
        for wired in graph.wired():
            if isinstance(wired.step, Visit):
                self._visit(wired.step)
            else:
                self._loop(wired.step, ends[wired.entry])
            ends.append(len(self._runs))

    def _visit(self, visit: Visit) -> None:
        block = self._graph.blocks[visit.block]
        is_tied = block.tie is not None and block.layers > 1
        tie = (block.tie, self._number("tie", block.name)) if is_tied else None
        frame = ("visit", self._number("frame", block.name)) if block.kind in self._framed else None
        self._before += [frame] if frame else []
        for layer in _layers(self._graph, visit):
            program = self._programs.layers[block.name][layer]
            differs = (program.nodes,) if block.kind in self._varying else ()
            for _ in range(visit.each):
                number = self._number("layer", block.name, layer)
                self._runs.append((number, block.kind, *differs, tie, *self._before))
                self._before = []
        self._before += [frame] if frame else []

    def _loop(self, loop: Loop, entry: int) -> None:
        options, start = loop.options, len(self._runs)
        owner = self._number("loop", loop.name) if options.owns_weights else None
        adapter = options.adapter
        if options.start != "carry":
            self._before.append((options.start, owner))
        for index in range(loop.rounds):
            is_first = options.cache == "first" and index == 0  # as with a slot of its own
            if options.cache != "own" and loop.rounds > 1 and not is_first:
                self._before.append((options.cache, start, index))
            if options.inject is not None:
                self._before.append((options.inject, owner, entry))
            first_run = len(self._runs)
            which = index if adapter is None or adapter.by == "round" else loop.rounds - 1
            if adapter is not None and adapter.kind != "gate":
                self._before.append((adapter.kind, adapter.rank, owner, which))
            self._walk(loop.body)
            if adapter is not None and adapter.kind == "gate":
                self._before.append((adapter.kind, owner, which, first_run))

    def _number(self, what: str, *name: object) -> int:
        """The number of a thing among those of its sort, by first use."""
        key = (what, *name)
        if key not in self._numbers:
            self._numbers[key] = self._counts.get(what, 0)
            self._counts[what] = self._numbers[key] + 1
        return self._numbers[key]


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
        again = f" each ×{self.each}" if self.each > 1 else ""
        return f"{self.first}-{self.last}{again}", 1


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
        pieces: list[_Piece] = []
        for step in self._joined(graph):
            pieces += [step.piece] if isinstance(step, _Stretch) else self._loop(step, most // 2)
        return [
            (text, sum(times for _, times in same))
            for text, same in groupby(pieces, key=lambda piece: piece[0])
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
        stretches: list[_Stretch | Loop] = []
        for step in graph.steps():
            new = self._stretch(step) if isinstance(step, Visit) else step
            last = stretches[-1] if stretches else None
            if isinstance(last, _Stretch) and isinstance(new, _Stretch) and self._go_on(last, new):
                stretches.pop()
                new = replace(new, first=last.first)
            stretches.append(new)
        return stretches

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
