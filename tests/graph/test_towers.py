"""Graphs of several towers: the graph of all, its rules, rounds, costs and drawings."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given, settings

from rinsc import RinscError, TowersSpec, build_graph, model_spec, to_torch, towers_spec
from rinsc.cost import (
    block_params,
    cost_report,
    forward_flops,
    stored_params,
    training_flops,
)
from rinsc.graph import Input, Join, Loop, Output, TowersGraph, tower_rounds, with_join
from rinsc.graph.draw import schedule_lines, to_dot, to_json, to_mermaid, to_svg, tree_lines
from rinsc.graph.law import draw_rounds, drawn_loops
from rinsc.graph.nodes import INJECTION, STATE
from rinsc.graph.towers_graph import several_tower_rounds, verified_towers
from rinsc.training.config import TrainConfig
from rinsc.training.optimizer import build_optimizer
from tests.specs import tower_specs

TEXT = "image: A^2B, text: A(CD)^3{inject=add, init=zero}C"
TABLES: dict[str, dict[str, object]] = {"image": {"layers": 8}, "text": {"layers": 12}}


def graph_of(text: str = TEXT, towers: dict[str, dict[str, object]] = TABLES) -> TowersGraph:
    return build_graph(towers_spec(text, preset="tiny", towers=towers))


@settings(max_examples=60)
@given(tower_specs())
def test_the_graph_holds_the_chain_of_each_tower(spec: TowersSpec) -> None:
    graph = build_graph(spec)
    assert nx.is_directed_acyclic_graph(graph.digraph)
    nodes = {key: data["node"] for key, data in graph.digraph.nodes(data=True)}
    assert {n.name for n in nodes.values() if isinstance(n, Input)} == set(spec.towers)
    assert {n.name for n in nodes.values() if isinstance(n, Output)} == set(spec.towers)
    for name, tower in spec.towers.items():
        alone = build_graph(tower)
        assert list(graph.towers[name].steps()) == list(alone.steps())
        own = [nodes[name, key] for key in range(len(alone.nodes))]
        assert own[1:-1] == list(alone.steps())
        for place, node in enumerate(own[1:], start=1):
            carried = set(graph.digraph.get_edge_data((name, place - 1), (name, place)) or ())
            options = node.options if isinstance(node, Loop) else None
            expected = {STATE} if options is None or options.start == "carry" else set()
            expected |= {INJECTION} if options is not None and options.inject else set()
            assert carried == expected
    names = [name for name, _ in graph.dials()]
    assert len(names) == len(set(names))


def test_one_dial_or_all_of_them() -> None:
    graph = graph_of()
    assert [name for name, _ in graph.dials()] == ["image.A", "text.CD"]
    assert tower_rounds(graph, None) == {"image": {"A": 2}, "text": {"CD": 3}}
    assert tower_rounds(graph, 4) == {"image": {"A": 4}, "text": {"CD": 4}}
    assert tower_rounds(graph, {"text.CD": 1}) == {"image": {"A": 2}, "text": {"CD": 1}}
    assert tower_rounds(graph, {"CD": 1}) == tower_rounds(graph, {"text.CD": 1})
    for wrong in ({"C": 1}, {"text.A": 1}, {"text.CD": 0}, 1.5, {"image.A": 5000}):
        with pytest.raises(RinscError) as caught:
            tower_rounds(graph, wrong)  # type: ignore[arg-type]
        assert caught.value.code in ("unknown-repeat", "bad-rounds")
    with pytest.raises(RinscError):
        tower_rounds(build_graph(towers_spec("a: A, b: B")), 2)
    with pytest.raises(RinscError, match="'A' is not a repeat of these towers"):
        tower_rounds(build_graph(towers_spec("a: A^2, b: A^2")), {"A": 3})


def test_several_rounds_of_towers() -> None:
    graph = graph_of()
    written = {"image.A": 2, "text.CD": 3}
    assert several_tower_rounds(graph, "A=1..2", written) == [{**written, "image.A": 1}, written]
    assert several_tower_rounds(graph, [1, {"text.CD": 2}], written) == [
        dict.fromkeys(written, 1),
        {**written, "text.CD": 2},
    ]


def rewired(graph: TowersGraph, change: Callable[[Any], None]) -> TowersGraph:
    digraph: Any = nx.MultiDiGraph(graph.digraph)
    change(digraph)
    return replace(graph, digraph=digraph)


def other_block(_: TowersGraph) -> TowersGraph:
    graph = graph_of("image: A[4]B, text: AC")
    text = graph.towers["text"]
    blocks = dict(text.blocks) | {"A": replace(text.blocks["A"], layers=3)}
    return replace(graph, towers=dict(graph.towers) | {"text": replace(text, blocks=blocks)})


BROKEN: dict[str, Callable[[TowersGraph], TowersGraph]] = {
    "has a cycle": lambda graph: rewired(graph, lambda d: d.add_edge(("text", 2), ("text", 1))),
    "edges of the tower 'image'": lambda graph: rewired(
        graph, lambda d: d.add_edge(("image", 1), ("text", 2))
    ),
    "edges of the tower 'text'": lambda graph: rewired(
        graph, lambda d: d.remove_edge(("text", 1), ("text", 2))
    ),
    "nodes of the tower 'text'": lambda graph: rewired(
        graph, lambda d: d.add_node(("text", 0), node=Input("image"))
    ),
    "belongs to no tower": lambda graph: rewired(
        graph, lambda d: d.add_node(("sound", 0), node=Input("sound"))
    ),
    "fewer than two towers": lambda graph: rewired(
        graph,
        lambda d: (
            d.add_node(("join", 0), node=Join("pairs")) or d.add_edge(("image", 3), ("join", 0))
        ),
    ),
    "before its output": lambda graph: rewired(
        graph,
        lambda d: (
            d.add_node(("join", 0), node=Join("pairs"))
            or d.add_edge(("image", 3), ("join", 0))
            or d.add_edge(("text", 1), ("join", 0))
        ),
    ),
    "'A' of 'text' differs": other_block,
    "are not those of the spec": lambda graph: replace(
        graph, towers={"image": graph.towers["image"]}
    ),
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_a_graph_that_breaks_a_rule_is_refused(complaint: str) -> None:
    with pytest.raises(RinscError, match=re.escape(complaint)) as caught:
        verified_towers(BROKEN[complaint](graph_of()))
    assert caught.value.code == "broken-graph"


def test_a_join_of_both_outputs_is_a_legal_graph() -> None:
    def join(digraph: Any) -> None:
        digraph.add_node(("join", 0), node=Join("pairs"))
        digraph.add_edge(("image", 3), ("join", 0))
        digraph.add_edge(("text", 4), ("join", 0))

    graph = graph_of()
    assert len(graph.towers["image"].nodes) == 4
    verified_towers(rewired(graph, join))


@settings(max_examples=30)
@given(tower_specs())
def test_costs_are_those_of_the_towers_and_shared_blocks_count_once(spec: TowersSpec) -> None:
    report = cost_report(spec)
    assert report.towers == {name: cost_report(tower) for name, tower in spec.towers.items()}
    for figure in ("executed_params", "executed_layers", "forward_flops", "training_flops"):
        assert getattr(report, figure) == sum(getattr(r, figure) for r in report.towers.values())
    twice = sum(block_params(build_graph(spec.specs[1]))[block] for block in spec.shared_blocks)
    assert report.stored_params == sum(r.stored_params for r in report.towers.values()) - twice
    json.dumps(report.as_dict())


def test_rounds_and_lengths_reach_every_tower() -> None:
    report = cost_report(graph_of(), seq=7, rounds={"image.A": 5})
    assert [each.seq for each in report.towers.values()] == [7, 7]
    assert report.towers["image"].rounds == {"A": 5}
    with pytest.raises(RinscError) as caught:
        cost_report(graph_of(), seq=10_000)
    assert caught.value.code == "beyond-context"


@settings(max_examples=30)
@given(tower_specs())
def test_every_drawing_shows_every_tower_and_each_block_once(spec: TowersSpec) -> None:
    graph = build_graph(spec)
    counts = {n: c for each in graph.towers.values() for n, c in block_params(each).items()}
    for draw in (to_svg, to_mermaid, to_dot, to_json):
        text = draw(graph, counts)
        assert "image" in text
        assert "text" in text
    tree = "\n".join(tree_lines(graph, counts))
    for name in graph.blocks:
        drawn = re.findall(rf"─ {name}  .*", tree)
        assert [" shared" in line for line in drawn] == [False] + [True] * (len(drawn) - 1)
    document = json.loads(to_json(graph, counts))
    assert list(document["towers"]) == list(spec.towers)
    assert document["shared"] == list(spec.shared_blocks)
    assert "image" in schedule_lines(graph)


def test_drawings_of_one_tower_stay_what_they_were() -> None:
    graph = build_graph(model_spec("(A^3)B", preset="tiny"))
    document = json.loads(to_json(graph, block_params(graph)))
    assert list(document) == ["format", "version", "signature", "blocks", "steps", "totals"]
    assert "input([" in to_mermaid(graph, block_params(graph))


def test_a_join_is_drawn_and_checked_and_costs_nothing() -> None:
    plain = graph_of()
    graph = with_join(plain, "pairs")
    assert graph.joins == {"pairs": ("image", "text")}
    assert graph != plain
    assert graph == with_join(graph_of(), "pairs", ["text", "image"])
    counts = {name: n for t in graph.towers.values() for name, n in block_params(t).items()}
    assert "pairs joins image, text" in "\n".join(tree_lines(graph, counts))
    assert "pairs joins image, text" in to_svg(graph, counts)
    assert to_mermaid(graph, counts).count("--> join_pairs") == 2
    assert to_dot(graph, counts).count("-> join_pairs") == 2
    assert json.loads(to_json(graph, counts))["joins"] == {"pairs": ["image", "text"]}
    assert "joins" not in json.loads(to_json(plain, counts))
    assert cost_report(graph) == cost_report(plain)
    again = pickle.loads(pickle.dumps(to_torch(graph)))
    assert again.graph.joins == graph.joins
    ids = {name: torch.zeros(1, 3, dtype=torch.long) for name in graph.towers}
    assert set(again(**ids)) == {"image", "text"}
    for name, towers in (
        *(("pairs", ["image"]), ("pairs", ["image", "image"]), ("pairs", ["image", "sound"])),
        *(("image", None), ("not a name", None)),
    ):
        with pytest.raises(RinscError) as caught:
            with_join(plain, name, towers)
        assert caught.value.hint
    with pytest.raises(RinscError, match="cannot be called"):
        with_join(graph, "pairs")


def test_costs_draws_and_groups_of_towers_are_those_of_each_tower() -> None:
    """What training reads of a graph, of towers too: blocks that they share count once."""
    spec = towers_spec("x: A[1]^3{skip=0.5}B[1], y: A[1]C[1]^2{adapter=scale}", preset="tiny")
    graph, towers = build_graph(spec), build_graph(spec).towers
    report = cost_report(graph, batch=1)
    assert training_flops(graph, 10**6) == training_flops(spec, 10**6) == report.training_flops
    assert forward_flops(graph, spec.context).total == report.forward_flops
    at_two = sum(training_flops(t, 128, rounds=2) for t in towers.values())
    assert training_flops(spec, 128, rounds=2) == at_two
    module = to_torch(spec)
    assert stored_params(graph) == sum(p.numel() for p in module.parameters())
    assert [loop.name for loop in drawn_loops(graph)] == ["x.A"]
    draws = [draw_rounds(graph, seed=1, step=step) for step in range(20)]
    assert {draw["y.C"] for draw in draws} == {2}
    assert {draw["x.A"] for draw in draws} == {1, 2, 3}
    config = TrainConfig(learning_rate_visits_power=1.0, optimizer="muon")
    groups = build_optimizer(module, graph, config).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in module.parameters()}
    visits = {"x.A.": 4, "x.B.": 1, "y.C.": 2}  # of A in both towers
    for name, parameter in module.named_parameters():
        expected = next((n for start, n in visits.items() if name.startswith(start)), 1)
        assert rates[id(parameter)] == pytest.approx(config.learning_rate / expected), name
    adapters = [p for name, p in module.named_parameters() if "loop_C" in name]
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert adapters
    assert not any(id(adapter) in decayed for adapter in adapters)
