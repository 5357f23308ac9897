"""The block graph: what is executed, in which order, on whose weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import networkx as nx

from rinsc.errors import GraphError
from rinsc.scalars import whole
from rinsc.spec import ModelSpec
from rinsc.spec.checks import shown
from rinsc.syntax.settings import RepeatOptions, Tie
from rinsc.syntax.tree import MAX_ROUNDS

PLAIN = RepeatOptions()
drawers: list[Callable[[Any], str]] = []  # what draws a graph is built upon this module
STATE, INJECTION = "state", "injection"  # what an edge of a graph carries


@dataclass(frozen=True)
class Input:
    """Where the state enters a graph or a loop's body; of several towers each has a ``name``."""

    name: str = ""


@dataclass(frozen=True)
class Output:
    """Where the state leaves a graph or a loop's body, under the name of its tower."""

    name: str = ""


@dataclass(frozen=True)
class Join:
    """Where the outputs of several towers meet, as what is compared under ``name``.

    `rinsc.graph.with_join` makes one.
    """

    name: str


@dataclass(frozen=True)
class Visit:
    """One execution of a block; the block, not the visit, owns the parameters.

    Each layer runs ``each`` times in place; ``reverse`` runs the layers from last to first.
    """

    block: str
    each: int = 1
    reverse: bool = False


@dataclass(frozen=True)
class Loop:
    """A body run ``rounds`` times; ``name`` is what the depth dial calls it.

    A loop that is ``fixed`` runs the rounds that it has and is no dial: what unrolling leaves of
    a loop whose rounds do more than run their body.
    """

    name: str
    body: BlockGraph
    rounds: int
    options: RepeatOptions = PLAIN
    adapters: int = 0  # adapters that it has, one for each round or each number of rounds
    fixed: bool = False

    def rounds_of(self, rounds: Mapping[str, int] | int | None) -> int:
        """Its rounds among those of every loop, one number for all, or those written."""
        if self.fixed or rounds is None:
            return self.rounds
        return checked_count(rounds[self.name] if isinstance(rounds, Mapping) else rounds, "")


GraphNode: TypeAlias = Input | Output | Visit | Loop


class Wired(NamedTuple):
    """A step with its edges: indices in `BlockGraph.nodes` of what they come from.

    ``state`` is None where the rounds of a loop start from zero, from noise or from what is
    learned; ``injection`` is None where no round is fed.
    """

    step: Visit | Loop
    state: int | None
    injection: int | None

    @property
    def entry(self) -> int:
        """The node whose state enters, as the start, as what is fed, or as both."""
        entry = self.state if self.injection is None else self.injection
        if entry is None:
            raise KeyError("a step without an edge")  # which `verified` refuses
        return entry


@dataclass(frozen=True)
class Block:
    """A block's share of the stack: ``layers`` physical layers of one kind.

    With ``tie`` its layers share that part of their weights.
    """

    name: str
    layers: int
    kind: str
    tie: Tie | None = None


@dataclass(frozen=True, eq=False)
class BlockGraph:
    """A chain of nodes from input to output.

    ``digraph`` has integer nodes, each with the attribute ``node`` (a `GraphNode`). Its edges carry
    a state, shaped (batch, seq, width), and have one of two keys. `STATE` is what a node takes over
    from the node before; a loop whose rounds start otherwise has none. `INJECTION` is what every
    round of a loop with ``inject`` is fed; what reads a graph takes it from this edge.

    ``blocks`` are in order of first use. A loop's body is a graph of its own over the same blocks.
    Graphs are equal when spec, steps and edges are.
    """

    spec: ModelSpec
    blocks: Mapping[str, Block]
    digraph: nx.MultiDiGraph[int]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockGraph):
            return NotImplemented
        return self.spec == other.spec and list(self.wired()) == list(other.wired())

    def __hash__(self) -> int:
        try:
            steps = tuple(self.steps())
        except (nx.NetworkXException, KeyError):  # no order, which `verified` will say
            steps = ()
        return hash((self.spec, steps))

    def __repr__(self) -> str:
        try:
            layers = f"{self.stored_layers} layers stored, {self.executed_layers()} executed"
        except (GraphError, nx.NetworkXException, KeyError, TypeError, AttributeError):
            layers = "not verified"  # whatever is wrong with it, its text can be read
        return f"<BlockGraph {self.spec.text}: {layers}>"

    def _repr_svg_(self) -> str:
        """The drawing, for notebooks."""
        return drawers[-1](self)

    def with_steps(self, steps: Iterable[Visit | Loop]) -> BlockGraph:
        """The same model's graph with other steps between its input and its output."""
        return BlockGraph(self.spec, self.blocks, chain(steps))

    @cached_property
    def _order(self) -> Mapping[int, int]:
        """The index of each node of ``digraph`` in the order of execution."""
        return {key: index for index, key in enumerate(nx.topological_sort(self.digraph))}

    @cached_property
    def nodes(self) -> tuple[GraphNode, ...]:
        """The nodes in order of execution, input first and output last."""
        return tuple(self.digraph.nodes[key]["node"] for key in self._order)

    @cached_property
    def edges(self) -> frozenset[tuple[int, int, str]]:
        """From which node to which, as indices in `nodes`, and what the edge carries."""
        order = self._order
        edges = self.digraph.edges(keys=True)
        return frozenset(
            (order[source], order[target], carries) for source, target, carries in edges
        )

    def wired(self) -> Iterator[Wired]:
        """The steps in order of execution, each with its edges."""
        sources = {(target, carries): source for source, target, carries in self.edges}
        for index, node in enumerate(self.nodes):
            if isinstance(node, Visit | Loop):
                yield Wired(node, sources.get((index, STATE)), sources.get((index, INJECTION)))

    def steps(self) -> Iterator[Visit | Loop]:
        """The visits and loops in order of execution."""
        return (node for node in self.nodes if isinstance(node, Visit | Loop))

    def loops(self) -> Iterator[Loop]:
        """Every loop, outer before inner."""
        for step in self.steps():
            if isinstance(step, Loop):
                yield step
                yield from step.body.loops()

    def recursed_blocks(self) -> list[str]:
        """Blocks that are visited more than once, as written or at rounds that can be asked for."""
        counts = self.visit_counts()
        dialled = {name for loop in self.dials() for name in loop.body.visit_counts()}
        return [name for name in self.blocks if counts[name] > 1 or name in dialled]

    @property
    def shares_slots(self) -> bool:
        """Whether rounds share cache slots (``kv=first``, ``kv=last``).

        A cached pass then runs one token at a time. A token sees the tokens before it as their
        slots keep them, so its logits depend neither on where its sequence is cut nor on its batch.
        """
        return any(loop.options.cache != "own" for loop in self.loops())

    def dials(self) -> Iterator[Loop]:
        """The loops whose rounds can be asked for."""
        return (loop for loop in self.loops() if not loop.fixed)

    @property
    def stored_layers(self) -> int:
        """Physical layers of all blocks."""
        return sum(block.layers for block in self.blocks.values())

    def visit_counts(self, rounds: Mapping[str, int] | int | None = None) -> Counter[str]:
        """How often the layers of each block run, without writing the visits out.

        ``rounds`` by loop, one number for all of them, or those written.
        """
        totals: Counter[str] = Counter()
        for step in self.steps():
            if isinstance(step, Visit):
                totals[step.block] += step.each
                continue
            times = step.rounds_of(rounds)
            for name, count in step.body.visit_counts(rounds).items():
                totals[name] += count * times
        return totals

    def executed_layers(self, rounds: Mapping[str, int] | int | None = None) -> int:
        """Layers run by one forward pass, every visit counted."""
        visits = self.visit_counts(rounds)
        return sum(count * self.blocks[name].layers for name, count in visits.items())

    def visits(self) -> Iterator[Visit]:
        """Every execution of a block at the rounds written, in order."""
        for step in self.steps():
            if isinstance(step, Visit):
                yield step
            else:
                for _ in range(step.rounds):
                    yield from step.body.visits()


def checked_count(value: object, of: str) -> int:
    """A number of rounds; raises `GraphError` where it is none from 1 to `MAX_ROUNDS`."""
    count = whole(value)
    if count is not None and 1 <= count <= MAX_ROUNDS:
        return count
    message = f"rounds{of} are {shown(value)}; they must be whole and from 1 to {MAX_ROUNDS}"
    hint = f"give a whole number from 1 to {MAX_ROUNDS}"
    raise GraphError("bad-rounds", message, hint=hint)


def carried_into(node: GraphNode) -> tuple[str, ...]:
    """What a node needs an edge for, from the node before it.

    >>> carried_into(Visit("A"))
    ('state',)
    """
    options = node.options if isinstance(node, Loop) else PLAIN
    state = (STATE,) if options.start == "carry" else ()
    return state if options.inject is None else (*state, INJECTION)


def chain(steps: Iterable[Visit | Loop]) -> nx.MultiDiGraph[int]:
    """A frozen digraph that runs the steps one after the other, from `Input` to `Output`."""
    digraph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    for key, node in enumerate((Input(), *steps, Output())):
        digraph.add_node(key, node=node)
        for carries in carried_into(node) if key else ():
            digraph.add_edge(key - 1, key, carries)
    nx.freeze(digraph)
    return digraph
