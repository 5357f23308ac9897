"""The physical layers that a model runs, in order, and what acts between them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TypeAlias

from rinsc.errors import GraphError, Problem
from rinsc.graph import BlockGraph, Loop, Visit
from rinsc.layers import trace_programs

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
        parts, length = [], 0
        for step in steps:
            if isinstance(step, Visit):
                part = _numbered(graph, step, numbers)
            else:
                loop, body = step
                line = _Line(graph, body, numbers)
                self._loops.append((length, loop, line))
                part = line.layers * loop.rounds
            parts.append(part)
            length += len(part)
        self.layers = b"".join(parts)

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
    found = array(_NUMBER)
    for layer in _layers(graph, visit):
        number = numbers.setdefault((visit.block, layer), len(numbers))
        found.extend([number] * visit.each)
    return found.tobytes()


def _check_bound(count: int) -> None:
    if count > MAX_EXECUTED:
        message = f"{count} layers run, too many to compare them one by one"
        hint = f"compare models that run at most {MAX_EXECUTED} layers"
        raise GraphError(Problem("too-many-layers", message, hint=hint))


def _layers(graph: BlockGraph, visit: Visit) -> range:
    """The layers of the visit's block in the order in which they run."""
    layers = range(graph.blocks[visit.block].layers)
    return layers[::-1] if visit.reverse else layers


class _Runs:
    """The walk behind `executed_runs`: names are numbered by first use, since they mean nothing."""

    def __init__(self, graph: BlockGraph) -> None:
        self._graph = graph
        programs = trace_programs(graph.spec)
        self._framed = {*programs.enter, *programs.leave}  # kinds that do more in a visit
        self._numbers: dict[tuple[object, ...], int] = {}
        self._counts: dict[str, int] = {}
        self._before: list[object] = []
        self._runs: list[Run] = []

    def of_the_graph(self) -> list[Run]:
        self._walk(_steps(self._graph))
        return [*self._runs, ("end", *self._before)]

    def _walk(self, steps: _Steps) -> None:
        for step in steps:
            if isinstance(step, Visit):
                self._visit(step)
            else:
                self._loop(*step)

    def _visit(self, visit: Visit) -> None:
        block = self._graph.blocks[visit.block]
        is_tied = block.tie is not None and block.layers > 1
        tie = (block.tie, self._number("tie", block.name)) if is_tied else None
        frame = ("visit", self._number("frame", block.name)) if block.kind in self._framed else None
        self._before += [frame] if frame else []
        for layer in _layers(self._graph, visit):
            for _ in range(visit.each):
                number = self._number("layer", block.name, layer)
                self._runs.append((number, block.kind, tie, *self._before))
                self._before = []
        self._before += [frame] if frame else []

    def _loop(self, loop: Loop, body: _Steps) -> None:
        options, entry = loop.options, len(self._runs)
        owner = self._number("loop", loop.name) if options.owns_weights else None
        adapter = options.adapter
        if options.start != "carry":
            self._before.append((options.start, owner))
        for index in range(loop.rounds):
            is_first = options.cache == "first" and index == 0  # as with a slot of its own
            if options.cache != "own" and loop.rounds > 1 and not is_first:
                self._before.append((options.cache, entry, index))
            if options.inject is not None:
                self._before.append((options.inject, owner, entry))
            given = len(self._runs)
            which = index if adapter is None or adapter.by == "round" else loop.rounds - 1
            if adapter is not None and adapter.kind != "gate":
                self._before.append((adapter.kind, adapter.rank, owner, which))
            self._walk(body)
            if adapter is not None and adapter.kind == "gate":
                self._before.append((adapter.kind, owner, which, given))

    def _number(self, what: str, *name: object) -> int:
        """The number of a thing among those of its sort, by first use."""
        key = (what, *name)
        if key not in self._numbers:
            self._numbers[key] = self._counts.get(what, 0)
            self._counts[what] = self._numbers[key] + 1
        return self._numbers[key]
