"""Whatever the notation can write, every command that only describes it can describe."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, find, given, settings

from rinsc.cost import block_params, cost_report
from rinsc.errors import RinscError
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.graph.draw import FORMATS, schedule_lines, tree_lines
from rinsc.spec import ModelSpec, model_spec, with_signature
from rinsc.syntax import canonical
from rinsc.syntax.options import RULES
from rinsc.variants.diff import diff
from tests.cli.command_line import run_cli
from tests.specs import damaged_tomls, nested_specs
from tests.strategies import nested_signatures


def describe(spec: ModelSpec) -> None:
    """Every description of a model, and of its canonical spelling; they must say the same."""
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


@settings(max_examples=60)
@given(nested_specs())
def test_a_model_and_its_canonical_spelling_are_described_alike(spec: ModelSpec) -> None:
    describe(spec)


def read(data: bytes, folder: Path) -> None:
    """A file of a spec, damaged or not, ends as a spec that can be described or as one error."""
    path = folder / "model.toml"
    path.write_bytes(data)
    found: RinscError | None = None
    try:
        assert cost_report(model_spec(path)).stored_params > 0
    except RinscError as error:
        found = error
    assert found is None or all(problem.hint for problem in found.problems)
    assert found is None or len(str(found)) < 10_000


@settings(max_examples=150)
@given(damaged_tomls())
def test_a_damaged_file_is_a_spec_or_one_error(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        read(data, Path(folder))


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


def test_a_file_of_many_or_of_endless_keys_is_told_of_in_short(tmp_path: Path) -> None:
    endless = "k" * 5000
    read(f"{endless} = 1\nkind = '{endless}'\npreset = '{endless}'\n".encode(), tmp_path)
    read("".join(f"key{number} = 1\n" for number in range(5000)).encode(), tmp_path)
