"""Differences: the same model exactly when fingerprints say so, figures as in cost reports."""

from __future__ import annotations

import json
import re
import sys
from array import array
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from rinsc.cost import cost_report
from rinsc.errors import GraphError, SpecError
from rinsc.extras import zoo_dir
from rinsc.fingerprints import fingerprint
from rinsc.graph import BlockGraph, Loop, build_graph
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import canonical, parse
from rinsc.variants.diff import Difference, diff
from rinsc.variants.executed import schedule_text, turned_layers
from tests.specs import nested_specs, specs


def at_tiny(signature: str, **changes: Any) -> ModelSpec:
    return model_spec(signature, preset="tiny", **changes)


def compare(left: str, right: str) -> Difference:
    return diff(at_tiny(left), at_tiny(right))


@pytest.mark.parametrize(
    ("left", "right", "same_model", "same_dials"),
    [
        ("AB", "A", True, True),
        ("(AB)^2", "A^2", True, True),
        ("ABAB", "A^2", True, False),
        ("A^2A", "A^3", True, False),
        ("A[2]B[10]", "A", True, True),
        ("(AB)^2ABC", "AB(AB)^2C", True, True),
        ("(AB)^2CABAB", "ABABC(AB)^2", True, False),
        ("A^2{skip=0}", "A^2", True, True),
        ("A^2B", "AB^2", False, False),
        ("A^3{skip=0.5}B", "A^3B", False, False),
        ("A{each=2}", "A^2", False, False),
    ],
)
def test_same_model_and_same_dials(
    left: str, right: str, same_model: bool, same_dials: bool
) -> None:
    found = compare(left, right)
    assert (found.same_model, found.same_dials) == (same_model, same_dials)
    words = " ".join(found.words())
    assert ("are the same model" in words) == same_model
    assert ("dials differ" in words) == (same_model and not same_dials)


@given(left=specs(), right=specs())
def test_it_says_what_fingerprints_and_reports_say(left: ModelSpec, right: ModelSpec) -> None:
    found = diff(left, right)
    assert found.same_model == (fingerprint(left) == fingerprint(right))
    for side, spec in ((found.left, left), (found.right, right)):
        report = cost_report(spec)
        assert side.parameters == report.stored_params
        assert side.executed_layers == report.executed_layers
        assert side.forward_flops_per_token == report.forward_flops_per_token
        assert side.training_flops_per_token == report.training_flops_per_token
        assert side.kv_bytes_per_token == report.memory.kv_bytes_per_token
        assert side.expected_rounds == report.expected_rounds
    assert (found.shared_start is None) == bool(set(found.dimensions) - {"layers"})
    json.dumps(found.as_dict())


@given(spec=specs())
def test_a_model_is_itself(spec: ModelSpec) -> None:
    found = diff(spec, spec)
    assert found.same_model
    assert found.same_dials
    assert not found.dimensions
    assert found.shared_start == found.left.executed_layers


@given(spec=specs(options=True))
def test_another_spelling_runs_alike_to_the_end(spec: ModelSpec) -> None:
    twin = replace(spec, signature=parse(canonical(spec.signature)))
    found = diff(spec, twin)
    assert found.shared_start == found.left.executed_layers == found.right.executed_layers


def test_the_words_of_two_models() -> None:
    assert compare("A^2B", "AB^2").words() == [
        "A^2B and AB^2 are different models.",
        "They part ways after 6 layers.",
        "They have as many parameters.",
        "They cost the same to train.",
    ]
    assert compare("A^3{skip=0.5}", "A^3").words()[1:] == [
        "They run the same layers in the same order, with other options.",
        "They have as many parameters.",
    ]
    wide = diff(at_tiny("A"), at_tiny("A", width=128))
    assert wide.words()[1] == "width is 64 and 128."
    assert wide.dimensions == {"width": (64, 128)}


@pytest.mark.parametrize(
    ("left", "right", "shared"),
    [
        ("AB", "A", 12),
        ("A", "A^2", 12),
        ("A^2B", "AB^2", 6),
        ("A[4]BA[4]", "AB[4]A", 16),
        ("A{reverse}", "A", 12),
        ("AA{reverse}", "AA", 12),
        ("A{each=2}", "A", 1),
        ("AB", "A{kind=gpt}BA", 0),
        ("AB", "AB{kind=gpt}", 6),
        ("A", "A{tie=mlp}A", 0),
        ("AB", "AB{tie=mlp}", 6),
        ("A{tie=mlp}", "A{tie=attention}", 0),
        ("A", "A^3{adapter=linear}", 0),
        ("AB", "AB^2{adapter=scale}", 6),
        ("A^2{adapter=lora(2)}", "A^2{adapter=lora(4)}", 0),
        ("A^2{adapter=gate}", "A^2", 12),
        ("A^3{adapter=scale}", "A^3{adapter=scale, adapter_by=count}", 0),
        ("(A^2{adapter=scale})^2", "A^2{adapter=scale}A^2{adapter=scale}", 24),
        ("A^2{inject=add}", "A^2", 0),
        ("AB^2{inject=gate}", "AB^2{inject=add}", 6),
        ("AA^2{inject=add}", "A^3", 12),
        ("A^2{inject=add, init=zero}", "A^2{inject=add}", 0),
        ("A^2{kv=first}", "A^2", 12),
        ("A^2{kv=last}", "A^2", 0),
        ("A^3{skip=0.5}", "A^3", 36),
    ],
)
def test_how_long_two_models_run_alike(left: str, right: str, shared: int) -> None:
    assert compare(left, right).shared_start == compare(right, left).shared_start == shared


def test_blocks_that_do_more_than_their_layers_part_ways_between_them() -> None:
    found = diff(at_tiny("AB", kind="ouro"), at_tiny("A", kind="ouro"))
    assert not found.same_model
    assert found.shared_start == 6


def test_the_words_for_how_long_they_run_alike() -> None:
    assert "They differ from the first layer on." in compare("A", "A{tie=mlp}A").words()
    assert "They part ways after 1 layer." in compare("A{each=2}", "A").words()
    files = (model_spec(zoo_dir() / f"{name}.toml") for name in ("gpt2", "tinyllama"))
    words = " ".join(diff(*files).words())
    assert "part ways" not in words
    assert "first layer" not in words
    assert "same layers" not in words


words_of_blocks = st.text("ABC", min_size=1, max_size=6)


def common_start(left: list[object], right: list[object]) -> int:
    pairs = zip([*left, "end"], [*right, "end"], strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), len(left))


def by_first_use(layers: list[int]) -> list[object]:
    numbers: dict[int, int] = {}
    return [numbers.setdefault(layer, len(numbers)) for layer in layers]


@given(words_of_blocks, words_of_blocks)
def test_plain_words_run_alike_as_long_as_their_layers_do(left: str, right: str) -> None:
    layers = [by_first_use(layers_of(build_graph(at_tiny(word)))) for word in (left, right)]
    assert compare(left, right).shared_start == common_start(*layers)


def test_letters_instead_of_layers_are_caught() -> None:
    pairs = st.tuples(words_of_blocks, words_of_blocks)
    find(pairs, lambda p: compare(*p).shared_start != common_start(list(p[0]), list(p[1])))


SCHEDULES = {
    "A": "0-11",
    "A^3B": "0-5 ×3, 6-11",
    "AB^3": "0-5, 6-11 ×3",
    "ABAB": "0-11 ×2",
    "A{each=2}": "0-11 each ×2",
    "AA{reverse}": "0-11, 11-0",
    "ABB{reverse}A{reverse}": "0-11, 11-0",
    "A[1]^12": "0 ×12",
    "P[1]A[2]^3C[4]": "0, 1-2 ×3, 3-6",
    "A[1](B[1]C[1])^2A": "0, 1-2 ×2, 0",
    "A^2A": "0-11 ×3",
    "(A^2B)^2": "(0-5 ×2, 6-11) ×2",
    "(AB)^2ABC": "0-7 ×3, 8-11",
}


@pytest.mark.parametrize(("signature", "schedule"), SCHEDULES.items())
def test_schedules_are_short(signature: str, schedule: str) -> None:
    layers = {"A[1]^12": 1, "P[1]A[2]^3C[4]": 7, "A[1](B[1]C[1])^2A": 3}.get(signature, 12)
    assert diff(*[at_tiny(signature, layers=layers)] * 2).left.schedule == schedule


def layers_of(graph: BlockGraph) -> list[int]:
    """The layers that run, numbered as blocks are first used and layers stand in them."""
    starts, total = {}, 0
    for name, block in graph.blocks.items():
        starts[name], total = total, total + block.layers
    layers = []
    for visit in graph.visits():
        own = range(graph.blocks[visit.block].layers)
        for layer in reversed(own) if visit.reverse else own:
            layers += [starts[visit.block] + layer] * visit.each
    return layers


def written_out(text: str) -> list[int]:
    """The layers that a schedule's text stands for."""
    layers: list[int] = []
    while text:
        if text.startswith("("):
            end = closing(text)
            once, text = written_out(text[1:end]), text[end + 1 :]
        else:
            found = re.match(r"(\d+)(?:-(\d+))?(?: each ×(\d+))?", text)
            assert found is not None
            first, last, each = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
            step = 1 if last >= first else -1
            once = [n for n in range(first, last + step, step) for _ in range(each)]
            text = text[found.end() :]
        times = re.match(r"(?: ×(\d+))?(?:, )?", text)
        assert times is not None
        layers += once * int(times[1] or 1)
        text = text[times.end() :]
    return layers


def closing(text: str) -> int:
    """Where the parenthesis closes that the text opens with."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index
    raise AssertionError(text)


@given(spec=specs(options=True))
def test_a_schedule_can_be_read_back(spec: ModelSpec) -> None:
    graph = build_graph(spec)
    assert written_out(schedule_text(graph, most=1 << 20)) == layers_of(graph)


def test_a_schedule_that_drops_repetitions_is_caught() -> None:
    def dropping(spec: ModelSpec) -> str:
        return re.sub(r" ×\d+", "", schedule_text(build_graph(spec), most=1 << 20))

    find(specs(), lambda spec: written_out(dropping(spec)) != layers_of(build_graph(spec)))


def test_a_long_schedule_is_cut() -> None:
    graph = build_graph(at_tiny("ACBCACABC(ABCACBA)^2"))
    assert schedule_text(graph, most=2) == "0-3, 4-7, … and 8 more"
    nested = "A"
    for letter in "BCDEFG":
        nested = f"({nested}{letter}A{letter})^2"
    assert len(schedule_text(build_graph(at_tiny(nested)), most=8)) < 300


def test_a_schedule_beyond_bounds_is_refused_at_once() -> None:
    endless = at_tiny("A[9999]^1024", layers=9999)
    with pytest.raises(GraphError, match="too-many-layers"):
        diff(at_tiny("A"), endless)


def test_many_dials_are_compared_in_time_and_listed_in_short() -> None:
    left = "".join(f"A{i}^2" for i in range(200))
    right = "".join(f"B{i}B{i}" for i in range(200))
    found = diff(at_tiny(left, layers=200), at_tiny(right, layers=200))
    assert found.same_model
    assert found.same_dials
    other = diff(at_tiny(left, layers=200), at_tiny(left.replace("A7^2", "A7"), layers=200))
    assert not other.same_model


def layers_at(graph: BlockGraph, rounds: Mapping[str, int]) -> list[tuple[str, int]]:
    """The layers that run at these rounds, one by one."""
    found: list[tuple[str, int]] = []
    for step in graph.steps():
        if isinstance(step, Loop):
            found += layers_at(step.body, rounds) * rounds[step.name]
        else:
            layers = list(range(graph.blocks[step.block].layers))
            order = layers[::-1] if step.reverse else layers
            found += [(step.block, layer) for layer in order for _ in range(step.each)]
    return found


@given(spec=nested_specs())
def test_the_layers_of_a_turned_dial_are_those_that_run(spec: ModelSpec) -> None:
    graph = build_graph(spec)
    written = {loop.name: loop.rounds for loop in graph.dials()}
    turned = {loop.name: layers for loop, layers in turned_layers(graph)}
    assert list(turned) == list(written)
    for name, rounds in written.items():
        run = layers_at(graph, {**written, name: rounds - 1 if rounds > 1 else 2})
        first = list(dict.fromkeys(run))
        assert array("L", turned[name]).tolist() == [first.index(layer) for layer in run]


def calls_to_compare(dials: int) -> int:
    """Calls of Python functions in the comparison of two models of so many dials."""
    names = [f"{chr(65 + index % 26)}{index // 26 or ''}" for index in range(dials)]
    pair = [
        at_tiny("".join(f"{name}^2" for name in order), layers=2 * dials)
        for order in (names, names[::-1])
    ]
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        same_dials = diff(*pair).same_dials
    finally:
        sys.setprofile(None)
    assert same_dials
    return calls


def test_the_work_grows_as_the_dials_do() -> None:
    """Four times the dials take four times the calls; written out one by one, sixteen times."""
    calls_to_compare(8)  # what is worked out once
    few, many = calls_to_compare(128), calls_to_compare(512)
    assert many < 5 * few


def test_only_specs_are_compared() -> None:
    text: Any = "AAB"
    with pytest.raises(SpecError, match="not-a-spec"):
        diff(at_tiny("A"), text)
