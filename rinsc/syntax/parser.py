"""Text to tree. The grammar is ``grammar/signature.lark``; its errors are re-worded here."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

from lark import Lark, Token, Tree
from lark.common import LexerConf
from lark.exceptions import UnexpectedInput, UnexpectedToken
from lark.lexer import BasicLexer

from rinsc.errors import SignatureError, Span, shown
from rinsc.extras import grammar_text
from rinsc.syntax.bind import check_contradictions
from rinsc.syntax.expand import check_limits
from rinsc.syntax.normal import letter_sizes
from rinsc.syntax.options import check_options
from rinsc.syntax.settings import letter_options
from rinsc.syntax.towers import check_towers
from rinsc.syntax.tree import (
    MAX_DEGREE,
    MAX_DIGITS,
    MAX_NAME,
    MAX_NUMBER_TEXT,
    BlockRef,
    Call,
    Node,
    Option,
    Repeat,
    Scalar,
    Sequence,
    Signature,
    Tower,
    Towers,
    to_text,
)
from rinsc.syntax.unexpected import (
    NotationWarning,
    check_brackets,
    notes_on,
    respell,
    unexpected,
    zoo_hint,
)

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", "⁽⁾")
_EXACT = 2.0**53  # up to here a float without a fraction is exactly a whole number

_COUNT_BEHIND = re.compile(r"[)\]}]\s*[0-9]")
_NAMED = re.compile(r"\s*[a-z][a-z0-9_]*\s*:")

_EXAMPLES = {"power": "A^3", "size": "A[4]", "degree": "AAB@2"}


def whole_number(
    what: Literal["power", "size", "degree"], text: str, span: Span, source: str
) -> int:
    """The value of a power, a size or a degree: a whole number from 1, at most four digits.

    Raises SignatureError: ``bad-power``, ``bad-size``, ``bad-degree``, ``power-too-large``.
    """
    digits = text.translate(_SUPERSCRIPTS)
    hint = f"as in {_EXAMPLES[what]}"
    if not re.fullmatch("[0-9]+", digits) or not digits.strip("0"):
        message = f"a {what} is a whole number from 1, not {shown(text)}"
        raise SignatureError(f"bad-{what}", message, source=source, span=span, hint=hint)
    if len(digits.lstrip("0")) > MAX_DIGITS:
        code = "power-too-large" if what == "power" else f"bad-{what}"
        message = f"a {what} has at most {MAX_DIGITS} digits"
        raise SignatureError(code, message, source=source, span=span, hint=hint)
    return int(digits)


def option_number(text: str, span: Span, source: str) -> int | float:
    """The value of a number in an option; a whole one is an int in every spelling.

    Raises SignatureError (``bad-option-value``) for numbers that are too long or too large.
    """
    value = float(text)
    if len(text) > MAX_NUMBER_TEXT or not math.isfinite(value):
        message = f"{shown(text)} is too long or too large a number"
        hint = f"write at most {MAX_NUMBER_TEXT} characters, as in skip=0.5"
        raise SignatureError("bad-option-value", message, source=source, span=span, hint=hint)
    if value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value


_Tree: TypeAlias = Tree[Token]

AMBIGUOUS = "ambiguous-times"
MAX_SUGGESTED = 60  # characters of a spelling in a hint


def parse(text: str) -> Signature:
    """The tree of a signature.

    Raises SignatureError for every text that is not a signature within the limits; the error
    points at the place. Free exponents are accepted; options that contradict once they are bound
    are found by `bind`. A text that may not mean what it says (`notes_on`) is a NotationWarning.

    >>> [type(item).__name__ for item in parse("A^3 B").body.items]
    ['Repeat', 'BlockRef']
    """
    sig = _read(text, _hint_for(text))
    for note in notes_on(sig):
        warnings.warn(NotationWarning(note), stacklevel=2)
    return sig


def parse_towers(text: str) -> Towers:
    """The trees of a text with named towers: ``image: A^2B, text: CD``.

    What is said of a letter (its size, ``tie``, ``kind``) holds in every tower, wherever it is
    said. Raises SignatureError like `parse`, for a name that two towers have
    (``duplicate-tower``), and for two that share a letter and differ in degree
    (``conflicting-degrees``).
    """
    check_brackets(text)
    try:
        tree = _lark().parse(text, start="towers")
    except UnexpectedInput as error:
        raise _reworded(text, error, _tower_hint(text, error)) from None
    towers = _Builder(text).towers(tree)
    check_towers(towers)
    for tower in towers.towers:
        check_contradictions(tower.signature)
        check_limits(tower.signature)
        for note in notes_on(tower.signature):
            warnings.warn(NotationWarning(note), stacklevel=2)
    return towers


def has_towers(text: str) -> bool:
    """Whether a text names towers, right or wrong, rather than being one signature."""
    return isinstance(text, str) and _NAMED.match(text) is not None


def _tower_hint(text: str, error: UnexpectedInput) -> str | None:
    if not has_towers(text):
        return "name each tower: image: A^2B, text: CD"
    here = error.pos_in_stream if isinstance(error.pos_in_stream, int) else len(text)
    return "write a comma before it" if _NAMED.match(text, here) else None


def _read(text: str, hint_for: Callable[[], str | None]) -> Signature:
    """The tree of a text; ``hint_for`` may know a better hint where the grammar stops."""
    check_brackets(text)
    named = _NAMED.match(text)
    if named is not None:
        hint = "leave the name out: one signature is A^2B; rinsc.model_spec takes towers"
        message = "this text names towers, and one signature is wanted"
        span = Span(0, named.end())
        raise SignatureError("several-towers", message, source=text, span=span, hint=hint)
    try:
        tree = _lark().parse(text, start="signature")
    except UnexpectedInput as error:
        raise _reworded(text, error, hint_for()) from None
    sig = _Builder(text).signature(tree)
    letter_sizes(sig)
    letter_options(sig)
    check_contradictions(sig)
    check_limits(sig)
    return sig


def _hint_for(text: str) -> Callable[[], str | None]:
    """How a text that cannot be read is written in the notation, or which entry of the zoo it may
    mean; None where nobody can tell."""

    def hint() -> str | None:
        entry = zoo_hint(text)
        if entry is not None:
            return entry
        respelled = respell(text)
        if respelled == text:
            return None
        try:
            spelling = to_text(_read(respelled, lambda: None))
        except SignatureError as error:
            return error.hint if error.code == AMBIGUOUS else None
        if len(spelling) > MAX_SUGGESTED:
            return None
        if _COUNT_BEHIND.search(text):  # (A)3: three times A, more likely than a block called A3
            power = re.sub(r"([A-Z])([0-9]+)", r"\1^\2", spelling)
            return f"write {power} for rounds, or {spelling} for the name of a block"
        return f"write {spelling}"

    return hint


class _QuickLexer(BasicLexer):
    """Skips lark's search for colliding terminals: a test does it, a user need not wait for it."""

    __future_interface__ = 2

    def __init__(self, conf: LexerConf) -> None:
        conf.skip_validation = True
        super().__init__(conf)


@cache
def _lark() -> Lark:
    return Lark(
        grammar_text(),
        start=["signature", "towers"],
        parser="lalr",
        lexer=_QuickLexer,
        propagate_positions=True,
        maybe_placeholders=False,
    )


def _reworded(text: str, error: UnexpectedInput, hint: str | None) -> SignatureError:
    """Our error for lark's: only the place is taken from it, none of its words."""
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        span = _token_span(error.token)
    else:
        start = len(text) if isinstance(error, UnexpectedToken) else error.pos_in_stream or 0
        span = Span(start, min(start + 1, len(text)))
    own = unexpected(text, span)
    return own if hint is None else SignatureError.of(replace(own.problems[0], hint=hint))


class _Builder:
    """Lark's tree to ours, one method a rule; ``source`` is the text that errors point into."""

    def __init__(self, source: str) -> None:
        self.source = source

    def towers(self, tree: _Tree) -> Towers:
        return Towers(tuple(self.tower(child) for child in _trees(tree)), self.source)

    def tower(self, tree: _Tree) -> Tower:
        name = _first(tree)
        (signature,) = _trees(tree)
        return Tower(self.name(name), self.signature(signature), _token_span(name))

    def signature(self, tree: _Tree) -> Signature:
        body, *degree = _trees(tree)
        return Signature(self.sequence(body), self.degree(degree), self.source)

    def sequence(self, tree: _Tree) -> Sequence:
        self.check_extents(tree)
        return Sequence(tuple(self.item(child) for child in _trees(tree)), _span(tree))

    def check_extents(self, tree: _Tree) -> None:
        """A sign of multiplication beside a single letter must not seem to hold for its neighbours
        too, as in ``AB×3`` and ``3×AB``. An arrow, or another such sign, sets them apart."""
        items = list(tree.children)
        for index, item in enumerate(items):
            written = _times_written(item)
            if written is None or written.base.data != "block":
                continue
            beside = index + 1 if written.first else index - 1
            if not 0 <= beside < len(items):
                continue
            other = items[beside]
            same = _times_written(other)
            if isinstance(other, Tree) and (same is None or same.first != written.first):
                raise self.ambiguous(tree, written)

    def ambiguous(self, sequence: _Tree, written: _TimesWritten) -> SignatureError:
        """The error for a number of times that can hold for a letter or for more."""
        whole, item, base = _span(sequence), _span(written.item), _span(written.base)
        letter, power = self.source[base.start : base.end], f"^{written.number}"
        before = self.source[whole.start : item.start].strip()
        after = self.source[item.end : whole.end].strip()
        one = f"{before}{letter}{power}{after}"
        other = f"({before}{letter}){power}{after}"
        if written.first:
            other = f"{before}({letter}{after}){power}"
        message = f"the number of times can hold for {letter} alone or for what is beside it too"
        hint = f"write {one} or {other}" if len(one) <= MAX_SUGGESTED else "write A^3B or (AB)^3"
        return SignatureError(AMBIGUOUS, message, source=self.source, span=item, hint=hint)

    def item(self, tree: _Tree) -> Node:
        return self.repeat(tree) if tree.data == "repeat" else self.base(tree)

    def base(self, tree: _Tree) -> BlockRef | Sequence:
        """A block or a group: what can have a power."""
        if tree.data == "block":
            return self.block(tree)
        return Sequence(self.sequence(_trees(tree)[0]).items, _span(tree))

    def block(self, tree: _Tree) -> BlockRef:
        letter = self.name(_first(tree))
        size: int | None = None
        options: tuple[Option, ...] = ()
        for child in _trees(tree):
            if child.data == "size":
                size = self.size(child)
            else:
                options = self.options(child)
        check_options(options, "block", self.source)
        return BlockRef(letter, size, options, _span(tree))

    def repeat(self, tree: _Tree) -> Repeat:
        base, power, *rest = _trees(tree)
        if base.data == "count":
            base, power = power, base
        body, count = self.base(base), self.power(power)
        options = self.options(rest[0]) if rest else ()
        check_options(options, "repeat", self.source)
        return Repeat(body, count, options, _span(tree))

    def size(self, tree: _Tree) -> int:
        return whole_number("size", _first(tree), _token_span(_first(tree)), self.source)

    def power(self, tree: _Tree) -> int | str:
        token = _first(tree)
        if token.type == "NAME":
            return self.name(token)
        return whole_number("power", token, _token_span(token), self.source)

    def degree(self, trees: list[_Tree]) -> int:
        if not trees:
            return 1
        span = _token_span(_first(trees[0]))
        value = whole_number("degree", _first(trees[0]), span, self.source)
        if value > MAX_DEGREE:
            message = f"a degree is at most {MAX_DEGREE}"
            hint = "lower the degree, or write it out"
            raise SignatureError("bad-degree", message, source=self.source, span=span, hint=hint)
        return value

    def options(self, tree: _Tree) -> tuple[Option, ...]:
        return tuple(self.option(child) for child in _trees(tree))

    def option(self, tree: _Tree) -> Option:
        name, *values = tree.children
        value: Scalar | Call | bool = True
        for child in values:
            value = self.scalar(child) if isinstance(child, Token) else self.call(child)
        return Option(str(name), value, _span(tree))

    def call(self, tree: _Tree) -> Call:
        name, *args = (child for child in tree.children if isinstance(child, Token))
        return Call(str(name), tuple(self.scalar(arg) for arg in args))

    def name(self, token: Token) -> str:
        if len(token) > MAX_NAME:
            message = f"a name has at most {MAX_NAME} characters"
            span = _token_span(token)
            raise SignatureError(
                "name-too-long", message, source=self.source, span=span, hint="shorten it"
            )
        return str(token)

    def scalar(self, token: Token) -> Scalar:
        if token.type == "NAME":
            return self.name(token)
        return option_number(token, _token_span(token), self.source)


@dataclass(frozen=True)
class _TimesWritten:
    """A repeat that is written with a sign of multiplication; ``first`` has the number first."""

    item: _Tree
    base: _Tree
    number: Token
    first: bool


def _times_written(item: Token | _Tree) -> _TimesWritten | None:
    if not isinstance(item, Tree) or item.data != "repeat":
        return None
    left, right, *_ = _trees(item)
    if left.data == "count":
        return _TimesWritten(item, right, _first(left), first=True)
    if right.data == "times":
        return _TimesWritten(item, left, _first(right), first=False)
    return None


def _trees(tree: _Tree) -> list[_Tree]:
    return [child for child in tree.children if isinstance(child, Tree)]


def _first(tree: _Tree) -> Token:
    """The first token that the grammar keeps: a block's letter, a power's number or name."""
    token = tree.children[0]
    assert isinstance(token, Token)
    return token


def _span(tree: _Tree) -> Span:
    return Span(tree.meta.start_pos, tree.meta.end_pos)


def _token_span(token: Token) -> Span:
    start = token.start_pos or 0
    return Span(start, start + len(token))
