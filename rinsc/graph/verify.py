"""What a legal block graph is. Runs after building and after every pass, and names the culprit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias

import networkx as nx

from rinsc.errors import GraphError, plural
from rinsc.graph.nodes import (
    INJECTION,
    PLAIN,
    BlockGraph,
    GraphNode,
    Input,
    Loop,
    Output,
    Visit,
    carried_into,
)
from rinsc.spec.kinds import is_kind
from rinsc.spec.model import several_towers
from rinsc.syntax.settings import RepeatOptions
from rinsc.syntax.tree import Towers

MAX_COMPARED = 4096  # visits of two schedules, when a pass is held to the one before it

HOW_TO_BUILD = "make the graph with build_graph(spec), or mend what is said of it"

Rule: TypeAlias = Callable[[BlockGraph], Iterator[str]]


def verify(graph: BlockGraph, *, after: str | None = None, rules: Iterable[Rule] = ()) -> None:
    """Check the rules that always hold, and ``rules``, which hold from some pass on.

    Raises `GraphError` that names ``after``, the pass that ran last; None for a graph that was
    made elsewhere.
    """
    for rule in (*ALWAYS, *rules):
        for complaint in rule(graph):
            if after is None:
                raise GraphError("broken-graph", complaint, hint=HOW_TO_BUILD)
            hint = "this is a fault of the pass, not of the signature; please report it"
            raise GraphError("broken-graph", f"after '{after}': {complaint}", hint=hint)


def verified(graph: BlockGraph) -> BlockGraph:
    """The graph itself, once every rule is checked: what anything that reads a graph starts from.

    Raises `GraphError` for a graph that was made or changed by hand and that nothing can run.
    """
    if not isinstance(graph, BlockGraph):
        signature = getattr(getattr(graph, "spec", None), "signature", None)
        if isinstance(signature, Towers):
            raise several_towers(signature)
        message = f"this needs a block graph, not {type(graph).__name__}"
        raise GraphError("not-a-graph", message, hint="make one: rinsc.build_graph(spec)")
    if "_is_verified" in vars(graph):
        return graph
    try:
        for complaint in nodes_are_known(graph):
            raise GraphError("broken-graph", complaint, hint=HOW_TO_BUILD)
        verify(graph, rules=HANDED_IN)
    except (AttributeError, KeyError, TypeError, ValueError, nx.NetworkXException) as error:
        message = f"the graph cannot be read: {type(error).__name__}: {error}"
        raise GraphError("broken-graph", message, hint=HOW_TO_BUILD) from None
    if nx.is_frozen(graph.digraph):  # else it may change
        vars(graph)["_is_verified"] = True
    for loop in graph.loops():  # which visit some blocks alone
        vars(loop.body)["_is_verified"] = True
    return graph


def is_a_chain(graph: BlockGraph) -> Iterator[str]:
    """One input, one output, and every node on the one path between them; bodies alike.

    Each edge has a key that says what it carries, and what a loop is fed comes from before it.
    """
    digraph = graph.digraph
    if not digraph.is_multigraph():
        yield "the digraph must be a MultiDiGraph, with what each edge carries as its key"
        return
    if not nx.is_directed_acyclic_graph(digraph):
        yield "the graph has a cycle"
        return
    nodes = graph.nodes
    ends = [node for node in nodes if isinstance(node, Input | Output)]
    if len(ends) != 2 or not isinstance(nodes[0], Input) or not isinstance(nodes[-1], Output):
        yield "a graph needs one input, first, and one output, last"
        return
    if len(nodes) < 3:
        yield "a graph needs a step between its input and its output"
    expected = {
        (index - 1, index, carries)
        for index, node in enumerate(nodes)
        if index
        for carries in carried_into(node)
    }
    for source, target, carries in sorted(graph.edges - expected, key=str):
        if carries == INJECTION:
            yield f"an injection leads from {_name(nodes[source])} to {_name(nodes[target])}"
    for _, target, carries in sorted(expected - graph.edges):
        if carries == INJECTION:
            yield f"no injection leads from {_name(nodes[target - 1])} to {_name(nodes[target])}"
    degrees = ({*digraph.pred[key]} for key in digraph), ({*digraph.succ[key]} for key in digraph)
    if any(len(others) > 1 for side in degrees for others in side):
        yield "a node has more than one predecessor or successor"
    if graph.edges != expected or len({target for _, target, _ in expected}) != len(nodes) - 1:
        yield "a node is not connected"
    for step in graph.steps():
        if isinstance(step, Loop):
            yield from is_a_chain(step.body)


def _name(node: GraphNode) -> str:
    if isinstance(node, Loop):
        return f"the loop '{node.name}'"
    return f"a visit of '{node.block}'" if isinstance(node, Visit) else type(node).__name__.lower()


def visits_match_blocks(graph: BlockGraph) -> Iterator[str]:
    """Every visit's block exists, and every block is visited: unvisited weights break training."""
    visited = set(_blocks_named(graph))
    for name in sorted(visited - set(graph.blocks)):
        yield f"a visit names the block '{name}', which does not exist"
    for name in sorted(set(graph.blocks) - visited):
        yield f"the block '{name}' is never visited"


def rounds_are_positive(graph: BlockGraph) -> Iterator[str]:
    for loop in graph.loops():
        if type(loop.rounds) is not int or loop.rounds < 1:
            yield f"the loop '{loop.name}' has {plural(loop.rounds, 'round')}"


def bodies_share_blocks(graph: BlockGraph) -> Iterator[str]:
    for loop in graph.loops():
        if loop.body.blocks != graph.blocks or loop.body.spec != graph.spec:
            yield f"the body of the loop '{loop.name}' belongs to another model"


def loop_names_are_unique(graph: BlockGraph) -> Iterator[str]:
    """Holds once loops are numbered: the dial finds a repeat by its name."""
    for name, count in Counter(loop.name for loop in graph.loops()).items():
        if count > 1:
            yield f"{count} loops are called '{name}'"


def nodes_are_known(graph: BlockGraph) -> Iterator[str]:
    """Every node of the digraph is one of the four kinds, in bodies too."""
    for key, data in graph.digraph.nodes(data=True):
        node = data.get("node")
        if not isinstance(node, Input | Output | Visit | Loop):
            yield f"node {key} holds {type(node).__name__}, not an Input, Visit, Loop or Output"
        elif isinstance(node, Loop):
            if not isinstance(node.body, BlockGraph):
                yield f"the body of the loop '{node.name}' is {type(node.body).__name__}"
            else:
                yield from nodes_are_known(node.body)


def blocks_are_sound(graph: BlockGraph) -> Iterator[str]:
    for name, block in graph.blocks.items():
        if block.name != name:
            yield f"the block '{name}' calls itself '{block.name}'"
        if type(block.layers) is not int or block.layers < 1:
            yield f"the block '{name}' has {plural(block.layers, 'layer')}"
        if not is_kind(block.kind):
            yield f"the block '{name}' is of the kind '{block.kind}', which does not exist"
    for visit in _visits(graph):
        if type(visit.each) is not int or visit.each < 1:
            yield f"a visit of '{visit.block}' runs each layer {plural(visit.each, 'time')}"


def loops_are_sound(graph: BlockGraph) -> Iterator[str]:
    """Each dial has a name of its own, and loops of one name share what they own."""
    dials = Counter(loop.name for loop in graph.dials())
    for name, count in dials.items():
        if count > 1:
            yield f"{count} loops are called '{name}'"
    first: dict[str, Loop] = {}
    for loop in graph.loops():
        if type(loop.adapters) is not int or bool(loop.adapters) != bool(loop.options.adapter):
            yield f"the loop '{loop.name}' has {loop.adapters} adapters"
        other = first.setdefault(loop.name, loop)
        if (loop.options, loop.adapters) != (other.options, other.adapters):
            yield f"two loops called '{loop.name}' own different weights"


def has_no_dials(graph: BlockGraph) -> Iterator[str]:
    """Holds once a graph is unrolled."""
    for loop in graph.dials():
        yield f"the rounds of '{loop.name}' can still be set"


def keeps_the_schedule(before: BlockGraph, *, at_any_rounds: bool) -> Rule:
    """Holds for every pass: the visits stay what they were, at the rounds written.

    ``at_any_rounds`` compares them at one and at two rounds of every loop as well.
    """
    compared = (None, 1, 2) if at_any_rounds else (None,)
    schedules = {rounds: _steps_at(before, rounds) for rounds in compared}

    def rule(graph: BlockGraph) -> Iterator[str]:
        for rounds, schedule in schedules.items():
            if _steps_at(graph, rounds) != schedule:
                at = (
                    "the rounds written"
                    if rounds is None
                    else f"{plural(rounds, 'round')} of every loop"
                )
                yield f"the schedule of visits has changed, at {at}"

    return rule


def _steps_at(graph: BlockGraph, rounds: int | None) -> list[Visit | RepeatOptions]:
    """The first steps run with every loop at ``rounds``: nested loops can make many."""
    return list(islice(_run(graph, rounds), MAX_COMPARED))


def _run(graph: BlockGraph, rounds: int | None) -> Iterator[Visit | RepeatOptions]:
    """Visits in order, and the options of a loop in front of each of its rounds."""
    for step in graph.steps():
        if isinstance(step, Visit):
            yield step
            continue
        for _ in range(step.rounds_of(rounds)):
            if step.options != PLAIN:
                yield step.options
            yield from _run(step.body, rounds)


ALWAYS: tuple[Rule, ...] = (
    is_a_chain,
    visits_match_blocks,
    rounds_are_positive,
    bodies_share_blocks,
)


# What else is checked of a graph that did not come from a pass.
HANDED_IN: tuple[Rule, ...] = (blocks_are_sound, loops_are_sound)


def _blocks_named(graph: BlockGraph) -> Iterator[str]:
    return (visit.block for visit in _visits(graph))


def _visits(graph: BlockGraph) -> Iterator[Visit]:
    """The visits as they are written, each once."""
    for step in graph.steps():
        if isinstance(step, Visit):
            yield step
        else:
            yield from _visits(step.body)
