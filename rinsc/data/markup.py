"""Markdown to the plain prose and verse it marks up; light, and deterministic."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^#{1,6} +", re.MULTILINE)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_STARS = re.compile(r"\*(?=\S)((?:(?!\n\n)[^*])+)(?<=\S)\*")
_UNDERSCORES = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")  # those inside a word stay
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!-])")
_TRAILING_SPACE = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def plain_text(markdown: str) -> str:
    """The text without heading marks, bold, emphasis, escapes and trailing spaces."""
    text = _HEADING.sub("", markdown)
    text = _BOLD.sub(r"\1", text)
    text = _STARS.sub(r"\1", text)
    text = _UNDERSCORES.sub("", text)
    text = _ESCAPE.sub(r"\1", text)
    text = _TRAILING_SPACE.sub("", text)
    return _BLANK_LINES.sub("\n\n", text).strip("\n") + "\n"
