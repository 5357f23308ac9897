"""The canonical spelling: idempotent, and blind to names, folding, parentheses and defaults."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module

import pytest
from hypothesis import Phase, example, find, given, settings
from hypothesis import strategies as st

from rinsc.syntax import canonical, parse, schedule_fingerprint, substitute, to_text
from rinsc.syntax.canonical import letter_name, numbered_owners
from rinsc.syntax.expand import KeptRepeat, Line, line_of
from rinsc.syntax.settings import letter_options
from tests.strategies import nested_signatures, signatures
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
        ("A^2 (A B^2{adapter=scale})^2", "A^2(AB^2{adapter=scale})^2"),
        ("A(AB^2{adapter=scale})^2B", "A(AB^2{adapter=scale})^2B"),
        ("A(B^2{adapter=scale}A)^2", "(AB^2{adapter=scale})^2A"),
        ("(((A^2{adapter=scale})^2)^3)^1", "(A^2{adapter=scale})^6"),
        ("(A(B^2{inject=gate})^2)^3", "(A(B^2{inject=gate})^2)^3"),
        ("((B^2{inject=gate})^2{kv=first}A)^2A", "((A^2{inject=gate})^2{kv=first}B)^2B"),
        (
            "(A^2{inject=gate}B)^2(BA^2{adapter=embed})^2",
            "(A^2{inject=gate}B)^2(BA^2{adapter=embed})^2",
        ),
        ("A^4{sample=choice(2,1,4)}", "A^4{sample=choice(1, 2, 4)}"),
        ("A^4{sample=choice(2,1,3)}", "A^4{sample=uniform(1, 3)}"),
        ("A^4{sample=choice(1,2,2)}", "A^4{sample=choice(1, 2, 2)}"),
        ("A^4{sample=choice(2,1,2,1)}", "A^4{sample=uniform(1, 2)}"),
        ("A^4{sample=choice(3)}", "A^4{sample=uniform(3, 3)}"),
        ("A^3{sample=choice(3,3)}", "A^3"),
        ("A^r{sample=uniform(3,3)}", "A^r{sample=uniform(3, 3)}"),
        ("A^2{sample=poisson_lognormal(1.0, 0.5)}", "A^2{sample=uniform(1, 1)}"),
        ("A^1{sample=poisson_lognormal(1, 0.5)}", "A"),
        ("A^1{kv=first}", "A"),
        ("A^1{adapter=scale, adapter_by=count}", "A^1{adapter=scale}"),
        (
            "A^1{adapter=scale, adapter_by=count, sample=uniform(1, 2)}",
            "A^1{adapter=scale, adapter_by=count, sample=uniform(1, 2)}",
        ),
        (
            "A^1{adapter=scale, adapter_by=count, sample=poisson_lognormal(2, 0)}",
            "A^1{adapter=scale, sample=poisson_lognormal(2, 0)}",
        ),
        ("A^3{grad=3}", "A^3{grad=3}"),
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


_WITH_OWNERS = signatures(max_visits=10, letters=("A", "B"), sizes=False, options=True)


def _schedule(text: str) -> object:
    """The visits and the repeats kept, which weights each of them owns, names by first use."""
    tree = parse(text)
    names: dict[str, int] = {}

    def numbered(line: Line) -> list[object]:
        return [
            (step.options, step.rounds, step.owner, numbered(step.line))
            if isinstance(step, KeptRepeat)
            else (names.setdefault(step.part, len(names)), step.each, step.reverse)
            for step in line
        ]

    word = numbered(line_of(numbered_owners(substitute(tree).body)))
    said = letter_options(substitute(tree))
    return word, [said[name] for name in names]


def _runs_the_same(text: str, spell: Callable[[str], str]) -> bool:
    return _schedule(spell(text)) == _schedule(text)


@settings(max_examples=200)
@given(_WITH_OWNERS)
def test_the_spelling_runs_the_same_with_the_same_weights(text: str) -> None:
    assert _runs_the_same(text, _canonical)


def spell(text: str) -> None:
    """The canonical spelling runs the same, can be read, and is its own."""
    spelling = _canonical(text)
    assert _runs_the_same(text, _canonical)
    assert _canonical(spelling) == spelling
    assert schedule_fingerprint(parse(spelling)) == schedule_fingerprint(parse(text))


@settings(max_examples=300)
@given(nested_signatures())
@example("A(B(C^2{adapter=scale}A)^2)^2")
def test_repeats_in_repeats_have_one_spelling_that_can_be_read(text: str) -> None:
    spell(text)


_AT_THE_LIMITS = {
    "repeats 16 deep": "(" * 16 + "AA" + ")^1{adapter=scale}" * 16,
    "the same at a degree": "(" * 8 + "AA" + ")^1{adapter=scale}" * 8 + "@2",
    "the most used block gets a longer name": "A1BCDEFGHIJKLMNOPQRSTUVWXYZ"
    + "".join(f"A{{reverse}}{chr(66 + place * place * 7 % 25)}" for place in range(366)),
    "samplers get a longer spelling": "".join(
        f"A^2{{sample=choice({1 + place % 9})}}{chr(66 + place**2 % 7)}" for place in range(160)
    ),
}


@pytest.mark.parametrize("text", _AT_THE_LIMITS.values(), ids=_AT_THE_LIMITS)
def test_a_signature_at_the_limits_has_a_spelling_within_them(text: str) -> None:
    spelling = _canonical(text)
    assert _canonical(spelling) == spelling
    assert _runs_the_same(text, _canonical)


def test_a_spelling_that_writes_an_owner_twice_is_caught() -> None:
    def blind(text: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            module = import_module(
                "rinsc.syntax.canonical"
            )  # the package has a function of that name
            patch.setattr(module, "_owns_weights", lambda atom: False)
            return _canonical(text)

    find(
        _WITH_OWNERS,
        lambda text: not _runs_the_same(text, blind),
        settings=settings(max_examples=100, phases=[Phase.generate]),
    )


@settings(max_examples=200)
@given(_WITH_OWNERS)
def test_where_the_power_around_an_owner_begins_does_not_matter(text: str) -> None:
    """The first item of a plain group that the same item follows goes round to its end."""
    place = re.compile(r"\(([AB])([^()]*)\)(\^2)\1(?![\[{^])")
    degree_one = "@" not in text and not re.search(r"[AB]\{[^}]*(kind|tie|reverse|each)", text)
    if degree_one and place.search(text):
        assert _canonical(place.sub(r"\1(\2\1)\3", text)) == _canonical(text)


def test_names_after_z_have_digits() -> None:
    assert [letter_name(index) for index in (0, 25, 26, 51, 52)] == ["A", "Z", "A1", "Z1", "A2"]
