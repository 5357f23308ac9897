"""Corpora of valid texts and of errors, and random texts of every sort."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from rinsc.errors import RinscError, SignatureError
from rinsc.syntax import MAX_NESTING, MAX_TEXT, canonical, parse, to_text, visit_count
from rinsc.syntax.tree import MAX_LOOP_DEPTH
from rinsc.syntax.unexpected import NotationWarning
from tests.strategies import signatures

_HERE = Path(__file__).parent


def _valid() -> list[tuple[str, str, int]]:
    lines = (_HERE / "valid.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if not line.startswith("#")]
    return [(text, spelling.strip(), int(visits)) for text, spelling, visits in rows]


def _errors() -> list[tuple[str, str]]:
    errors = tomllib.loads((_HERE / "errors.toml").read_text(encoding="utf-8"))["error"]
    return [(error["text"], error["shows"]) for error in errors]


@pytest.mark.parametrize(("text", "spelling", "visits"), _valid())
def test_valid(text: str, spelling: str, visits: int) -> None:
    tree = parse(text)
    assert canonical(tree) == spelling
    assert visit_count(tree) == visits
    assert parse(to_text(tree)) == tree


@pytest.mark.parametrize(("text", "shows"), _errors())
def test_error(text: str, shows: str) -> None:
    with pytest.raises(SignatureError) as caught:
        parse(text)
    assert str(caught.value) == shows
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


_NOTATION = st.text("AB2^{}()[]@=,. r3³skip×x*$→", max_size=30)
RANDOM_TEXTS = st.one_of(
    st.text(max_size=30),
    _NOTATION,
    st.builds(
        lambda text, place, noise: text[: place % len(text)] + noise + text[place % len(text) :],
        signatures(options=True),
        st.integers(0, 100),
        st.one_of(_NOTATION, st.text(max_size=3)),
    ),
)

_LARK_NAMES = ("LETTER", "NUMBER", "NAME", "SUPERSCRIPT", "Token", "$END", "__ANON", "LPAR")


def ends_well(text: str, parse: Callable[[str], object]) -> bool:
    """Whether a text has a tree, or one error that points into it and names nothing internal."""
    try:
        parse(text)
    except RinscError as error:
        (problem,) = error.problems
        if any(name in problem.message + (problem.hint or "") for name in _LARK_NAMES):
            return any(name in text for name in _LARK_NAMES)
        if problem.span is None:
            return problem.code == "empty-signature"
        return 0 <= problem.span.start < problem.span.end <= len(text)
    except Exception:
        return False
    return True


@settings(max_examples=500)
@given(RANDOM_TEXTS)
def test_random_text_ends_as_a_tree_or_as_one_error(text: str) -> None:
    assert ends_well(text, parse)


def test_an_escaping_exception_is_caught() -> None:
    find(RANDOM_TEXTS, lambda text: not ends_well(text, lambda text: parse(text) and 1 // 0))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(" * 10_000, "text-too-long"),
        ("(" * MAX_TEXT, "too-deep"),
        ("[" * MAX_TEXT, "unbalanced-bracket"),
        ("{" + "(" * 4000, "unbalanced-parenthesis"),
        ("\0" * 3_000_000, "text-too-long"),
        (" " * MAX_TEXT, "empty-signature"),
        ("A" * MAX_TEXT, "too-many-visits"),
        ("A^1" * 1365, "too-many-visits"),
        ("A^" + "9" * 4000, "power-too-large"),
        ("A[" + "9" * 4000 + "]", "bad-size"),
        ("A@" + "9" * 4000, "bad-degree"),
        ("A{each=" + "9" * 4000 + "}", "bad-option-value"),
        ("a" * 4000, "unexpected-character"),
        ("A" + "1" * 32, "name-too-long"),
        ("A^" + "r" * 4000, "name-too-long"),
        ("A{kind=" + "a" * 4000 + "}", "name-too-long"),
        ("A{" + "a" * 4000 + "}", "unknown-option"),
        ("\ud800", "unexpected-character"),
        ("A^\u0663", "bad-power"),
        ("A^1{adapter=lora(1e9)}" * 186, "text-too-long"),
        ("(" * 60 + "A" + "^9999)" * 60 + "@8", "too-many-visits"),
    ],
)
def test_floods(text: str, code: str) -> None:
    with pytest.raises(SignatureError) as caught:
        parse(text)
    assert caught.value.code == code
    assert len(str(caught.value)) < 500


def test_the_limits_themselves_are_allowed() -> None:
    parse("A^1024")
    parse("A" + " " * (MAX_TEXT - 1))
    for deep in (
        parse("(" * MAX_NESTING + "A" + ")" * MAX_NESTING),
        parse("(" * MAX_LOOP_DEPTH + "A" + "^1{grad=1})" * MAX_LOOP_DEPTH),
    ):
        assert parse(to_text(deep)) == deep
        assert canonical(parse(canonical(deep))) == canonical(deep)
    parse("A" + "1" * 31)


def test_a_hint_names_what_would_be_accepted() -> None:
    with pytest.raises(SignatureError) as caught:
        parse("A{adapter=lora(8)}")
    assert caught.value.hint == "write it after a power: A^3{skip=0.5}"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("AB×3", "write AB^3 or (AB)^3"),
        ("AB x 3", "write AB^3 or (AB)^3"),
        ("C(AB×2)", "write AB^2 or (AB)^2"),
        ("3×AB", "write A^3B or (AB)^3"),
        ("3AB", "write A^3B or (AB)^3"),
        ("3A", "write A^3"),
        ("3(AB)C", "write (AB)^3C"),
        ("[A]*3", "write A^3"),
        ("['A', 'B'] * 2", "write (AB)^2"),
        ("A-A-B", "write AAB"),
        ("A^3, B", "write A^3B"),
        ("(AB)^2 | C", "write (AB)^2C"),
        ("Ａ^2B", "write A^2B"),
        ("𝐀^3𝐁", "write A^3B"),
        ("ΑΒ^2", "write AB^2"),  # Greek
        ("(АВ)^2С", "write (AB)^2C"),  # Cyrillic
        ("A^３B", "write A^3B"),
        ("A₃B", "write A3B"),
        ("(A)3B", "write A^3B for rounds, or A3B for the name of a block"),
        ("(A)2", "write A^2 for rounds, or A2 for the name of a block"),
        ("[A]3B", "write A^3B for rounds, or A3B for the name of a block"),
        ("A^³B", "write A^3B"),
        ("A×3×2", "write (A^3)^2"),
        ("A^3×2 B", "write (A^3)^2B"),
        ("A×N B", "write A^nB"),
        ("A·3", "write A^3"),
        ("A\\cdot 3", "write A^3"),
        ("A  x  3", "write A^3"),
        ("A X 3", "write A^3"),
        ("A(3)B", "write A^3B"),
        ("A^[3]B", "write A^3B"),
        ("$A_{1}^{3}A_{2}$", "write A1^3A2"),
        ("A 3 times", "write A^3"),
        ("A^3×B", "write A^3B"),
        ("A×B", "write AB"),
        ("AʳB", "write A^rB"),
        ("{A}^{3}B", "write A^3B"),
        ("`A^3B`", "write A^3B"),
        ("[A]*3 + [B]", "write A^3B"),
        ("'A'*3 + 'B'", "write A^3B"),
        ("3*[A] + [B]", "write (A)^3B"),
        ("A^{\\times 3}B", "write A^3B"),
        ("A×3×B", "write A^3B"),
        ("A×", "write a power with '^': A^3B"),
        ("huginx", "did you mean the entry of the zoo 'huginn'?"),
        ("Huginn", "did you mean the entry of the zoo 'huginn'?"),
        ("RINS-A3B", "did you mean the entry of the zoo 'rins-a3b'?"),
    ],
)
def test_what_is_pasted_from_elsewhere_gets_its_spelling_as_a_hint(text: str, hint: str) -> None:
    with pytest.raises(SignatureError) as caught:
        parse(text)
    assert caught.value.hint == hint
    for spelling in re.findall(r"[A-Z(][^ ]*", hint.partition("write ")[2]):
        parse(spelling)  # a hint is a signature


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("A3B", ["A3 is a block; for A three times write A^3"]),
        ("(A12B)^2", ["A12 is a block; for A 12 times write A^12"]),
        ("A1B", ["A1 is a block; for A once write A"]),
        ("(AB)X2", ["X2 is a block; to repeat what is before it twice write ^2"]),
        ("A3BA", []),
        ("A1A2B", []),
        ("A^3B", []),
        ("HUGINN", ["HUGINN is read as a signature of 5 blocks; the zoo has the entry huginn"]),
        ("HUGINX", ["HUGINX is read as a signature of 6 blocks; the zoo has the entry huginn"]),
        ("ABC", []),
        ("ABCDABCD", []),
    ],
)
def test_what_may_be_meant_otherwise_is_a_warning(text: str, notes: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parse(text)
    assert [str(warning.message) for warning in caught] == notes


def test_names_of_the_zoo_that_begin_alike_are_listed() -> None:
    with pytest.warns(NotationWarning, match=r"RINS is read .* rins-a2b, rins-a3b"):
        parse("RINS")


def test_lark_waits_for_the_first_parse() -> None:
    code = "import sys, rinsc.syntax; print('lark' in sys.modules); rinsc.syntax.parse; "
    code += "print('lark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("value", [None, 5, b"AB", ["A"], 2.5])
@pytest.mark.parametrize("function", [parse, canonical])
def test_what_is_no_text_is_one_clear_error(function: Any, value: Any) -> None:
    with pytest.raises(SignatureError, match=r"error\[not-a-text\].*\n.*hint: "):
        function(value)
