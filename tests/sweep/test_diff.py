"""Differences: the same model exactly when fingerprints say so, figures as in cost reports."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from rinsc.cost import cost_report
from rinsc.errors import GraphError, SpecError
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, model_spec
from rinsc.sweep.diff import Difference, diff
from rinsc.sweep.schedule import executed_layers, schedule_text
from tests.specs import specs


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
    json.dumps(found.as_dict())


@given(spec=specs())
def test_a_model_is_itself(spec: ModelSpec) -> None:
    found = diff(spec, spec)
    assert found.same_model
    assert found.same_dials
    assert not found.dimensions
    assert found.shared_start == found.left.executed_layers


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


SCHEDULES = {
    "A": "1-12",
    "A^3B": "1-6 ×3, 7-12",
    "AB^3": "1-6, 7-12 ×3",
    "A{each=2}": "1-12 each ×2",
    "AA{reverse}": "1-12, 12-1",
    "A[1]^12": "1 ×12",
    "(A^2B)^2": "1-6 ×2, 7-12, 1-6 ×2, 7-12",
}


@pytest.mark.parametrize(("signature", "schedule"), SCHEDULES.items())
def test_schedules_are_short(signature: str, schedule: str) -> None:
    layers = 1 if signature == "A[1]^12" else 12
    assert diff(*[at_tiny(signature, layers=layers)] * 2).left.schedule == schedule


def written_out(text: str) -> list[int]:
    """The layers that a schedule's text stands for."""
    layers = []
    for segment in text.split(", "):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?(?: each ×(\d+))?(?: ×(\d+))?", segment)
        assert found is not None
        first, last = int(found[1]), int(found[2] or found[1])
        each, times = int(found[3] or 1), int(found[4] or 1)
        step = 1 if last >= first else -1
        once = [n for n in range(first, last + step, step) for _ in range(each)]
        layers += once * times
    return layers


small = st.lists(st.integers(1, 5), min_size=1, max_size=14)


@given(small)
def test_a_schedule_can_be_read_back(layers: list[int]) -> None:
    assert written_out(schedule_text(layers, most=100)) == layers


@given(spec=specs())
def test_the_schedule_of_a_model_can_be_read_back(spec: ModelSpec) -> None:
    layers = executed_layers(build_graph(spec))
    assert written_out(schedule_text(layers, most=1000)) == layers


def test_a_schedule_that_drops_repetitions_is_caught() -> None:
    def dropping(layers: list[int]) -> str:
        return re.sub(r" ×\d+", "", schedule_text(layers, most=100))

    find(small, lambda layers: written_out(dropping(layers)) != layers)


def test_a_long_schedule_is_cut() -> None:
    assert schedule_text([1, 3, 1, 3, 1, 3], most=2) == "1, 3, … and 4 more"


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


def test_only_specs_are_compared() -> None:
    text: Any = "AAB"
    with pytest.raises(SpecError, match="not-a-spec"):
        diff(at_tiny("A"), text)
