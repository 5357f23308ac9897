"""The graph of several towers: the chain of each, and one acyclic graph of them all.

``image: AB, text: AC`` has two chains, and the graph

    Input(image) -> A -> B -> Output(image)
    Input(text)  -> A -> C -> Output(text)

in which both A are visits of one block. `with_join` adds a node where outputs meet; a tower of
pictures and one of texts meet in the node ``pairs`` of themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import networkx as nx

from rinsc.errors import GraphError, did_you_mean
from rinsc.graph.nodes import STATE, Block, BlockGraph, Input, Join, Loop, Output, drawers
from rinsc.graph.rounds import (
    Rounds,
    listed_rounds,
    named_rounds,
    plain_rounds,
    resolve_rounds,
)
from rinsc.graph.verify import HOW_TO_BUILD, verified
from rinsc.spec import TowersSpec

# The tower and the place of a node in its chain; of a join, the join and 0.
Key: TypeAlias = tuple[str, int]


@dataclass(frozen=True, eq=False)
class TowersGraph:
    """Towers by name, each a graph that passes and backends take as if it stood alone.

    ``digraph`` holds all of them, with the attribute ``node`` of each node and the edges of
    that of each. A repeat of the tower ``image`` that it calls A is ``image.A`` here.
    """

    spec: TowersSpec
    towers: Mapping[str, BlockGraph]
    digraph: nx.MultiDiGraph[Key]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TowersGraph):
            return NotImplemented
        mine, theirs = (self.spec, self.towers, self.joins), (other.spec, other.towers, other.joins)
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.spec, tuple(self.towers.values()), tuple(self.joins)))

    def __repr__(self) -> str:
        layers = f"{self.stored_layers} layers stored, {self.executed_layers()} executed"
        return f"<TowersGraph {self.spec.text}: {layers}>"

    def _repr_svg_(self) -> str:
        """The drawing, for notebooks."""
        return drawers[-1](self)

    @cached_property
    def blocks(self) -> Mapping[str, Block]:
        """Every block once, in order of first use."""
        blocks: dict[str, Block] = {}
        for graph in self.towers.values():
            for name, block in graph.blocks.items():
                blocks.setdefault(name, block)
        return blocks

    @cached_property
    def joins(self) -> Mapping[str, tuple[str, ...]]:
        """The towers whose outputs meet in each join, by its name."""
        nodes = self.digraph.nodes(data="node")
        return {
            node.name: tuple(name for name in self.towers if name in self._before(key))
            for key, node in nodes
            if isinstance(node, Join)
        }

    def _before(self, key: Key) -> set[str]:
        return {tower for tower, _ in self.digraph.predecessors(key)}

    def owners(self) -> dict[str, str]:
        """The first tower that visits each block."""
        owners: dict[str, str] = {}
        for name, graph in self.towers.items():
            for block in graph.blocks:
                owners.setdefault(block, name)
        return owners

    def dials(self) -> Iterator[tuple[str, Loop]]:
        """The loops whose rounds can be asked for, each under the name of its tower and its own."""
        for name, graph in self.towers.items():
            yield from ((dial_of(name, loop.name), loop) for loop in graph.dials())

    def loops(self) -> Iterator[Loop]:
        """Every loop of every tower, under the name of its tower and its own."""
        for name, graph in self.towers.items():
            yield from (replace(loop, name=dial_of(name, loop.name)) for loop in graph.loops())

    @property
    def stored_layers(self) -> int:
        """Physical layers of all blocks, those that towers share counted once."""
        return sum(block.layers for block in self.blocks.values())

    def executed_layers(self, rounds: Rounds = None) -> int:
        """Layers run by one pass through every tower, every visit counted."""
        counts = tower_rounds(self, rounds)
        return sum(graph.executed_layers(counts[name]) for name, graph in self.towers.items())


def towers_of(graph: BlockGraph | TowersGraph) -> Mapping[str, BlockGraph]:
    """The verified graph of each tower by name; the only one of a plain model has none."""
    if isinstance(graph, TowersGraph):
        return verified_towers(graph).towers
    return {"": verified(graph)}


def rounds_of(graph: BlockGraph | TowersGraph, rounds: Rounds) -> dict[str, dict[str, int]]:
    """Checked rounds of every dial by the names of its tower, "" of a plain model, and its own."""
    if isinstance(graph, TowersGraph):
        return tower_rounds(graph, rounds)
    return {"": resolve_rounds(graph, rounds)}


def told_rounds_of(graph: BlockGraph | TowersGraph, rounds: Rounds) -> dict[str, dict[str, int]]:
    """`rounds_of` those repeats alone that ``rounds`` names."""
    if isinstance(graph, TowersGraph):
        return tower_rounds(graph, rounds, named=True)
    return {"": named_rounds(graph, rounds) or {}}


def by_dial(rounds: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """``{"image": {"A": 3}}`` as ``{"image.A": 3}``; the repeats of a plain model stay as they are.

    >>> by_dial({"image": {"A": 3}, "text": {}}), by_dial({"": {"A": 3}})
    ({'image.A': 3}, {'A': 3})
    """
    return {
        dial_of(tower, name) if tower else name: count
        for tower, own in rounds.items()
        for name, count in own.items()
    }


def dial_of(tower: str, loop: str) -> str:
    """What a repeat of a tower is called among those of all towers: ``image.A``."""
    return f"{tower}.{loop}"


def joined(spec: TowersSpec, towers: Mapping[str, BlockGraph]) -> TowersGraph:
    """The verified graph of towers whose own graphs are there."""
    digraph: nx.MultiDiGraph[Key] = nx.MultiDiGraph()
    for name, graph in towers.items():
        for key, node in enumerate(graph.nodes):
            end = type(node)(name) if isinstance(node, Input | Output) else node
            digraph.add_node((name, key), node=end)
        for one, other, carries in graph.edges:
            digraph.add_edge((name, one), (name, other), carries)
    pairing = spec.pairing
    if pairing is not None:
        name = "pairs" if "pairs" not in towers else "joined_pairs"
        _add_join(digraph, name, towers, (pairing.image, pairing.text))
    nx.freeze(digraph)
    return verified_towers(TowersGraph(spec, dict(towers), digraph))


def _add_join(
    digraph: nx.MultiDiGraph[Key],
    name: str,
    towers: Mapping[str, BlockGraph],
    joining: Iterable[str],
) -> None:
    digraph.add_node((name, 0), node=Join(name))
    for tower in dict.fromkeys(joining):
        digraph.add_edge((tower, len(towers[tower].nodes) - 1), (name, 0), STATE)


def with_join(
    graph: TowersGraph, name: str = "pairs", towers: Sequence[str] | None = None
) -> TowersGraph:
    """The graph with a `Join` in which the outputs of ``towers`` meet, by default of all.

    What compares towers says so with it: the join is drawn and checked. It runs nothing and costs
    nothing, but for that of pictures and texts, ``pairs``, which such a graph has from the start:
    `rinsc.layers.trace_join`. Raises `GraphError` for towers that are not there,
    for fewer than two, and for a name that is taken.
    """
    names = list(verified_towers(graph).towers if towers is None else towers)
    for tower in names:
        if tower not in graph.towers:
            message = f"'{tower!s:.40}' is not a tower of this model"
            hint = did_you_mean(str(tower)[:40], graph.towers)
            raise GraphError("unknown-tower", message, hint=hint)
    if len(set(names)) < 2:
        message = "a join is of two towers or more"
        raise GraphError("bad-join", message, hint=f"name some of: {', '.join(graph.towers)}")
    if name in graph.joins or name in graph.towers or not name.isidentifier():
        message = f"a join cannot be called {name!r:.40}"
        raise GraphError("bad-join", message, hint="choose a name that no tower or join has")
    digraph: nx.MultiDiGraph[Key] = nx.MultiDiGraph(graph.digraph)
    _add_join(digraph, name, graph.towers, names)
    nx.freeze(digraph)
    return verified_towers(TowersGraph(graph.spec, graph.towers, digraph))


def tower_rounds(
    graph: TowersGraph, rounds: Rounds, *, named: bool = False
) -> dict[str, dict[str, int]]:
    """Rounds of every dial by the names of its tower and its own; see `resolve_rounds`.

    One number sets every dial of every tower; names are those of `TowersGraph.dials`. Of ``named``
    ones alone, those that ``rounds`` leaves out are not there.
    """
    shares = _shares(graph, plain_rounds(rounds))
    counts_by_tower: dict[str, dict[str, int]] = {}
    for name, tower in graph.towers.items():
        counts = resolve_rounds(tower, shares[name])
        counts_by_tower[name] = (named_rounds(tower, shares[name]) or {}) if named else counts
    return counts_by_tower


def several_tower_rounds(
    graph: TowersGraph, rounds: Rounds | Iterable[Rounds], written: Mapping[str, int]
) -> list[dict[str, int]]:
    """`several_rounds` of the dials of every tower: those not named run as ``written``."""
    every = [
        {**written, **by_dial(tower_rounds(graph, way, named=True))}
        for way in listed_rounds(rounds)
    ]
    return [counts for index, counts in enumerate(every) if counts not in every[:index]]


def _shares(graph: TowersGraph, rounds: Rounds) -> dict[str, Rounds]:
    """What the rounds say for each tower; a repeat that one tower alone has needs no tower."""
    if rounds is None:
        return dict.fromkeys(graph.towers)
    names = [name for name, _ in graph.dials()]
    if not isinstance(rounds, Mapping):
        dialled = [name for name, tower in graph.towers.items() if any(tower.dials())]
        every = dialled or list(graph.towers)  # without a dial anywhere the first one complains
        return {name: rounds if name in every else None for name in graph.towers}
    alone = {name.partition(".")[2]: name for name in names}
    alone = {short: name for short, name in alone.items() if _is_alone(short, names)}
    rounds = {alone.get(name, name): count for name, count in rounds.items()}
    for name in rounds:
        if name not in names:
            message = f"'{name!s:.40}' is not a repeat of these towers"
            hint = did_you_mean(str(name)[:40], names) if names else "no tower has a repeat"
            raise GraphError("unknown-repeat", message, hint=hint)
    return {
        tower: {
            loop.name: rounds[dial_of(tower, loop.name)]
            for loop in own.dials()
            if dial_of(tower, loop.name) in rounds
        }
        for tower, own in graph.towers.items()
    }


def _is_alone(short: str, names: Sequence[str]) -> bool:
    return [name.partition(".")[2] for name in names].count(short) == 1


def named_tower_rounds(graph: TowersGraph, rounds: Rounds) -> dict[str, int] | None:
    """`named_rounds` of towers: checked rounds of those repeats that ``rounds`` names."""
    return by_dial(tower_rounds(graph, rounds, named=True)) or None


def verified_towers(graph: TowersGraph) -> TowersGraph:
    """The graph itself, once every rule of it and of its towers is checked."""
    if not isinstance(graph, TowersGraph):
        message = f"this needs a graph of towers, not {type(graph).__name__}"
        raise GraphError("not-a-graph", message, hint="make one: rinsc.build_graph(spec)")
    for tower in graph.towers.values():
        verified(tower)
    for rule in RULES:
        for complaint in rule(graph):
            raise GraphError("broken-graph", complaint, hint=HOW_TO_BUILD)
    return graph


def towers_fit_the_spec(graph: TowersGraph) -> Iterator[str]:
    if list(graph.towers) != list(graph.spec.towers):
        yield "the towers are not those of the spec"
        return
    for name, tower in graph.towers.items():
        if tower.spec != graph.spec.towers[name]:
            yield f"the tower '{name}' is not that of the spec"


def shared_blocks_are_equal(graph: TowersGraph) -> Iterator[str]:
    """A block is the same in every tower: its weights are there once."""
    for name, tower in graph.towers.items():
        for block in tower.blocks.values():
            if block != graph.blocks[block.name]:
                yield f"the block '{block.name}' of '{name}' differs from that of another tower"


def towers_meet_in_joins_alone(graph: TowersGraph) -> Iterator[str]:
    """The digraph has no cycle, every tower is whole in it, and only a join has several towers."""
    digraph = graph.digraph
    if not nx.is_directed_acyclic_graph(digraph):
        yield "the graph has a cycle"
        return
    nodes = {key: data["node"] for key, data in digraph.nodes(data=True)}
    joins = {key for key, node in nodes.items() if isinstance(node, Join)}
    for name, tower in graph.towers.items():
        chain = [type(n)(name) if isinstance(n, Input | Output) else n for n in tower.nodes]
        if [nodes.get((name, key)) for key in range(len(chain))] != chain:
            yield f"the nodes of the tower '{name}' are not those of its own graph"
        edges = {((name, a), (name, b), carries) for a, b, carries in tower.edges}
        leaving = {edge for edge in digraph.edges(keys=True) if edge[0][0] == name}
        if {edge for edge in leaving if edge[1] not in joins} != edges:
            yield f"the edges of the tower '{name}' are not those of its own graph"
        if any(edge[1] in joins and edge[0] != (name, len(chain) - 1) for edge in leaving):
            yield f"a join reads the tower '{name}' before its output"
    for key in nodes.keys() - joins:
        if key[0] not in graph.towers or not key[1] < len(graph.towers[key[0]].nodes):
            yield f"node {key} belongs to no tower"
    for key in joins:
        if len({tower for tower, _ in digraph.predecessors(key)}) < 2:
            yield f"the join '{nodes[key].name}' joins fewer than two towers"


RULES = (towers_fit_the_spec, shared_blocks_are_equal, towers_meet_in_joins_alone)
