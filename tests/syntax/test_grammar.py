"""The grammar file itself: no conflicts between its rules, no collisions between its terminals."""

from __future__ import annotations

import logging
import re
from itertools import permutations

import pytest
from hypothesis import find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from lark import Lark
from lark.lexer import TerminalDef

from rinsc.extras import grammar_text

# `strict=True` would do both, but with the library that it needs every grammar takes 0.1 s more
# to load, in the environment of the tests and for whoever installs it.


def build(grammar: str) -> Lark:
    return Lark(grammar, start="signature", parser="lalr", lexer="basic", debug=True)


def conflicts(grammar: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Lark resolves a shift/reduce conflict in silence, but for its log."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lark"):
        build(grammar)
    return [record.getMessage() for record in caplog.records if "onflict" in record.getMessage()]


def collisions(grammar: str) -> list[str]:
    """Pairs of patterns of equal priority with a text that both match whole."""
    patterns = [each for each in build(grammar).terminals if each.pattern.type == "re"]
    return [
        f"{one.name} and {other.name}"
        for one, other in permutations(patterns, 2)
        if one.priority == other.priority and share_a_text(one, other)
    ]


def share_a_text(one: TerminalDef, other: TerminalDef) -> bool:
    texts = st.from_regex(one.pattern.to_regexp(), fullmatch=True)
    matches = re.compile(other.pattern.to_regexp()).fullmatch
    try:
        find(texts, lambda text: bool(matches(text)), settings=settings(max_examples=200))
    except NoSuchExample:
        return False
    return True


def test_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    assert conflicts(grammar_text(), caplog) == []


def test_a_shift_reduce_conflict_is_found(caplog: pytest.LogCaptureFixture) -> None:
    ambiguous = grammar_text().replace("sequence degree?", "sequence options? degree?")
    assert conflicts(ambiguous, caplog)


def test_no_collisions() -> None:
    assert collisions(grammar_text()) == []


def test_colliding_terminals_are_found() -> None:
    sabotaged = grammar_text().replace("NAME: /[a-z]", "NAME: /[a-zA-Z]")
    assert collisions(sabotaged)
