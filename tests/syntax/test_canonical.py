"""The canonical spelling: idempotent, and blind to names, folding, parentheses and defaults."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from rinsc.syntax import canonical, parse, to_text
from rinsc.syntax.canonical import letter_name
from tests.strategies import signatures
from tests.syntax import oracle


def _canonical(text: str) -> str:
    return canonical(parse(text))


@settings(max_examples=100)
@given(signatures(max_visits=40, options=True))
def test_idempotent(text: str) -> None:
    assert _canonical(_canonical(text)) == _canonical(text)


def _renamed(text: str, names: list[str]) -> str:
    letters = list(dict.fromkeys(re.findall("[A-Z][0-9]*", text)))
    table = dict(zip(letters, names, strict=False))
    return re.sub("[A-Z][0-9]*", lambda found: table[found[0]], text)


def _moved(text: str, places: list[int]) -> str:
    """``text`` with ``kind`` and ``tie`` of each letter at another of its mentions."""
    said = {
        letter: list(dict.fromkeys(re.findall(r"(?:kind|tie)=\w+", " ".join(lists))))
        for letter in re.findall("[A-Z][0-9]*", text)
        if (lists := re.findall(rf"{letter}(?![0-9])(?:\[\d+\])?(\{{[^}}]*\}})", text))
    }
    text = re.sub(r"(?:kind|tie)=\w+(, ?)?", "", text)
    text = re.sub(r", ?\}", "}", text).replace("{}", "")
    for (letter, options), place in zip(said.items(), places, strict=False):
        mentions = list(re.finditer(rf"{letter}(?![0-9])(?:\[\d+\])?(\{{)?", text))
        chosen = mentions[place % len(mentions)]
        added = ", ".join(options)
        if added:
            added = added + ", " if chosen[1] else "{" + added + "}"
        text = text[: chosen.end()] + added + text[chosen.end() :]
    return text


@settings(max_examples=100)
@given(signatures(max_visits=30, options=True), st.lists(st.integers(0, 9), min_size=4, max_size=4))
def test_the_place_of_an_option_of_a_block_does_not_matter(text: str, places: list[int]) -> None:
    assert _canonical(_moved(text, places)) == _canonical(text)


@settings(max_examples=200)
@given(signatures(max_visits=60, options=True), st.permutations(["A", "B", "Q7", "Z", "Z12"]))
def test_names_do_not_matter(text: str, names: list[str]) -> None:
    assert _canonical(_renamed(text, names)) == _canonical(text)


def _folding_does_not_matter(text: str, spell: Callable[[str], str]) -> bool:
    degree = re.findall("@.*", text)
    return spell("".join(oracle.word(text) + degree)) == spell(text)


@settings(max_examples=150)
@given(signatures(max_visits=60, sizes=False))
def test_folding_and_parentheses_do_not_matter(text: str) -> None:
    assert _folding_does_not_matter(text, _canonical)


def test_a_spelling_that_keeps_parentheses_is_caught() -> None:
    find(
        signatures(sizes=False),
        lambda text: not _folding_does_not_matter(text, lambda t: to_text(parse(t))),
    )


@settings(max_examples=300)
@given(st.data())
def test_equal_spellings_have_equal_words(data: st.DataObject) -> None:
    strategy = signatures(max_visits=5, letters=("A", "B"), sizes=False, degrees=False)
    first, second = data.draw(strategy), data.draw(strategy)
    numbered = [
        [list(dict.fromkeys(letters)).index(letter) for letter in letters]
        for letters in (oracle.word(first), oracle.word(second))
    ]
    assert (_canonical(first) == _canonical(second)) == (numbered[0] == numbered[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B^2 A[4] B", "A^2B[4]A"),
        ("BA[4]A[4]", "AB[4]^2"),
        ("A{each=1, reverse}", "A{reverse}"),
        ("(A^1)^3{skip=0}", "A^3"),
        ("A^3{kv=own, skip=.10, grad=3.0}", "A^3{grad=3, skip=0.1}"),
        ("XYY{tie=mlp}X{kind=gpt, reverse}", "A{kind=gpt}B{tie=mlp}^2A{reverse}"),
        ("(A^2{adapter=scale})^2", "(A^2{adapter=scale})^2"),
        ("A^2{adapter=scale}A^2{adapter=scale}", "A^2{adapter=scale}A^2{adapter=scale}"),
        ("A^2{kv=last}A^2{kv=last}", "(A^2{kv=last})^2"),
        ("A^1{skip=0.5}A", "A^2"),
        ("A^2{adapter=scale}BB@2", "A^2{adapter=scale}BB@2"),
        ("A^2{adapter=scale}(B^1)^2@2", "A^2{adapter=scale}B^2@2"),
        ("(A^2)^2{skip=0.5} (AA)^2{skip=0.5}", "((A^2)^2{skip=0.5})^2"),
        ("X^rYX^rY", "(A^rB)^2"),
        ("ABABCABABC", "((AB)^2C)^2"),
        ("XYXYX@2", "(AB)^2A@2"),
        ("A@1", "A"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert _canonical(text) == expected


def test_names_after_z_have_digits() -> None:
    assert [letter_name(index) for index in (0, 25, 26, 51, 52)] == ["A", "Z", "A1", "Z1", "A2"]
