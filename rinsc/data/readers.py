"""How the files of packages become plain text."""

from __future__ import annotations

import gzip
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeAlias

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


# A reader yields the texts of one file, each with what is added to the file's name, mostly "".
Reader: TypeAlias = Callable[[Path], Iterator[tuple[str, str]]]

GCIDE_ENTRY_LINES = 20_000  # one dictionary becomes some dozens of files

_BLOCKS = frozenset(
    (
        *("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "dl", "dt", "dd"),
        *("div", "tr", "table", "blockquote", "pre", "br", "hr"),
    )
)
_VERSE_NUMBER = re.compile(r"(?<!\S)\d+:\d+\S* ?")
_HIDDEN = frozenset(("script", "style", "head", "title"))


def read_utf8(path: Path) -> Iterator[tuple[str, str]]:
    yield "", path.read_text(encoding="utf-8")


def read_latin1(path: Path) -> Iterator[tuple[str, str]]:
    yield "", path.read_text(encoding="latin-1")


def read_markdown(path: Path) -> Iterator[tuple[str, str]]:
    yield "", plain_text(path.read_text(encoding="utf-8"))


def read_html(path: Path) -> Iterator[tuple[str, str]]:
    collector = _TextOfHtml()
    collector.feed(path.read_text(encoding="utf-8", errors="replace"))
    collector.close()
    yield "", collector.text()


def read_dictionary(path: Path) -> Iterator[tuple[str, str]]:
    """A dictionary of dictd: gzip; cut at the empty lines between entries into equal files."""
    with gzip.open(path, "rt", encoding="cp1252", newline="\n") as file:
        lines: list[str] = []
        number = 0
        for line in file:
            lines.append(line)
            if len(lines) >= GCIDE_ENTRY_LINES and not line.strip():
                yield f"-{number:03}", "".join(lines)
                lines, number = [], number + 1
        yield f"-{number:03}", "".join(lines)


def read_bible(path: Path) -> Iterator[tuple[str, str]]:
    """A database of verses: one text a book, one line a row of verses, without their numbers."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
        base.execute("PRAGMA trusted_schema = OFF")  # its views call no functions with effects
        books = base.execute(
            "SELECT TestamentID, BookID, ShortName, LongName FROM Books ORDER BY 1, 2"
        )
        for number, (testament, book, short, title) in enumerate(books.fetchall(), start=1):
            rows = base.execute(
                "SELECT Passage1, Passage2 FROM Bible WHERE TestamentID = ? AND BookID = ?"
                " ORDER BY ChapterID, VerseID",
                (testament, book),
            )
            lines = (" ".join(part for part in row if part) for row in rows)
            text = "\n".join(_VERSE_NUMBER.sub("", line) for line in lines)
            yield f"/{number:02}-{short.replace(' ', '-')}", f"{title}\n\n{text}\n"


READERS: Mapping[str, Reader] = {
    "utf8": read_utf8,
    "latin1": read_latin1,
    "markdown": read_markdown,
    "html": read_html,
    "dictionary": read_dictionary,
    "bible": read_bible,
}


class _TextOfHtml(HTMLParser):
    """Collects what a browser would show: text, with a line end around each block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        joined = re.sub(r" *\n *", "\n", "".join(self._parts))
        return re.sub(r"\n{3,}", "\n\n", joined).strip() + "\n"
