"""One field of a giant row of JSON, with little memory beside the row.

A parser makes an object of some dozens of bytes of each value, and a string of four bytes for each
character where one of them is an emoji. Here the values that nobody asked for are only checked.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rinsc.data.documents import text_parts
from rinsc.storage.files import parse_json

KEPT_NAMES = 100  # of fields, to say which there are
KEY_BYTES = 1 << 12  # a longer name of a field is no name that anybody gives

_TOKEN = re.compile(
    rb"""[ \t\n\r]*+(?:([][{}:,])|("(?:[^"\\]++|\\.)*+")|"""
    rb"""((?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?|-?Infinity|NaN)"""
    rb"""|true|false|null)|(\Z))""",
    re.DOTALL,
)
# As much of a string as is decoded at once: no escape is cut, nor a pair of halves.
_PART = re.compile(
    rb"(?:[^\\]{1,4096}+|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
    rb"|\\u[0-9a-fA-F]{4}|\\.){1,64}+",
    re.DOTALL,
)
# Marks of tokens: what stands there, `a` for a number or a name, `$` for the end of the row.
_ALLOWED = {
    "value": '[{"a',
    "value or end": '[{"a]',
    "key": '"',
    "key or end": '"}',
    "colon": ":",
    "next": ",]}",
    "nothing": "$",
}
_MARKS = ("", "", '"', "a", "$")  # by the group of the token
_KINDS = {"[": "list", "{": "dict", '"': "str", "t": "bool", "f": "bool", "n": "NoneType"}


@dataclass
class WideRow:
    """A row, and what it holds under one name: the name of its type in Python, and where."""

    line: bytes
    kind: str = ""  # of the row itself
    names: list[str] = field(default_factory=list)
    has_field: bool = False
    field_kind: str = ""
    span: tuple[int, int] = (0, 0)

    def add_name(self, name: str | None) -> None:
        if name is not None and len(self.names) < KEPT_NAMES and name not in self.names:
            self.names.append(name)

    def text(self) -> bytes:
        """The text of a field of the kind "str".

        Raises UnicodeEncodeError, with the place in the text, for half a character of UTF-16.
        """
        encoded, characters = io.BytesIO(), 0
        for part in _decoded(self.line, *self.span):
            try:
                encoded.write(part.encode("utf-8"))
            except UnicodeEncodeError as error:
                at = characters + error.start
                raise UnicodeEncodeError("utf-8", "", at, at + 1, error.reason) from None
            characters += len(part)
        return encoded.getvalue()


def read_wide_row(line: bytes, name: str, most_depth: int) -> WideRow:
    """Look through all of a row for the field ``name``, the last one of that name.

    Raises UnicodeDecodeError for what is no UTF-8, and ValueError for what is no JSON or nests
    deeper than ``most_depth``.
    """
    for _ in text_parts(line):
        pass
    row, stack, key, expected = WideRow(line), "", None, "value"
    for mark, start, end in _tokens(line):
        if mark not in _ALLOWED[expected] or (mark in "]}" and stack[-1] + mark not in "[]{}"):
            raise ValueError(f"unexpected text at byte {start}")
        if mark == '"' and expected.startswith("key"):
            text = _checked_string(line, start, end)
            if len(stack) == 1:
                key = text
                row.add_name(text)
            expected = "colon"
            continue
        if mark in '[{"a':
            if len(stack) == 1 and row.kind == "dict" and key == name:
                row.has_field, row.field_kind = True, _kind(line[start:end])
                row.span = start + 1, end - 1
            elif not stack:
                row.kind = _kind(line[start:end])
            if mark == '"':
                _checked_string(line, start, end)
        if mark in "[{":
            stack += mark
            if len(stack) > most_depth:
                raise ValueError(f"values nest deeper than {most_depth}")
            expected = "value or end" if mark == "[" else "key or end"
        elif mark == ",":
            expected = "key" if stack[-1] == "{" else "value"
        elif mark == ":":
            expected = "value"
        else:
            stack = stack[:-1] if mark in "]}" else stack
            expected = "next" if stack else "nothing"
    return row


def _tokens(line: bytes) -> Iterator[tuple[str, int, int]]:
    """The mark of each token, and where it is; an unknown one ends them, as the end does."""
    at = 0
    while match := _TOKEN.match(line, at):
        which = match.lastindex or 0
        start, at = match.span(which)
        yield chr(line[start]) if which == 1 else _MARKS[which], start, at
        if which == len(_MARKS) - 1:
            return
    yield "?", at, at


def _checked_string(line: bytes, start: int, end: int) -> str | None:
    """A short string; None for a long one, which is decoded in parts to see that it can be."""
    if end - start <= KEY_BYTES:
        text: str = parse_json(line[start:end])
        return text
    for _ in _decoded(line, start + 1, end - 1):
        pass
    return None


def _decoded(line: bytes, start: int, end: int) -> Iterator[str]:
    """What stands between the quotes of a string in JSON, part by part; raises ValueError."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for part in _PART.finditer(line, start, end):
        yield parse_json(f'"{decoder.decode(part[0])}"')


def _kind(value: bytes) -> str:
    """The name of the type that the value has in Python."""
    first = chr(value[0])
    if first in "-0123456789NI":
        return "int" if value.lstrip(b"-").isdigit() else "float"
    return _KINDS[first]
