"""Degree: counts of parts and visits, and names by path."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.syntax import expand, parse, part_sizes, substitute, to_text, visit_count
from tests.strategies import signatures


@settings(max_examples=100)
@given(signatures(max_visits=6, sizes=False, degrees=False), st.integers(1, 3))
def test_u_letters_and_n_visits_become_powers_of_them(text: str, degree: int) -> None:
    pattern = [ref.letter for ref in expand(parse(text))]
    sig = parse(f"{text.partition('@')[0]}@{degree}")
    word = [ref.letter for ref in expand(sig)]
    assert len(word) == visit_count(sig) == len(pattern) ** degree
    assert len(set(word)) == len(set(pattern)) ** degree


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("AAB@2", "Aa Aa Ab Aa Aa Ab Ba Ba Bb"),
        ("AB@3", "Aaa Aab Aba Abb Baa Bab Bba Bbb"),
        ("AB2@2", "Aa Ab2 B2a B2b2"),
    ],
)
def test_parts_are_named_by_their_path(text: str, parts: str) -> None:
    assert [ref.letter for ref in expand(parse(text))] == parts.split()


def test_the_structure_is_kept() -> None:
    assert to_text(substitute(parse("A^3B@2"))) == "(Aa^3Ab)^3(Ba^3Bb)"
    assert to_text(substitute(parse("(AB)^2"))) == "(AB)^2"


@settings(max_examples=100)
@given(signatures(max_visits=60, sizes=False))
def test_parts_are_in_order_of_first_use(text: str) -> None:
    sig = parse(text)
    used = list(dict.fromkeys(ref.letter for ref in expand(sig)))
    assert list(part_sizes(sig, 1000 * len(used))) == used


def test_options_of_a_block_wait_for_a_version_that_defines_them() -> None:
    with pytest.raises(SignatureError) as caught:
        substitute(parse("A{reverse}B@2"))
    assert caught.value.code == "not-supported-yet"
