"""What is right in the notation and may still not be what was meant."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from rinsc.errors import Problem, SignatureError, nearest, plural
from rinsc.resources import zoo_dir
from rinsc.syntax.tree import MAX_DIGITS, BlockRef, Signature, mentions

_TIMES = ("no times", "once", "twice", "three times", "four times", "five times", "six times")
_MAX_ENTRIES = 4  # of the zoo, in a note
MIN_LIKE, MAX_LIKE = 4, 32  # characters of a word that is compared with every name
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9.-]{2,63}")  # what could be meant as the name of an entry


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
