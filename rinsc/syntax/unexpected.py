"""What was probably meant: where the grammar stops, and by what is right and easily misread."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

from rinsc.errors import Problem, SignatureError, Span, nearest, plural, shown
from rinsc.extras import zoo_dir
from rinsc.syntax.tree import (
    MAX_DIGITS,
    MAX_NESTING,
    MAX_TEXT,
    BlockRef,
    Signature,
    mentions,
)

_CLOSERS = {")": "(", "]": "[", "}": "{"}
_PARTNERS = {**_CLOSERS, **{opener: closer for closer, opener in _CLOSERS.items()}}
_SUPERSCRIPT = re.compile("[⁺⁻⁽]?[⁰¹²³⁴⁵⁶⁷⁸⁹]")
_CAPITAL = re.compile("[A-Z][A-Za-z0-9_]*")
_NAME_BEFORE = re.compile(r"[a-z][a-z0-9_]*\Z")
_NUMBER_AT_END = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\Z")
_TIMES_AT_END = re.compile(r"(?:[×✕⨯]|\\times|\*\*?|(?<=[A-Z0-9)\]} ])x)\Z")
_NUMBER_HINT = "write a power as A^3, a size as A[4]"
_INSIDE_POWER = re.compile(r"\^\s*(\{[^{}]*)?\Z")
_TIMES = ("no times", "once", "twice", "three times", "four times", "five times", "six times")
_MAX_ENTRIES = 4  # of the zoo, in a note
MIN_LIKE, MAX_LIKE = 4, 32  # characters of a word that is compared with every name
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9.-]{2,63}")  # what could be meant as the name of an entry


def check_brackets(text: str) -> None:
    """Raises SignatureError for what one linear scan can see, before any grammar is asked.

    ``not-a-text``, ``text-too-long``, ``empty-signature``, ``too-deep``,
    ``unbalanced-parenthesis`` and ``unbalanced-bracket`` (for square brackets and braces).
    """
    if not isinstance(text, str):
        message = f"a signature is a text, not {type(text).__name__}"
        hint = "write it between quotes: '(A^3)B'"
        raise SignatureError("not-a-text", message, hint=hint)
    if len(text) > MAX_TEXT:
        message = f"{len(text)} characters; a signature has at most {MAX_TEXT}"
        span, hint = Span(MAX_TEXT, MAX_TEXT + 1), "write repetitions as powers: A^3"
        raise SignatureError("text-too-long", message, source=text, span=span, hint=hint)
    if not text.strip():
        hint = "write blocks as upper-case letters: (A^3)B"
        raise SignatureError("empty-signature", "the signature is empty", source=text, hint=hint)
    opened: list[tuple[str, int]] = []
    in_braces = 0
    for position, char in enumerate(text):
        if char in "([{":
            if char == "(" and not in_braces and len(opened) >= MAX_NESTING:
                message = f"parentheses are more than {MAX_NESTING} deep"
                span, hint = Span(position, position + 1), "drop needless parentheses"
                raise SignatureError("too-deep", message, source=text, span=span, hint=hint)
            opened.append((char, position))
            in_braces += char == "{"
        elif char in _CLOSERS:
            if not opened:
                raise _unbalanced(text, char, position, "is not opened")
            opener, opened_at = opened.pop()
            if opener != _CLOSERS[char]:
                raise _unbalanced(text, opener, opened_at, "is not closed")
            in_braces -= char == "}"
    if opened:
        raise _unbalanced(text, *opened[-1], "is not closed")


def _unbalanced(text: str, char: str, position: int, what: str) -> SignatureError:
    code = "unbalanced-parenthesis" if char in "()" else "unbalanced-bracket"
    hint = f"add the '{_PARTNERS[char]}' that belongs to it, or remove it"
    return SignatureError(
        code, f"'{char}' {what}", source=text, span=Span(position, position + 1), hint=hint
    )


def unexpected(text: str, span: Span) -> SignatureError:
    """The error for the token at ``span``, which the grammar does not allow there.

    Brackets are balanced (`check_brackets`). An empty span is the end of the text.
    """
    token = text[span.start : span.end]
    before = text[: span.start].rstrip()
    number = _count_at_end(before)
    if number is not None:
        message = f"the number {shown(number)} cannot stand here"
        span = Span(len(before) - len(number), len(before))
        return SignatureError(
            "unexpected-character", message, source=text, span=span, hint=_NUMBER_HINT
        )
    code, message, hint = (
        _after_degree(before) or _in_brackets(before, text[span.start :]) or _item(token, before)
    )
    if not token:
        # The end of the text is no place to point at: the mistake is in what stands before it.
        span = Span(len(before) - 1, len(before))
    return SignatureError(code, message, source=text, span=span, hint=hint)


def _count_at_end(before: str) -> str | None:
    """A number that stands alone at the end, where only a sign of multiplication could follow."""
    match = _NUMBER_AT_END.search(before)
    if match is None or "{" in before[before.rfind("}") + 1 :]:
        return None
    head = before[: match.start()]
    is_apart = head != head.rstrip() or not head[-1:].isalnum()
    is_count = _TIMES_AT_END.search(head.rstrip()) is None and head.rstrip()[-1:] not in "^[@"
    return match[0] if is_apart and (is_count or not head.strip()) else None


_Words: TypeAlias = tuple[str, str, str]  # code, message, hint


def _after_degree(before: str) -> _Words | None:
    if before.endswith("@"):
        return "bad-degree", "a degree is a whole number from 1", "as in AAB@2"
    if "@" in before:
        return "bad-degree", "nothing may follow the degree", "write '@d' once, at the very end"
    return None


def _in_brackets(before: str, rest: str) -> _Words | None:
    """The words for a place inside a power, a size or options; ``rest`` begins there."""
    if _INSIDE_POWER.search(before):
        message = "a power is a whole number from 1, or a lower-case name"
        return "bad-power", message, "as in A^3 or A^r"
    if before.rfind("[") > before.rfind("]"):
        return "bad-size", "a size is one whole number of layers", "as in A[4]"
    if before.rfind("{") > before.rfind("}"):
        return "bad-option", *_in_options(before, rest)
    return None


def _in_options(before: str, rest: str) -> tuple[str, str]:
    """The message and the hint for a place inside the braces of options."""
    capital = _CAPITAL.match(rest)
    if capital:
        start = _NAME_BEFORE.search(before)
        name = (start[0] if start else "") + capital[0]
        return f"names in options are lower case, not {shown(name)}", f"write {shown(name.lower())}"
    if rest.startswith("%"):
        return "a share is not written with '%'", "write it as a fraction: skip=0.5"
    return "options are names with values, separated by commas", "as in A^3{skip=0.5, kv=first}"


def _item(token: str, before: str) -> _Words:
    """The words for a place between items, where a block, a group or a power could stand."""
    sign = _TIMES_AT_END.search(before)
    if sign is not None:
        message = f"after {shown(sign[0])} a whole number of times is missing"
        return "bad-power", message, "write a power with '^': A^3B"
    if not token:
        message = "the text ends where more is needed"
        return "unexpected-character", message, "a signature looks like (A^3)B"
    if token[0] in "^[{@)" or _SUPERSCRIPT.match(token):
        return _suffix(token, before)
    if token[0].islower() and token.isascii():
        letters = token.upper() if token.isalpha() and len(token) <= 8 else token[0].upper()
        return (
            "unexpected-character",
            f"{shown(token)} is not a block",
            f"blocks are upper-case letters: {letters}",
        )
    if token[0].isdigit() and token.isascii():
        message = f"the number {shown(token)} cannot stand here"
        return "unexpected-character", message, _NUMBER_HINT
    if _TIMES_AT_END.search(token):
        message = f"{shown(token)} is not expected here"
        return "unexpected-character", message, "write a power with '^': A^3B"
    # Letters of other scripts can look just like ours, so their code point is shown.
    look_alike = len(token) == 1 and token.isprintable() and not token.isascii()
    code_point = f" (U+{ord(token):04X})" if look_alike else ""
    message = f"{shown(token)}{code_point} is not expected here"
    return "unexpected-character", message, "a signature looks like (A^3)B"


def _suffix(token: str, before: str) -> _Words:
    """The words for a power, size, option list, degree or ``)`` with the wrong thing before it."""
    if token[0] == ")":
        return "missing-block", "the parentheses are empty", "write a block inside: (A)"
    if not before or before[-1] == "(":
        return "missing-block", f"no block stands before {shown(token[0])}", "as in (A^3)B"
    if token[0] == "@":
        return "bad-degree", "a degree belongs to the whole signature", "write '@d' at the very end"
    if token[0] == "[":
        return "bad-size", "a size belongs right after a letter", "as in A[4]^3 or A[4]{each=2}"
    if token[0] == "{":
        if before[-1] == ")":
            message = "options belong to a block or a power, not to a group"
            return "misplaced-option", message, "give the group a power: (AB)^2{skip=0.5}"
        message = "two lists of options stand side by side"
        return "bad-option", message, "write one list: {each=2, reverse}"
    return "stacked-power", "a power of a power needs parentheses", "write (A^3)^2"


# Capitals of Greek and Cyrillic that look like ours.
_LOOK_ALIKE = dict(
    zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧАВЕЅІЈКМНОРСТУХ", "ABEZHIKMNOPTYXABESIJKMHOPCTYX", strict=True)
)
# Wide, mathematical and lowered forms of letters, digits and signs; raised digits are powers.
_FORMS = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff₀-₉]")

_ITEM_END = r"(?<=[A-Z0-9)\]}⁰¹²³⁴⁵⁶⁷⁸⁹⁾])"
_ITEM = r"(?=\s*[A-Z(\[])"

# In this order. What a pattern should not have touched makes a text that cannot be read, and so
# no hint.
_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"([\]'\"](?:\s*\*\s*\d+)?)\s*\+\s*(?=[\['\"\d])", r"\1 "),  # lists and texts of Python, added
    (r"\^\s*\{?\s*(?=[⁰¹²³⁴⁵⁶⁷⁸⁹])", ""),  # A^³
    (r"([×✕⨯]\s*)([NRKT])(?![A-Za-z0-9^])", lambda sign: f"^{sign[2].lower()} "),  # A×N
    (r"([A-Z][0-9]*|\([^()]*\))\s*([×*^]\s*\d+)\s*[×*]\s*(\d+)", r"(\1\2)^\3 "),  # A×3×2
    (r"\^\s*\{?\s*(?:×|\\times)\s*(\d+)\s*\}?", r"^\1"),  # A^{×3}
    (r"([×*]\s*\d+)\s*[×*]" + _ITEM, r"\1 "),  # A×3×B
    (r"[\"'`“”‘’]|\\[()\[\]]|^\$+|\$+$", ""),  # quotes, marks of LaTeX
    (r"\\(?:left|right|quad|qquad|big|Big)(?![a-zA-Z])", ""),
    (r"\\(?:mathbf|mathrm|mathit|mathcal|text|operatorname)\s*\{([^{}]*)\}", r"\1"),
    (r"\\cdot(?![a-zA-Z])|[·∗⋅•∙]", "·"),
    (r"\^\s*\[(\w+)\]", r"^\1"),  # A^[3]
    (r"(?<![A-Za-z0-9\]])\[([^\[\]]*)\]", r"(\1)"),  # a list of Python
    (r"(^|[\s(])\{([^{}=,]*)\}", r"\1(\2)"),  # {A}^3
    (r"([A-Z])_(?:\{(\d+)\}|(\d+))", r"\1\2\3"),  # A_1
    (r"ʳ", "^r"),
    (r"ⁿ", "^n"),
    (r"ᵏ", "^k"),
    (r"([A-Z][0-9]*)\((\d+)\)", r"\1^\2"),  # A(3)
    (_ITEM_END + r"\s*(?:[xX·]|times)\s*(?=\d)", "*"),
    (_ITEM_END + r"\s*(\d+)\s*(?:times|x)(?![a-z])", r"*\1"),  # A 3 times
    (r"(\d)\s*(?:[xX·]|times)\s*(?=[A-Z(])", r"\1*"),
    (r"(^|[(,;|\s])(\d+)\s*(?=[A-Z(])", r"\1\2*"),  # 3A
    (_ITEM_END + r"\s*(?:[-–—,;|/>&]|then|and)+" + _ITEM, " "),  # A-A-B
    (r"(?<=[A-Z)\]}⁰¹²³⁴⁵⁶⁷⁸⁹⁾])\s*(?:[×✕⨯·*]|\\times)" + _ITEM, " "),  # A×B
    (r"(\^\{?\w+\}?)\s*(?:[×✕⨯·*]|\\times)" + _ITEM, r"\1 "),  # A^3×B
    (r"(?<!\*)\(([A-Z][0-9]*)\)", r"\1"),
)


def respell(text: str) -> str:
    """The text with what people write elsewhere in place of the notation's own marks."""
    text = _FORMS.sub(lambda form: unicodedata.normalize("NFKC", form[0]), text)
    text = "".join(_LOOK_ALIKE.get(letter, letter) for letter in text)
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    return text.strip()


class NotationWarning(UserWarning):
    """A signature may not mean what was meant."""


def notes_on(sig: Signature) -> list[str]:
    """A sentence or two on each thing that is easily meant otherwise."""
    notes = [f"{problem.message}; {problem.hint}" for problem in _lone_numbers(sig)]
    entries = _entries_meant(sig.source) or _entries_like(sig.source)
    if entries:
        blocks = plural(len({ref.letter for ref in mentions(sig.body)}), "block")
        word = "entry" if len(entries) == 1 else "entries"
        names = ", ".join(entries[:_MAX_ENTRIES])
        notes.append(
            f"{sig.source.strip()} is read as a signature of {blocks}; "
            f"the zoo has the {word} {names}"
        )
    return notes


def refuse_doubtful(sig: Signature) -> None:
    """Raises SignatureError (``lone-number``) for numbered letters that look like powers."""
    problems = _lone_numbers(sig)
    if problems:
        raise SignatureError.of(*problems)


def _lone_numbers(sig: Signature) -> list[Problem]:
    """A numbered letter that is the only one of its letter: ``A3`` where there is no other A."""
    first: dict[str, BlockRef] = {}
    for ref in mentions(sig.body):
        first.setdefault(ref.letter, ref)
    problems = []
    alike = Counter(name[0] for name in first)
    for name, ref in first.items():
        letter, digits = name[0], name[1:]
        if 0 < len(digits) <= MAX_DIGITS and alike[letter] == 1:
            before = sig.source[: ref.span.start].rstrip()
            problems.append(
                Problem(
                    "lone-number",
                    f"{name} is a block",
                    source=sig.source,
                    span=ref.span,
                    hint=_instead(letter, digits.lstrip("0"), before),
                )
            )
    return problems


def _instead(letter: str, digits: str, before: str) -> str:
    """What to write where the number was meant as a number of times, as in A3 or (AB)X2."""
    if digits in ("", "1"):
        return f"for {letter} once write {letter}"
    count = int(digits) if len(digits) < 3 else len(_TIMES)
    times = _TIMES[count] if count < len(_TIMES) else f"{digits} times"
    if letter == "X" and before.endswith((")", "]", "}")):
        return f"to repeat what is before it {times} write ^{digits}"
    return f"for {letter} {times} write {letter}^{digits}"


def zoo_hint(text: str) -> str | None:
    """A hint for a text that cannot be read and is like the name of an entry of the zoo."""
    word = text.strip()
    if not _WORD.fullmatch(word):
        return None
    entries = _entries_meant(word) or _entries_like(word)
    if not entries:
        return None
    if entries == [word]:
        return f"'{word}' is an entry of the zoo; give its name to rinsc.model_spec or a command"
    return (
        "did you mean the entry of the zoo "
        + " or ".join(f"'{name}'" for name in entries[:_MAX_ENTRIES])
        + "?"
    )


def _entries_meant(text: str) -> list[str]:
    """Entries of the zoo of this name in any case, or with names that begin with it."""
    word = text.strip()
    if not _WORD.fullmatch(word):
        return []
    names, word = _entry_names(), word.lower()
    if word in names:
        return [word]
    return [name for name in names if name.startswith(f"{word}-")]


def _entries_like(text: str) -> list[str]:
    """The entry of the zoo whose name is most like a word of some length."""
    word = text.strip()
    if not MIN_LIKE <= len(word) <= MAX_LIKE or not _WORD.fullmatch(word):
        return []
    near = nearest(word.lower(), _entry_names(), cutoff=0.75)
    return [] if near is None else [near]


@cache
def _entry_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in zoo_dir().glob("*.toml")))
