"""Markdown to the plain prose and verse it marks up; light, and deterministic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rinsc.data.documents import PART_BYTES, text_parts

_HEADING = re.compile(r"^#{1,6} +", re.MULTILINE)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_STARS = re.compile(r"\*(?=\S)((?:(?!\n\n)[^*])+)(?<=\S)\*")
_UNDERSCORES = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")  # those inside a word stay
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!-])")
# Looked for at the beginning of a run alone, else a long run takes time with its square.
_TRAILING_SPACE = re.compile(r"(?<![ \t])[ \t]++$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
# Between these, nothing above looks back, or ahead.
_INSIDE_A_LINE = re.compile(r"[^ \t\\*_](?=[^#*_])")


def plain_text(markdown: str) -> str:
    """The text without heading marks, bold, emphasis, escapes and trailing spaces."""
    return "".join(_plain([markdown]))


def plain_bytes(markdown: bytes) -> bytes:
    """`plain_text` of UTF-8, with little memory beside the text."""
    return b"".join(part.encode("utf-8") for part in _plain(text_parts(markdown)))


def _plain(texts: Iterable[str]) -> Iterator[str]:
    """The plain text in parts, with two line ends at most in a row, none first, one last."""
    held = ""  # line ends after what has been given
    is_first = True
    for part in _parts(texts):
        text = held + _without_marks(part)
        body = text.strip("\n")
        if body:
            before = len(text) - len(text.lstrip("\n"))
            yield _BLANK_LINES.sub("\n\n", body if is_first else text[:before] + body)
            held = text[before + len(body) :][:2]
            is_first = False
        else:
            held = text[:2]
    yield "\n"


def _parts(texts: Iterable[str]) -> Iterator[str]:
    """The same text in parts of some size that end between paragraphs, as no mark goes further.

    A paragraph that is much longer is cut at the end of a line, or else inside one.
    """
    rest = ""
    for text in texts:
        rest += text
        start = 0
        while len(rest) - start > 2 * PART_BYTES:
            end = _end_of_part(rest, start + PART_BYTES, start + 2 * PART_BYTES)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    yield rest


def _end_of_part(text: str, first: int, last: int) -> int:
    for mark in ("\n\n", "\n"):
        if (at := text.find(mark, first, last)) >= 0:
            return at + len(mark)
    found = _INSIDE_A_LINE.search(text, first, last)
    return found.end() if found else last


def _without_marks(text: str) -> str:
    text = _HEADING.sub("", text)
    text = _BOLD.sub(r"\1", text)
    text = _STARS.sub(r"\1", text)
    text = _UNDERSCORES.sub("", text)
    text = _ESCAPE.sub(r"\1", text)
    return _TRAILING_SPACE.sub("", text)
