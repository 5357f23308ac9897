"""Equal fingerprints are the same model, different ones are not: shown by running the models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from torch import nn

from rinsc.backends.torch import to_torch
from rinsc.errors import SpecError
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.layers import layer_kind, trace_programs
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.kinds import KINDS
from rinsc.syntax import canonical, parse
from rinsc.verification import random_input
from tests.specs import specs


def executed_layers(spec: ModelSpec) -> list[int]:
    """Physical layers in order of execution, numbered by first use."""
    graph = build_graph(spec)
    numbers: dict[tuple[str, int], int] = {}
    word = [
        (visit.block, layer)
        for visit in graph.visits()
        for layer in range(graph.blocks[visit.block].layers)
    ]
    return [numbers.setdefault(place, len(numbers)) for place in word]


def share_weights(source: nn.Module, target: nn.Module) -> None:
    """Layer by layer in order of first use, whatever the blocks are called."""
    state, names = source.state_dict(), list(target.state_dict())
    target.load_state_dict(dict(zip(names, state.values(), strict=True)))


def outputs_equal(left: ModelSpec, right: ModelSpec) -> bool:
    torch.manual_seed(7)
    first, second = to_torch(left).eval(), to_torch(right).eval()  # at the rounds written
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        share_weights(first, second)
        numbers = random_input(left, batch=1, seq=9)
        return torch.equal(first(numbers), second(numbers))


# Where a block does something at its end, the layers alone do not say what a model is.
UNFRAMED = [name for name in KINDS if layer_kind(name).enter is layer_kind(name).leave is None]


# LayerNorm of two numbers has two answers, so that models of width 2 agree by chance.
WIDE = specs(kinds=UNFRAMED, head_dims=(4, 6))


@given(left=WIDE, right=WIDE)
def test_fingerprints_are_equal_exactly_when_the_models_are(
    left: ModelSpec, right: ModelSpec
) -> None:
    layers = left.layers * right.layers
    pair = []
    for spec in (left, right):
        try:
            pair.append(dataclasses.replace(left, signature=spec.signature, layers=layers))
        except SpecError as error:
            assume(error.code not in ("layers-do-not-split", "layers-mismatch"))
            raise
    same = executed_layers(pair[0]) == executed_layers(pair[1])
    assert (fingerprint(pair[0]) == fingerprint(pair[1])) == same
    if layers <= 24:
        assert outputs_equal(*pair) == same


@given(spec=specs(options=True))
def test_the_canonical_spelling_is_the_same_model(spec: ModelSpec) -> None:
    twin = dataclasses.replace(spec, signature=parse(canonical(spec.signature)))
    assert fingerprint(twin) == fingerprint(spec)
    assert outputs_equal(spec, twin)


@pytest.mark.parametrize(("own", "other"), [("hrm", "hrm_high"), ("huginn", "huginn_coda")])
def test_which_of_two_kinds_is_the_models_own_does_not_matter(own: str, other: str) -> None:
    left = model_spec(f"AB{{kind={other}}}", preset="tiny", kind=own)
    right = model_spec(f"A{{kind={own}}}B", preset="tiny", kind=other)
    assert fingerprint(left) == fingerprint(right)
    assert fingerprint(left) != fingerprint(model_spec("AB", preset="tiny", kind=own))


SAME = [
    ("ABAB", "A^2"),
    ("AB", "A"),
    ("AAAB", "(A^3)B"),
    ("A[2]B[4]A[2]B", "A^2"),
    ("(A^2)^2", "A^4"),
]
OTHER = [("AAB", "ABB"), ("A^2B", "A^3B"), ("A[2]B[4]A", "ABA"), ("AAB@2", "AAB")]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_two_spellings_of_one_model(left: str, right: str) -> None:
    pair = [model_spec(text, preset="tiny", layers=6, context=32) for text in (left, right)]
    assert fingerprint(pair[0]) == fingerprint(pair[1])
    assert outputs_equal(*pair)


@pytest.mark.parametrize(("left", "right"), OTHER)
def test_two_models(left: str, right: str) -> None:
    layers = 8 if "@" in left else 6
    pair = [model_spec(text, preset="tiny", layers=layers) for text in (left, right)]
    assert fingerprint(pair[0]) != fingerprint(pair[1])
    assert not outputs_equal(*pair)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 128},
        {"heads": 2, "kv_heads": 2},
        {"kv_heads": 4},
        {"mlp_width": 175},
        {"vocab_size": 511},
        {"context": 127},
        {"kind": "gpt"},
        {"tied_embedding": False},
        {"norm_eps": 1e-6},
        {"rope_theta": 9999.0},
        {"layers": 24},
    ],
)
def test_every_dimension_counts(change: dict[str, Any]) -> None:
    spec = model_spec("A^2B", preset="tiny")
    assert fingerprint(model_spec("A^2B", preset="tiny", **change)) != fingerprint(spec)


def test_a_whole_number_is_the_same_as_a_real_one() -> None:
    real = fingerprint(model_spec("AB", preset="tiny", rope_theta=10000.0))
    trace_programs.cache_clear()
    assert fingerprint(model_spec("AB", preset="tiny", rope_theta=10000)) == real


def test_text_has_no_fingerprint_but_a_signature_has_a_spelling() -> None:
    text: Any = "AAB"
    with pytest.raises(SpecError, match="not-a-spec"):
        fingerprint(text)
    assert canonical("AAB") == "A^2B"


def test_a_key_that_changes_nothing_does_not_count() -> None:
    left = model_spec("A^2B", preset="tiny", kind="gpt")
    right = model_spec("A^2B", preset="tiny", kind="gpt", rope_theta=5.0)
    assert fingerprint(left) == fingerprint(right)
