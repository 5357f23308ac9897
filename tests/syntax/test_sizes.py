"""Layers of each part, against a count of the layers in the schedule."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.syntax import parse, part_sizes
from tests.strategies import layers_that_split, letter_sizes, signatures
from tests.syntax import oracle


@settings(max_examples=200)
@given(signatures(max_visits=40), st.integers(1, 3))
def test_the_parts_hold_all_layers(text: str, rounds: int) -> None:
    layers = layers_that_split(text, rounds)
    sizes = part_sizes(parse(text), layers)
    assert sum(sizes.values()) == layers
    assert list(sizes) == list(dict.fromkeys(oracle.visits(text)))
    schedule = oracle.schedule(text, layers)
    assert schedule is not None
    assert len(schedule) == sum(sizes[part] for part in oracle.visits(text))


@settings(max_examples=200)
@given(signatures(max_visits=40), st.integers(1, 40))
def test_an_error_exactly_where_the_layers_do_not_split(text: str, layers: int) -> None:
    try:
        part_sizes(parse(text), layers)
        splits = True
    except SignatureError as error:
        splits = False
        for hinted in re.findall(r"\d+(?= or| layers)", error.hint or ""):
            part_sizes(parse(text), int(hinted))
    assert splits == (oracle.schedule(text, layers) is not None)


@settings(max_examples=50)
@given(signatures(max_visits=20))
def test_layers_may_be_left_out_when_every_letter_is_sized(text: str) -> None:
    if None in letter_sizes(text).values():
        with pytest.raises(SignatureError) as caught:
            part_sizes(parse(text), None)
        assert caught.value.code == "layers-missing"
    else:
        assert part_sizes(parse(text), None) == part_sizes(parse(text), layers_that_split(text))


@pytest.mark.parametrize(
    ("text", "layers", "code", "message", "hint"),
    [
        (
            "AB",
            7,
            "layers-do-not-split",
            "cannot split 7 layers evenly over 2 blocks",
            "6 or 8 layers would work",
        ),
        (
            "AB",
            1,
            "layers-do-not-split",
            "cannot split 1 layer evenly over 2 blocks",
            "2 layers would work",
        ),
        (
            "A[4]B",
            4,
            "layers-do-not-split",
            "the sizes leave no layers of 4 for the letters without one",
            "5 layers would work",
        ),
        (
            "A[4]BC",
            9,
            "layers-do-not-split",
            "the sizes leave 5 of 9 layers, which cannot be split evenly over 2 blocks",
            "8 or 10 layers would work",
        ),
        (
            "AB@2",
            6,
            "layers-do-not-split",
            "cannot split 6 layers evenly over 4 parts",
            "4 or 8 layers would work",
        ),
        (
            "A[4]B[2]",
            5,
            "layers-mismatch",
            "the sizes add up to 6 layers, not to 5",
            "set layers to 6, or change the sizes",
        ),
        (
            "A",
            None,
            "layers-missing",
            "the number of layers is not set",
            "set layers, or give every letter a size",
        ),
        ("A", 0, "bad-layers", "a model has at least 1 layer", "give a larger number"),
    ],
)
def test_errors(text: str, layers: int | None, code: str, message: str, hint: str | None) -> None:
    with pytest.raises(SignatureError) as caught:
        part_sizes(parse(text), layers)
    error = caught.value
    assert (error.code, error.message, error.hint) == (code, message, hint)
    assert error.span is not None
