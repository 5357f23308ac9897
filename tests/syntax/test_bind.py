"""Free exponents: values in, errors for what is missing, unknown or too large."""

from __future__ import annotations

import pytest

from rinsc.errors import SignatureError
from rinsc.syntax import bind, canonical, expand, parse, visit_count


def test_values_replace_names_everywhere() -> None:
    sig = parse("(A^rB)^{depth}A^r{skip=0.5}")
    assert bind(sig, {"r": 3, "depth": 2}) == parse("(A^3B)^2A^3{skip=0.5}")


def test_nothing_to_bind() -> None:
    assert bind(parse("A^3B"), {}) == parse("A^3B")


def test_a_free_signature_has_a_canonical_spelling() -> None:
    assert canonical(parse("(X)^{r}YY")) == "A^rB^2"


@pytest.mark.parametrize(
    ("values", "shows"),
    [
        (
            {"r": 3},
            "error[unbound-exponent]: the exponent 's' has no value\n"
            "  A^rB^{s}\n     ^^^^^\n  hint: give it one: bind={'s': 3}",
        ),
        (
            {"r": 3, "s": 0},
            "error[bad-power]: the exponent 's' must be a whole number from 1\n"
            "  A^rB^{s}\n     ^^^^^\n  hint: give it one: bind={'s': 3}",
        ),
        (
            {"r": 10_000, "s": 1},
            "error[power-too-large]: the exponent 'r' has more than 4 digits\n"
            "  A^rB^{s}\n  ^^^\n  hint: give it one: bind={'r': 3}",
        ),
        (
            {"r": 2000, "s": 1},
            "error[too-many-visits]: 2001 visits of blocks; at most 1024 are possible\n"
            "  A^rB^{s}\n  ^^^\n  hint: lower the powers or the degree",
        ),
        (
            {"r": 3, "s": 3, "q": 1},
            "error[unknown-exponent]: the signature has no free exponent 'q'\n"
            "  at bind: q\n  hint: its free exponents: r, s",
        ),
    ],
)
def test_errors(values: dict[str, int], shows: str) -> None:
    with pytest.raises(SignatureError) as caught:
        bind(parse("A^rB^{s}"), values)
    assert str(caught.value) == shows


def test_every_unbound_name_is_reported_once() -> None:
    with pytest.raises(SignatureError) as caught:
        expand(parse("A^rB^sC^r"))
    assert [problem.hint for problem in caught.value.problems] == [
        "give it one: bind={'r': 3}",
        "give it one: bind={'s': 3}",
    ]
    with pytest.raises(SignatureError):
        visit_count(parse("A^r"))


@pytest.mark.parametrize("value", [True, 2.0, "3", None])
def test_values_are_whole_numbers(value: object) -> None:
    with pytest.raises(SignatureError) as caught:
        bind(parse("A^r"), {"r": value})  # type: ignore[dict-item]
    assert caught.value.code == "bad-power"
