"""Degree: counts of parts and visits, and names by path."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.syntax import expand, normal_form, parse, part_sizes, substitute, to_text, visit_count
from tests.strategies import signatures
from tests.syntax import oracle


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


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        ("A{each=2}B{each=3}@2", "(Aa{each=4}Ab{each=6})(Ba{each=6}Bb{each=9})"),
        ("AB{reverse}@2", "(AaAb{reverse})(BbBa{reverse})"),
        (
            "A^2{kv=first}BA{reverse}@2",
            "(Aa^2{kv=first}AbAa{reverse})^2{kv=first}"
            "(Ba^2{kv=first}BbBa{reverse})(AaAb{reverse}Aa{reverse}^2{kv=first})",
        ),
        (
            "(AB)^2C{reverse}@2",
            "(((AaAb)^2Ac{reverse})((BaBb)^2Bc{reverse}))^2(Cc(Cb{reverse}Ca{reverse})^2)",
        ),
        ("A{tie=mlp}B@2", "(Aa{tie=mlp}Ab{tie=mlp})(Ba{tie=mlp}Bb)"),
        (
            "BA{kind=gpt}A@2",
            "(BbBa{kind=gpt}Ba{kind=gpt})(Ab{kind=gpt}Aa{kind=gpt}Aa{kind=gpt})"
            "(Ab{kind=gpt}Aa{kind=gpt}Aa{kind=gpt})",
        ),
    ],
)
def test_options_of_a_block_go_to_its_parts(text: str, written_out: str) -> None:
    assert to_text(substitute(parse(text))).replace(" ", "") == written_out


@settings(max_examples=200)
@given(signatures(max_visits=40, block_options=True))
def test_each_part_has_the_options_of_the_innermost_letter(text: str) -> None:
    expected = {
        visit.part: tuple(oracle.said(text, visit.path, name) for name in ("tie", "kind"))
        for visit in oracle.visits(text)
    }
    found = normal_form(parse(text)).options
    assert {part: (said.tie, said.kind) for part, said in found.items()} == expected


def test_kind_and_tie_are_said_once_for_a_letter() -> None:
    with pytest.raises(SignatureError) as caught:
        parse("A{kind=gpt}(BA{kind=llama})^2")
    assert caught.value.code == "conflicting-options"
