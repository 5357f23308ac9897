"""Equal identities, equal models: against the physical layers written out for many depths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product

import pytest
from hypothesis import example, find, given, settings
from hypothesis import strategies as st

from rinsc.errors import SignatureError
from rinsc.syntax import Identity, canonical, identity, parse, schedule_fingerprint
from tests.strategies import signatures
from tests.syntax import oracle

_DEPTHS = range(1, 25)

_parse = cache(parse)

# Few letters and short words, so that two draws often are the same model.
_SMALL = signatures(max_visits=6, letters=("A", "B", "C"))
_TINY = signatures(max_visits=4, letters=("A", "B"), degrees=False)
_OPTIONS = signatures(max_visits=4, letters=("A", "B"), block_options=True)


def _same(first: str, second: str, layers: int | None = None) -> bool:
    return identity(_parse(first), layers) == identity(_parse(second), layers)


def _agrees_at_every_depth(first: str, second: str, same: Callable[..., bool]) -> bool:
    """Whether ``same`` says what the lists of layers say, at each depth that fits both."""
    for layers in _DEPTHS:
        one, other = oracle.schedule(first, layers), oracle.schedule(second, layers)
        if one and other and same(first, second, layers) != (one == other):
            return False
    return True


@settings(max_examples=300)
@given(st.one_of(st.tuples(_SMALL, _SMALL), st.tuples(_TINY, _TINY)))
def test_equal_exactly_when_the_layers_are(pair: tuple[str, str]) -> None:
    assert _agrees_at_every_depth(pair[0], pair[1], _same)


@settings(max_examples=100)
@given(st.tuples(_OPTIONS, _OPTIONS | _TINY))
def test_equal_exactly_when_the_layers_are_with_options(pair: tuple[str, str]) -> None:
    assert _agrees_at_every_depth(pair[0], pair[1], _same)


def _one_or_two_visits() -> Iterator[str]:
    """Every signature of one or two visits and one option of a block, with every way to visit."""
    visits = ("", "each=2", "reverse", "each=2, reverse")
    for letters in ("A", "AA", "AB"):
        for ways in product(visits, repeat=len(letters)):
            for said in ("", "tie=mlp", "tie=attention", "kind=gpt"):
                first = ", ".join(filter(None, (ways[0], said)))
                lists = [f"{{{options}}}" if options else "" for options in (first, *ways[1:])]
                yield "".join(map(str.__add__, letters, lists))


def _agree_on_all(texts: Iterable[str], layers: int, same: Callable[[str, int], object]) -> bool:
    """Whether ``same`` puts texts together exactly where their lists of layers are equal."""
    pairs = {
        (tuple(run), same(text, layers))
        for text in texts
        if (run := oracle.schedule(text, layers)) is not None
    }
    runs, identities = zip(*pairs, strict=True)
    return len(set(runs)) == len(pairs) == len(set(identities))


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
def test_one_identity_for_each_list_of_layers(layers: int) -> None:
    texts = list(_one_or_two_visits())
    assert _agree_on_all(texts, layers, lambda text, n: identity(_parse(text), n))
    assert not _agree_on_all(texts, layers, lambda text, n: canonical(_parse(text)))


def test_one_identity_for_each_list_of_layers_with_a_degree() -> None:
    texts = [f"{text}@2" for text in _one_or_two_visits()] + [*_one_or_two_visits()]
    assert _agree_on_all(texts, 5, lambda text, n: identity(_parse(text), n))


_UNSIZED = signatures(max_visits=6, letters=("A", "B", "C"), sizes=False)


@settings(max_examples=300)
@given(st.one_of(st.tuples(_UNSIZED, _UNSIZED), st.tuples(_UNSIZED, _TINY)))
def test_without_layers_equal_exactly_when_equal_at_every_depth(pair: tuple[str, str]) -> None:
    first, second = pair
    depths = [n for n in range(1, 37) if oracle.divides(first, n) and oracle.divides(second, n)]
    both = [oracle.schedule(first, n) == oracle.schedule(second, n) for n in depths]
    if len(both) > 1:  # at one depth alone, different sizes can happen to be equal
        assert _same(first, second) == all(both)


def test_identities_without_merging_are_caught() -> None:
    def unmerged(first: str, second: str, layers: int) -> bool:
        return canonical(parse(first)) == canonical(parse(second))

    find(
        st.tuples(_TINY, _TINY),
        lambda pair: not _agrees_at_every_depth(pair[0], pair[1], unmerged),
    )


@pytest.mark.parametrize("blind", ["each=2", "reverse", "tie=mlp", "tie=attention", "kind=gpt"])
def test_identities_blind_to_an_option_are_caught(blind: str) -> None:
    def without(first: str, second: str, layers: int) -> bool:
        return _same(first.replace(f"{{{blind}}}", ""), second, layers)

    marked, plain = f"A[2]{{{blind}}}BA", "A[2]BA"
    assert _agrees_at_every_depth(marked, plain, _same)
    assert not _agrees_at_every_depth(marked, plain, without)


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
        ("A{kind=gpt}A", "AA{kind=gpt}"),
        ("A{tie=mlp}^2", "AA{tie=mlp}"),
        ("AB{reverse}", "A"),
        ("A{reverse}^3B", "A^3B"),
        ("A[3]{each=2}", "A[1]^2B[1]^2C[1]^2"),
        ("A[2]A{reverse}", "A[1]B[1]BA"),
        ("A[1]A{reverse}", "A[1]^2"),
        ("A[1]{tie=mlp}", "A[1]"),
        ("A[4]{tie=mlp, reverse}A[4]", "A[4]{tie=mlp}A{reverse}"),
        ("A^1{skip=0.5}", "A"),
        ("AB{reverse}@2", "A"),
        ("A(B^2{adapter=scale}A)^2", "(AB^2{adapter=scale})^2A"),
        ("A^3{sample=choice(1, 2)}", "A^3{sample=choice(2, 1)}"),
        ("A^3{sample=choice(1, 2)}", "A^3{sample=uniform(1, 2)}"),
        ("A^3{sample=choice(3)}", "A^3"),
        ("A^3{sample=choice(2)}", "A^3{sample=uniform(2, 2)}"),
        ("A^1{sample=poisson_lognormal(1, 0.5)}", "A"),
        ("A^3{sample=poisson_lognormal(1, 0.5)}", "A^3{sample=poisson_lognormal(1, 2)}"),
        ("A^1{kv=first}", "A"),
        ("A^1{adapter=scale, adapter_by=count}", "A^1{adapter=scale}"),
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
        ("AA{reverse}", "AA"),
        ("A[2]A{reverse}", "A[2]A"),
        ("A{tie=mlp}", "A"),
        ("A{tie=mlp}B{tie=mlp}", "A{tie=mlp}"),
        ("A{tie=mlp}", "A{tie=attention}"),
        ("(A^2{adapter=scale})^2", "A^2{adapter=scale}A^2{adapter=scale}"),
        ("A^2{adapter=scale}BB@2", "A^2{adapter=scale}B^2@2"),
        ("A^2{adapter_by=count, adapter=scale}", "A^2{adapter=scale}"),
        ("A^3{inject=add, grad=2}", "A^3{inject=add}"),
        ("A^3{kv=first}", "A^3{kv=last}"),
        ("A^2(AB^2{adapter=scale})^2", "A^3B^2{adapter=scale}AB^2{adapter=scale}"),
        ("A^3{sample=choice(1, 2)}", "A^3{sample=choice(1, 2, 2)}"),
        ("A^3{sample=choice(2)}", "A^3"),
        ("A^3{sample=poisson_lognormal(1, 0.5)}", "A^3"),
        ("A^3{grad=3}", "A^3"),
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
@given(signatures(max_visits=30, options=True))
@example("A^2 (A B^2{adapter=scale})^2")
@example("A(AB^2{adapter=scale})^2B")
def test_the_canonical_spelling_is_the_same_model(text: str) -> None:
    assert _same(canonical(parse(text)), text)


def test_one_depth_can_make_equal_what_is_not_equal_at_every_depth() -> None:
    assert _same("ABA", "A[4]BA", 8)
    assert not _same("ABA", "A[4]BA", 12)
    assert not _same("ABA", "A[4]BA")


def test_a_kind_that_is_the_default_makes_no_difference() -> None:
    one, other = parse("A{kind=gpt}B"), parse("A")
    assert identity(one, 4, default_kind="gpt") == identity(other, 4, default_kind="gpt")
    assert identity(one, 4, default_kind="llama") != identity(other, 4, default_kind="llama")


def test_blocks_that_do_more_than_their_layers_are_not_joined() -> None:
    one, other = parse("AB"), parse("A")
    assert identity(one, 4, "hrm", whole_kinds=("hrm",)) != identity(other, 4, "hrm", ("hrm",))
    assert identity(one, 4, "gpt", whole_kinds=("hrm",)) == identity(other, 4, "gpt", ("hrm",))
    twice = parse("A^2")
    assert identity(twice, 1, "hrm", ("hrm",)) != identity(parse("A{each=2}"), 1, "hrm", ("hrm",))
    assert identity(parse("AA{reverse}"), 1, "hrm", ("hrm",)) == identity(twice, 1, "hrm", ("hrm",))


def test_taking_apart_is_bounded() -> None:
    with pytest.raises(SignatureError) as caught:
        identity(parse("A^64{kv=first}B[1]A{reverse}^64"), 9999)
    assert caught.value.code == "too-many-visits"


def test_an_identity_is_a_key_and_its_fingerprint_is_stable() -> None:
    found: dict[Identity, str] = {identity(parse("AB")): "AB"}
    assert found[identity(parse("A"))] == "AB"
    assert schedule_fingerprint(parse("(A^3)B")) == "cdaaed28ad70e4bb"


def test_a_free_exponent_has_no_identity() -> None:
    with pytest.raises(SignatureError) as caught:
        identity(parse("A^rB"))
    assert caught.value.code == "unbound-exponent"
