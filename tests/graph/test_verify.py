"""The verifier: every rule refuses a graph broken by hand, and names the pass that broke it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from itertools import islice
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rinsc
from rinsc.backends.hf import causal_lm
from rinsc.backends.torch.blocks import block_classes
from rinsc.backends.torch.steps import StepWriter
from rinsc.cost import stored_params
from rinsc.cost.flops import _require_gradients
from rinsc.errors import GraphError
from rinsc.graph import (
    Block,
    BlockGraph,
    Input,
    Loop,
    Output,
    Visit,
    at_rounds,
    build_graph,
    unroll,
)
from rinsc.graph.build import PASSES, Pass, run_passes
from rinsc.graph.draw.labels import Feed, feeds
from rinsc.graph.draw.layout import arrange
from rinsc.graph.nodes import INJECTION, STATE
from rinsc.graph.passes import number_loops
from rinsc.graph.verify import ALWAYS, has_no_dials, loop_names_are_unique, verified, verify
from rinsc.layers import trace_programs
from rinsc.syntax.settings import RepeatOptions
from tests.graph.graphs import graph_of, spec_of
from tests.specs import nested_specs
from tests.strategies import signatures

Breaker = Callable[[BlockGraph], BlockGraph]


def wired(graph: BlockGraph, nodes: list[object], edges: list[tuple[int, int]]) -> BlockGraph:
    digraph: nx.MultiDiGraph[Any] = nx.MultiDiGraph()
    for key, node in enumerate(nodes):
        digraph.add_node(key, node=node)
    for edge in edges:
        digraph.add_edge(*edge, STATE)
    return replace(graph, digraph=digraph)


def cycle(graph: BlockGraph) -> BlockGraph:
    nodes = [Input(), Visit("A"), Visit("B"), Output()]
    return wired(graph, nodes, [(0, 1), (1, 2), (2, 1), (2, 3)])


def no_output(graph: BlockGraph) -> BlockGraph:
    return wired(graph, [Input(), Visit("A"), Visit("B")], [(0, 1), (1, 2)])


def two_inputs(graph: BlockGraph) -> BlockGraph:
    nodes = [Input(), Input(), Visit("A"), Visit("B"), Output()]
    return wired(graph, nodes, [(0, 2), (1, 3), (2, 3), (3, 4)])


def output_inside(graph: BlockGraph) -> BlockGraph:
    nodes = [Input(), Visit("A"), Output(), Visit("B")]
    return wired(graph, nodes, [(0, 1), (1, 2), (2, 3)])


def empty(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps(())


def no_nodes(graph: BlockGraph) -> BlockGraph:
    return wired(graph, [], [])


def fork(graph: BlockGraph) -> BlockGraph:
    nodes = [Input(), Visit("A"), Visit("B"), Output()]
    return wired(graph, nodes, [(0, 1), (0, 2), (1, 3), (2, 3)])


def loose_visit(graph: BlockGraph) -> BlockGraph:
    nodes = [Input(), Visit("A"), Visit("B"), Output()]
    return wired(graph, nodes, [(0, 1), (1, 3)])


def broken_body(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Loop("A", empty(graph), 2), Visit("B")])


def strange_block(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Visit("A"), Visit("B"), Visit("Z")])


def unvisited_block(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Visit("A"), Visit("A")])


def no_rounds(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Loop("AB", graph, 0)])


def foreign_body(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Loop("AB", graph_of("AB", layers=4), 2)])


def foreign_spec(graph: BlockGraph) -> BlockGraph:
    body = replace(graph, spec=replace(spec_of("AB"), vocab_size=12))
    return graph.with_steps([Loop("AB", body, 2)])


def same_names(graph: BlockGraph) -> BlockGraph:
    once = graph.with_steps([Visit("A"), Visit("B")])
    return graph.with_steps([Loop("AB", once, 1), Loop("AB", once, 1)])


def forgetful(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps(list(graph.steps())[1:])


BROKEN: dict[Breaker, str] = {
    cycle: "cycle",
    no_output: "one input, first, and one output, last",
    two_inputs: "one input, first, and one output, last",
    output_inside: "one input, first, and one output, last",
    empty: "needs a step",
    no_nodes: "one input, first, and one output, last",
    fork: "more than one predecessor or successor",
    loose_visit: "not connected|one input, first",
    broken_body: "needs a step",
    strange_block: "'Z', which does not exist",
    unvisited_block: "'B' is never visited",
    no_rounds: "'AB' has 0 rounds",
    foreign_body: "'AB' belongs to another model",
    foreign_spec: "'AB' belongs to another model",
}


@pytest.mark.parametrize("breaker", BROKEN, ids=lambda breaker: breaker.__name__)
def test_a_sabotaged_pass_is_named(breaker: Breaker) -> None:
    with pytest.raises(GraphError, match=BROKEN[breaker]) as caught:
        run_passes(graph_of("AB"), [*PASSES, Pass(breaker)])
    assert caught.value.code == "broken-graph"
    assert f"after '{breaker.__name__}'" in caught.value.message


def unknown_kind(graph: BlockGraph) -> BlockGraph:
    return replace(graph, blocks=dict(graph.blocks) | {"A": Block("A", 1, "nothing")})


def no_layers(graph: BlockGraph) -> BlockGraph:
    return replace(graph, blocks=dict(graph.blocks) | {"A": Block("A", 0, "llama")})


def other_node(graph: BlockGraph) -> BlockGraph:
    return wired(graph, [Input(), "A", Visit("B"), Output()], [(0, 1), (1, 2), (2, 3)])


def no_node(graph: BlockGraph) -> BlockGraph:
    return replace(graph, digraph=nx.MultiDiGraph([(0, 1)]))


def no_keys(graph: BlockGraph) -> BlockGraph:
    digraph: Any = nx.DiGraph(graph.digraph)
    return replace(graph, digraph=digraph)


def odd_key(graph: BlockGraph) -> BlockGraph:
    return _changed(graph, add=(1, 2, "weights"))


def fed_visit(graph: BlockGraph) -> BlockGraph:
    return _changed(graph, add=(1, 2, INJECTION))


def started_by_nothing(graph: BlockGraph) -> BlockGraph:
    body = graph.with_steps([Visit("A")])
    return graph.with_steps([Loop("A", body, 2, RepeatOptions(start="zero")), Visit("B")])


def no_visits_in_place(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Visit("A", each=0), Visit("B")])


def no_body(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Loop("A", None, 2), Visit("B")])  # type: ignore[arg-type]


def missing_adapters(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps([Loop("AB", graph, 2, adapters=3)])


HANDED_IN: dict[Breaker, str] = BROKEN | {
    same_names: "2 loops are called 'AB'",
    unknown_kind: "'nothing', which does not exist",
    no_layers: "'A' has 0 layers",
    other_node: "node 1 holds str",
    no_node: "node 0 holds NoneType",
    no_visits_in_place: "each layer 0 times",
    no_body: "body of the loop 'A' is NoneType",
    missing_adapters: "'AB' has 3 adapters",
    no_keys: "must be a MultiDiGraph",
    odd_key: "not connected",
    fed_visit: "an injection leads from a visit of 'A' to a visit of 'B'",
    started_by_nothing: "not connected",
}
PUBLIC = (
    *("graph", "graph.draw", "graph.law", "cost", "layers", "backends.torch", "backends.onnx"),
    *("backends.torch.decoding", "backends.torch.memory", "backends.hf"),
)
GIVEN = {
    "seq": 4,
    "seed": 0,
    "step": 0,
    "rounds": {},
    "param_counts": {},
    "name": "A",
    "passes": (),
}


def functions_of_graphs() -> dict[str, Callable[..., object]]:
    """Every public function whose first parameter is a graph."""
    found: dict[str, Callable[..., object]] = {}
    for module in (import_module(f"rinsc.{name}") for name in PUBLIC):
        for name in getattr(module, "__all__", vars(module)):
            function = getattr(module, name)
            if not inspect.isfunction(function) or name.startswith("_"):
                continue
            first = next(iter(inspect.signature(function).parameters.values()), None)
            if first is not None and "BlockGraph" in str(first.annotation):
                found[f"{module.__name__}.{name}"] = function
    return found


@pytest.mark.parametrize("breaker", HANDED_IN, ids=lambda breaker: breaker.__name__)
def test_every_function_refuses_an_illegal_graph(breaker: Breaker) -> None:
    functions = functions_of_graphs()
    assert len(functions) > 25
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters.values()
        needed = [
            each.name
            for each in parameters
            if each.default is each.empty and each.kind is not each.VAR_KEYWORD
        ][1:]
        given = {each: GIVEN.get(each) for each in needed}
        with pytest.raises(GraphError, match=HANDED_IN[breaker]) as caught:
            pytest.fail(f"{name} gave {_whole(function(breaker(graph_of('AB')), **given))}")
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize("breaker", HANDED_IN, ids=lambda breaker: breaker.__name__)
def test_an_illegal_graph_has_a_short_text(breaker: Breaker) -> None:
    assert len(repr(breaker(graph_of("AB")))) < 100


def _whole(result: object) -> object:
    return list(result) if isinstance(result, Iterator) else result


def _changed(
    graph: BlockGraph,
    add: tuple[int, int, str] | None = None,
    remove: tuple[int, int, str] | None = None,
) -> BlockGraph:
    digraph: nx.MultiDiGraph[int] = nx.MultiDiGraph(graph.digraph)
    if add is not None:
        digraph.add_edge(*add)
    if remove is not None:
        digraph.remove_edge(*remove)
    return replace(graph, digraph=digraph)


def _injections(graph: BlockGraph) -> list[tuple[int, int]]:
    return [(source, key) for source, key, carries in graph.digraph.edges if carries == INJECTION]


@given(nested_specs(), st.data())
def test_an_injection_that_is_missing_or_misplaced_is_refused(
    spec: rinsc.ModelSpec, data: st.DataObject
) -> None:
    """The edges are those of the options that were written, and no others are legal."""
    graph = build_graph(spec)
    holders = [graph, *(loop.body for loop in graph.loops())]
    if "@" not in spec.text:
        written = len(re.findall("inject *=", spec.text))
        assert sum(len(_injections(holder)) for holder in holders) == written
    holder = data.draw(st.sampled_from(holders))
    edges, last = _injections(holder), len(holder.nodes) - 1
    fed = [(source, key, INJECTION) for source, key in edges]
    for edge in fed:
        missing = _changed(holder, remove=edge)
        with pytest.raises(GraphError, match=r"(no|an) injection leads from"):
            verified(missing)
        assert missing != holder
        for other in set(range(edge[1])) - {edge[0]}:
            moved = _changed(missing, add=(other, *edge[1:]))
            with pytest.raises(GraphError, match="an injection leads from"):
                verified(moved)
    for key in range(1, last + 1):
        if (key - 1, key) not in edges:
            added = _changed(holder, add=(key - 1, key, INJECTION))
            with pytest.raises(GraphError, match="an injection leads from"):
                verified(added)


def test_what_runs_takes_an_injection_from_its_edge() -> None:
    """Unverified, so that an edge of another node can be told from the options."""
    graph = graph_of("P(AB)^3{inject=add}")
    moved = _changed(graph, add=(0, 2, INJECTION), remove=(1, 2, INJECTION))
    classes = block_classes(graph, trace_programs(graph.spec))
    text = ["x = self.P(x, cos, sin)", "entry_ab = x"]
    for drawn, expected in ((graph, text), (moved, [*reversed(text)])):
        writer = StepWriter(drawn, classes, ("cos", "sin"))
        assert list(islice(writer.lines(drawn), 2)) == expected


def test_drawings_and_costs_take_an_injection_from_its_edge() -> None:
    """Unverified, as above."""
    graph = graph_of("P(AB)^4{inject=add, grad=2}C")
    moved = _changed(graph, add=(0, 2, INJECTION), remove=(1, 2, INJECTION))
    none = _changed(graph, remove=(1, 2, INJECTION))
    for drawn, source in ((graph, "P"), (moved, "the state that enters"), (none, None)):
        expected = None if source is None else Feed(source, alone=False)
        assert feeds(drawn).get("AB") == expected
        assert arrange(drawn).arcs[0].feed == expected
    _require_gradients(graph, {"AB": 3})
    with pytest.raises(GraphError, match="gets no gradient"):
        _require_gradients(none, {"AB": 3})


def test_two_branches_are_no_chain() -> None:
    """They were compiled one after the other."""
    for make in (rinsc.to_torch, rinsc.cost_report, causal_lm):
        with pytest.raises(GraphError, match="more than one predecessor or successor"):
            make(fork(graph_of("AB")))


def test_what_the_library_makes_is_taken() -> None:
    for text in ("A^3B", "P(A^2{adapter=scale}B)^2{inject=add}"):
        graph = graph_of(text)
        for rewritten in (graph, at_rounds(graph, 2), unroll(graph, 3)):
            assert verified(rewritten) is rewritten


def test_something_else_is_no_graph() -> None:
    with pytest.raises(GraphError, match="this needs a block graph, not ModelSpec"):
        stored_params(spec_of("AB"))  # type: ignore[arg-type]


def test_a_rule_of_an_earlier_pass_still_holds() -> None:
    with pytest.raises(GraphError, match="after 'same_names': 2 loops are called 'AB'"):
        run_passes(graph_of("ABAB"), [*PASSES, Pass(same_names, adds_dials=True)])


def test_a_pass_that_drops_a_visit_is_named() -> None:
    with pytest.raises(GraphError, match="after 'forgetful': the schedule of visits has changed"):
        run_passes(graph_of("ABAB"), [*PASSES, Pass(forgetful)])


def writes_loops_out(graph: BlockGraph) -> BlockGraph:
    return graph.with_steps(graph.visits())


def test_a_pass_that_drops_a_dial_is_named() -> None:
    with pytest.raises(GraphError, match=r"after 'writes_loops_out': .* at 1 round of every loop"):
        run_passes(graph_of("A^3B"), [*PASSES, Pass(writes_loops_out)])
    run_passes(graph_of("A^3B"), [*PASSES, Pass(writes_loops_out, adds_dials=True)])


def test_a_rule_does_not_hold_before_its_pass() -> None:
    numbered = Pass(number_loops, (loop_names_are_unique,))
    graph = run_passes(graph_of("ABAB"), [Pass(same_names, adds_dials=True), numbered])
    assert [loop.name for loop in graph.loops()] == ["AB_1", "AB_2"]


def test_loops_left_over_are_refused() -> None:
    with pytest.raises(GraphError, match="after 'unroll': the rounds of 'A' can still be set"):
        verify(graph_of("A^2B"), after="unroll", rules=(has_no_dials,))


@given(signatures(max_visits=30))
def test_what_is_built_is_legal(text: str) -> None:
    graph = graph_of(text)
    assert [list(rule(graph)) for rule in (*ALWAYS, loop_names_are_unique)] == [[]] * 5
