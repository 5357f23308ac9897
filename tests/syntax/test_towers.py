"""Several towers in one text: reading, sharing, the canonical spelling, and identity."""

from __future__ import annotations

import re

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.syntax import identity, normal_form, parse, to_text
from rinsc.syntax.canonical import canonical_towers
from rinsc.syntax.identity import Identity, identity_of_towers
from rinsc.syntax.parser import parse_towers
from rinsc.syntax.towers import bind_towers, shared_letters, tower_signatures
from rinsc.syntax.tree import Towers
from tests.strategies import nested_signatures, signatures
from tests.syntax import oracle

_PLAIN = signatures(max_visits=5, letters=("A", "B", "C"), sizes=False, degrees=False)
_ANY = st.one_of(
    signatures(max_visits=8, sizes=False, degrees=False, options=True),
    nested_signatures(max_visits=12, degrees=False).map(lambda text: re.sub(r"\[\d+\]", "", text)),
).map(lambda text: re.sub(r"@1$", "", text))
Run = list[tuple[int, int, str]]
_SIZES = {"A": 1, "B": 2, "C": 3}


def _sized(text: str) -> str:
    """The text with the size of every letter at each mention."""
    return re.sub("[A-Z]", lambda letter: f"{letter[0]}[{_SIZES[letter[0]]}]", text)


def _identity_of(towers: Towers) -> Identity:
    trees = tower_signatures(towers)
    return identity_of_towers({name: normal_form(tree) for name, tree in trees.items()}, {})


def _identity(text: str) -> Identity:
    return _identity_of(parse_towers(text))


def _layers_run(first: str, second: str) -> tuple[Run, Run]:
    """What the layers of each tower own, numbered by first use over both."""
    total = sum(_SIZES[letter] for letter in set(re.findall("[A-Z]", first + second)))
    own = sum(_SIZES[letter] for letter in set(re.findall("[A-Z]", first)))
    joint = oracle.schedule(_sized(first) + _sized(second), total)
    alone = oracle.schedule(_sized(first), own)
    assert joint is not None
    assert alone is not None
    return joint[: len(alone)], joint[len(alone) :]


def _without_degree(text: str) -> str:
    return text.partition("@")[0]


@settings(max_examples=200)
@given(st.tuples(_PLAIN, _PLAIN), st.tuples(_PLAIN, _PLAIN))
def test_equal_exactly_when_the_layers_of_both_towers_are(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    one, other = (tuple(map(_without_degree, pair)) for pair in (one, other))  # type: ignore[assignment]
    same = _layers_run(*one) == _layers_run(*other)
    texts = [f"x: {_sized(first)}, y: {_sized(second)}" for first, second in (one, other)]
    assert (_identity(texts[0]) == _identity(texts[1])) is same
    assert (_identity(texts[0]).text == _identity(texts[1]).text) is same


def test_shared_blocks_and_equal_ones_are_told_apart() -> None:
    assert _identity("x: A[2]B[1], y: A[2]C[1]") != _identity("x: A[2]B[1], y: D[2]C[1]")
    assert _identity("x: A[2]B[1], y: A[2]C[1]") == _identity("y: C[2]A[1], x: C[2]B[1]")
    assert _identity("x: A[1], y: B[1]") != _identity("x: A[1], z: B[1]")


@settings(max_examples=150)
@given(st.tuples(_ANY, _ANY))
def test_text_and_canonical_spelling_are_read_again(pair: tuple[str, str]) -> None:
    # Letters of its own for the second tower, but one: what is said of them cannot conflict.
    other = pair[1].translate(str.maketrans("ABC", "AXY")).replace("D2", "X")
    try:
        towers = parse_towers(f"text: {pair[0]}, image: {other}")
    except SignatureError as error:
        if error.code != "conflicting-options":
            raise
        return
    assert parse_towers(to_text(towers)) == towers
    spelling = canonical_towers(towers)
    again = parse_towers(spelling)
    assert canonical_towers(again) == spelling
    assert [tower.name for tower in again.towers] == ["image", "text"]
    assert _identity_of(again) == _identity_of(towers)


@settings(max_examples=100)
@given(_ANY)
def test_one_tower_is_its_signature(text: str) -> None:
    towers = parse_towers(f"only: {text}")
    (own,) = towers.signatures.values()
    assert own == parse(text)
    word = identity_of_towers({"only": normal_form(own)}, {}).word
    assert word == identity(parse(text)).word


def test_an_identity_that_takes_towers_apart_is_caught() -> None:
    def apart(pair: tuple[str, ...]) -> tuple[Identity, ...]:
        return tuple(identity(parse(_sized(text))) for text in pair)

    def is_fooled(pairs: tuple[tuple[str, str], tuple[str, str]]) -> bool:
        one, other = (tuple(map(_without_degree, pair)) for pair in pairs)
        same = _layers_run(*one) == _layers_run(*other)
        return (apart(one) == apart(other)) is not same

    short = st.sampled_from(("A", "B", "AB", "BA"))
    find(st.tuples(st.tuples(short, short), st.tuples(short, short)), is_fooled)


def test_what_is_said_of_a_letter_holds_in_every_tower() -> None:
    towers = parse_towers("image: AB, text: A[4]{tie=mlp}C^2")
    signatures_by_name = tower_signatures(towers)
    assert to_text(signatures_by_name["image"]) == "A[4]{tie=mlp}B"
    assert to_text(signatures_by_name["text"]) == "A[4]{tie=mlp}C^2"
    assert shared_letters(towers) == ("A",)
    assert canonical_towers(towers) == "image: A[4]{tie=mlp}B, text: AC^2"


def test_exponents_of_towers_are_bound_together() -> None:
    towers = parse_towers("image: A^rB, text: C^sA^r")
    bound = bind_towers(towers, {"r": 3, "s": 2})
    assert to_text(bound) == "image: A^3B, text: C^2A^3"
    with pytest.raises(SignatureError, match="its free exponents: r, s"):
        bind_towers(towers, {"r": 3, "s": 2, "t": 1})
    with pytest.raises(SignatureError, match="exponent 's' has no value"):
        bind_towers(towers, {"r": 3})


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("image: A, image: B", "duplicate-tower", "image"),
        ("image: A@2, text: A", "conflicting-degrees", "A"),
        ("image: A[3], text: A[4]", "conflicting-sizes", "A[4]"),
        ("image: A{tie=mlp}, text: A{tie=attention}", "conflicting-options", "tie=attention"),
        ("image: A[1]B@2, text: C", "layers-do-not-split", "A[1]"),
        (", ".join(f"t{n}: A" for n in range(9)), "too-many-towers", "t8"),
        ("image: A^0, text: B", "bad-power", "0"),
        ("image: A text: B", "unexpected-character", "text"),
        ("image: A, text B", "unexpected-character", "B"),
        ("image: A, text:", "unexpected-character", ":"),
        ("image A, text: B", "unexpected-character", "A"),
        ("A, B", "unexpected-character", "A"),
        ("x: A^1025, y: B", "too-many-visits", "A^1025"),
    ],
)
def test_errors_point_into_the_whole_text(text: str, code: str, part: str) -> None:
    with pytest.raises(SignatureError) as caught:
        parse_towers(text)
    span = caught.value.span
    assert caught.value.code == code
    assert caught.value.hint
    assert span is not None
    assert text[span.start : span.end] == part
    assert caught.value.problems[0].source == text


def test_one_signature_is_wanted_where_towers_are_given() -> None:
    with pytest.raises(SignatureError, match="names towers") as caught:
        parse("image: A, text: B")
    assert caught.value.code == "several-towers"
