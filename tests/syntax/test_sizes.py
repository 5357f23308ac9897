"""Layers of each part, against a count of the layers in the schedule."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.syntax import normal_form, parse, part_sizes
from tests.strategies import layers_that_split, letter_sizes, signatures
from tests.syntax import oracle


@settings(max_examples=200)
@given(signatures(max_visits=40), st.integers(1, 3))
def test_the_parts_hold_all_layers(text: str, rounds: int) -> None:
    layers = layers_that_split(text, rounds)
    sizes = part_sizes(parse(text), layers)
    assert sum(sizes.values()) == layers
    assert list(sizes) == list(dict.fromkeys(oracle.parts(text)))
    schedule = oracle.schedule(text, layers)
    assert schedule is not None
    assert len(schedule) == sum(sizes[part] for part in oracle.parts(text))


_Sizes: TypeAlias = Callable[[str, int], dict[str, int]]


def _agrees(text: str, layers: int, sizes: _Sizes) -> bool:
    """Whether ``sizes`` are those of handing out layer by layer, or fail where it does."""
    expected = oracle.sizes(text, layers)
    try:
        found = list(sizes(text, layers).items())
    except SignatureError as error:
        for hinted in re.findall(r"\d+(?= layers? or more)", error.hint or ""):
            part_sizes(parse(text), int(hinted))
        return expected is None
    return expected is not None and found == list(expected.items())


_DRAWN = st.tuples(signatures(max_visits=10, block_options=True), st.integers(1, 20))


@settings(max_examples=200)
@given(_DRAWN)
def test_sizes_are_those_of_handing_out_layer_by_layer(drawn: tuple[str, int]) -> None:
    text, layers = drawn
    assert _agrees(text, layers, lambda text, layers: part_sizes(parse(text), layers))


def test_other_orders_are_caught() -> None:
    def backwards(text: str, layers: int) -> dict[str, int]:
        sizes = part_sizes(parse(text), layers)
        return dict(zip(sizes, reversed(sizes.values()), strict=True))

    few = signatures(max_visits=4, degrees=False)
    find(few, lambda text: not _agrees(text, layers_that_split(text) + 1, backwards))


@settings(max_examples=100)
@given(_DRAWN)
def test_strict_refuses_exactly_what_does_not_divide(drawn: tuple[str, int]) -> None:
    text, layers = drawn
    sig = parse(text)
    try:
        sizes = part_sizes(sig, layers, strict=True)
    except SignatureError as error:
        assert not oracle.divides(text, layers)
        for hinted in re.findall(r"\d+(?= or \d| layers)", error.hint or ""):
            part_sizes(sig, int(hinted))
    else:
        assert oracle.divides(text, layers)
        assert sizes == part_sizes(sig, layers)
        assert normal_form(sig, layers).uneven is None


@pytest.mark.parametrize(
    ("text", "layers", "words"),
    [
        ("ABCD", 10, "10 layers over 4 blocks: A 3, B 3, C 2, D 2"),
        ("A[4]BC", 9, "5 layers over 2 blocks: B 3, C 2"),
        ("A[3]B@2", 8, "3 layers of A over 2 parts: Aa 2, Ab 1; 5 layers over 2 parts: Ba 3, Bb 2"),
        ("A{reverse}B@2", 6, "6 layers over 4 parts: Ab 2, Aa 2, Ba 1, Bb 1"),
        (
            "AB@4",
            17,
            "17 layers over 16 parts: Aaaa 2, Aaab 1, Aaba 1, Aabb 1, Abaa 1, Abab 1, Abba 1, "
            "Abbb 1, Baaa 1, Baab 1, Baba 1, ...",
        ),
        ("ABCD", 12, None),
    ],
)
def test_message_on_an_uneven_split(text: str, layers: int, words: str | None) -> None:
    assert normal_form(parse(text), layers).uneven == words


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
            "1 layer cannot be split over 2 blocks",
            "2 layers or more would work",
        ),
        (
            "A[4]B",
            4,
            "layers-do-not-split",
            "the sizes leave 0 of 4 layers, too few for 1 block",
            "5 layers or more would work",
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
        (
            "A[3]B@2",
            5,
            "layers-do-not-split",
            "cannot split the 3 layers of A evenly over its 2 parts at degree 2",
            "write a multiple of 2: A[4]",
        ),
        (
            "AB@3",
            4,
            "layers-do-not-split",
            "4 layers cannot be split over 8 parts",
            "8 layers or more would work",
        ),
        ("A", 0, "bad-layers", "a model has at least 1 layer", "give a larger number"),
    ],
)
def test_errors(text: str, layers: int | None, code: str, message: str, hint: str | None) -> None:
    with pytest.raises(SignatureError) as caught:
        part_sizes(parse(text), layers, strict=True)
    error = caught.value
    assert (error.code, error.message, error.hint) == (code, message, hint)
    assert error.span is not None
