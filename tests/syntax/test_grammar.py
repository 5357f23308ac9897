"""The grammar file itself: no conflicts, and one file that says so."""

from __future__ import annotations

import pytest
from lark import Lark
from lark.exceptions import GrammarError, LexError

from rinsc.resources import grammar_text


def _strict(grammar: str) -> Lark:
    return Lark(grammar, start="signature", parser="lalr", lexer="basic", strict=True)


def test_no_conflicts() -> None:
    _strict(grammar_text()).parse("(A^3)B")


def test_a_shift_reduce_conflict_is_found() -> None:
    ambiguous = grammar_text().replace("sequence degree?", "sequence options? degree?")
    with pytest.raises(GrammarError):
        _strict(ambiguous)


def test_colliding_terminals_are_found() -> None:
    with pytest.raises(LexError):
        _strict(grammar_text().replace("NAME: /[a-z]", "NAME: /[a-zA-Z]"))
