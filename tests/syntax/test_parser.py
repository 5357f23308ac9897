"""Corpora of valid texts and of errors, and random texts of every sort."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from rinsc.errors import RinscError, SignatureError
from rinsc.syntax import MAX_NESTING, MAX_TEXT, canonical, parse, to_text, visit_count
from rinsc.syntax.limits import MAX_LOOP_DEPTH
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


_NOTATION = st.text("AB2^{}()[]@=,. r3³skip", max_size=30)
_RANDOM_TEXTS = st.one_of(
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


def _ends_well(text: str, parse: Callable[[str], object]) -> bool:
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
@given(_RANDOM_TEXTS)
def test_random_text_ends_as_a_tree_or_as_one_error(text: str) -> None:
    assert _ends_well(text, parse)


def test_an_escaping_exception_is_caught() -> None:
    find(_RANDOM_TEXTS, lambda text: not _ends_well(text, lambda text: parse(text) and 1 // 0))


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


def test_lark_waits_for_the_first_parse() -> None:
    code = "import sys, rinsc.syntax; print('lark' in sys.modules); rinsc.syntax.parse; "
    code += "print('lark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
