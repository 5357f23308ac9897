"""Equal identities, equal models: against the physical layers written out for many depths."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.syntax import Identity, canonical, identity, parse, schedule_fingerprint
from tests.strategies import signatures
from tests.syntax import oracle

_DEPTHS = range(1, 37)

_parse = cache(parse)

# Few letters and short words, so that two draws often are the same model.
_SMALL = signatures(max_visits=6, letters=("A", "B", "C"))
_TINY = signatures(max_visits=4, letters=("A", "B"), degrees=False)


def _same(first: str, second: str, layers: int | None = None) -> bool:
    return identity(_parse(first), layers) == identity(_parse(second), layers)


def _agrees_at_every_depth(first: str, second: str, same: Callable[..., bool]) -> bool:
    """Whether ``same`` says what the lists of layers say, at each depth that splits for both."""
    for layers in _DEPTHS:
        one, other = oracle.schedule(first, layers), oracle.schedule(second, layers)
        if one and other and same(first, second, layers) != (one == other):
            return False
    return True


@settings(max_examples=300)
@given(st.one_of(st.tuples(_SMALL, _SMALL), st.tuples(_TINY, _TINY)))
def test_equal_exactly_when_the_layers_are(pair: tuple[str, str]) -> None:
    assert _agrees_at_every_depth(pair[0], pair[1], _same)


_UNSIZED = signatures(max_visits=6, letters=("A", "B", "C"), sizes=False)


@settings(max_examples=300)
@given(st.one_of(st.tuples(_UNSIZED, _UNSIZED), st.tuples(_UNSIZED, _TINY)))
def test_without_layers_equal_exactly_when_equal_at_every_depth(pair: tuple[str, str]) -> None:
    first, second = pair
    schedules = [(oracle.schedule(first, n), oracle.schedule(second, n)) for n in _DEPTHS]
    both = [one == other for one, other in schedules if one and other]
    if len(both) > 1:  # at one depth alone, different sizes can happen to be equal
        assert _same(first, second) == all(both)


def test_identities_without_merging_are_caught() -> None:
    def unmerged(first: str, second: str, layers: int) -> bool:
        return canonical(parse(first)) == canonical(parse(second))

    find(
        st.tuples(_TINY, _TINY),
        lambda pair: not _agrees_at_every_depth(pair[0], pair[1], unmerged),
    )


def test_identities_blind_to_sizes_are_caught() -> None:
    def words_only(first: str, second: str, layers: int) -> bool:
        return identity(parse(first)).word == identity(parse(second)).word

    assert not _agrees_at_every_depth("A[2]BA", "ABA", words_only)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ABAB", "A^2"),
        ("AB", "A"),
        ("ABCABC", "A²"),
        ("AAB@2", "AABAABCCD"),
        ("A[4]B[8]A[4]B[8]", "A[12]^2"),
        ("A[2]BC[2]", "A"),
        ("A[2]BCA[2]BC", "A[3]BA[3]B"),
        ("(AB)^3{skip=0.5}", "A^3{skip=0.5, kv=own}"),
        ("A{kind=gpt}B{kind=gpt}", "A{kind=gpt}"),
        ("A{each=2}B{each=2}", "A{each=2}"),
    ],
)
def test_the_same_model(first: str, second: str) -> None:
    assert _same(first, second)
    one, other = parse(first), parse(second)
    assert schedule_fingerprint(one) == schedule_fingerprint(other)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ABC^2", "AB^2"),
        ("ABA", "AA"),
        ("ABAAB", "AA"),
        ("A[4]B", "AB[4]A"),
        ("A^3{skip=0.5}", "A^3"),
        ("A^3{skip=0.5}", "A^3{skip=0.25}"),
        ("A^2{skip=0.5}B", "(AB)^2{skip=0.5}"),
        ("AB{reverse}", "A"),
        ("A{reverse}B{reverse}", "A{reverse}"),
        ("A{each=2}B{each=3}", "A{each=2}"),
        ("A{kind=gpt}B", "A"),
        ("AB", "A[12]"),
    ],
)
def test_different_models(first: str, second: str) -> None:
    assert not _same(first, second)
    one, other = parse(first), parse(second)
    assert schedule_fingerprint(one) != schedule_fingerprint(other)


@settings(max_examples=100)
@given(signatures(max_visits=30, options=True, degrees=False))
def test_the_canonical_spelling_is_the_same_model(text: str) -> None:
    assert _same(canonical(parse(text)), text)


def test_one_depth_can_make_equal_what_is_not_equal_at_every_depth() -> None:
    assert _same("ABA", "A[4]BA", 8)
    assert not _same("ABA", "A[4]BA", 12)
    assert not _same("ABA", "A[4]BA")


def test_an_identity_is_a_key_and_its_fingerprint_is_stable() -> None:
    found: dict[Identity, str] = {identity(parse("AB")): "AB"}
    assert found[identity(parse("A"))] == "AB"
    assert schedule_fingerprint(parse("(A^3)B")) == "cdaaed28ad70e4bb"


def test_a_free_exponent_has_no_identity() -> None:
    with pytest.raises(SignatureError) as caught:
        identity(parse("A^rB"))
    assert caught.value.code == "unbound-exponent"
