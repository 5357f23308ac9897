"""Whatever the notation can write, every command that only describes it can describe."""

from __future__ import annotations

import json

import pytest
from hypothesis import Phase, find, given, settings

from rinsc.cost import block_params, cost_report
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.graph.draw import FORMATS, schedule_lines, tree_lines
from rinsc.spec import ModelSpec, with_signature
from rinsc.sweep.diff import diff
from rinsc.syntax import canonical
from rinsc.syntax.options import RULES
from tests.cli.command_line import run_cli
from tests.specs import nested_specs
from tests.strategies import nested_signatures


@settings(max_examples=60)
@given(nested_specs())
def test_a_model_and_its_canonical_spelling_are_described_alike(spec: ModelSpec) -> None:
    graph, counts = build_graph(spec), block_params(build_graph(spec))
    for draw in FORMATS.values():
        assert draw(graph, counts)
    assert [*tree_lines(graph, counts), *schedule_lines(graph, 80)]
    other = with_signature(spec, canonical(spec.signature))
    assert fingerprint(other) == fingerprint(spec)
    found = diff(spec, other)
    assert found.same_model
    assert found.words()
    one, two = cost_report(spec), cost_report(other)
    assert (one.stored_params, one.executed_layers) == (two.stored_params, two.executed_layers)
    assert (one.forward_flops, one.training_flops) == (two.forward_flops, two.training_flops)


@settings(max_examples=20)
@given(nested_signatures(max_visits=12))
def test_the_commands_take_it(text: str) -> None:
    done = run_cli("check", text, "--json")
    assert done.status == 0, done.err
    spelling = json.loads(done.out)["canonical"]
    again = run_cli("check", spelling, "--json")
    assert json.loads(again.out)["fingerprint"] == json.loads(done.out)["fingerprint"]
    for command in (("show", text), ("cost", text), ("diff", text, spelling)):
        done = run_cli(*command, "--layers", "60")
        assert done.status == 0 or "layers-" in done.err, done.err


@pytest.mark.parametrize("option", [rule.name for rule in RULES])
def test_the_strategy_writes_every_option(option: str) -> None:
    only_one = settings(max_examples=500, phases=[Phase.generate])
    find(nested_signatures(), lambda text: option in text, settings=only_one)
