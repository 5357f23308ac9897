"""``rinsc data add``: gets a corpus out of its package, makes plain text of it, compares."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeAlias

from rinsc.data.corpora import RECORD, Added, Entry, added_folder, folder_sha256
from rinsc.data.names import cannot_read, damaged, data_error
from rinsc.data.packages import files_of, opened_package
from rinsc.data.text_files import plain_text
from rinsc.storage.folders import folder_aside, one_process


def add(entry: Entry) -> Added:
    """Put the texts of ``entry`` into the data folder, in the place of what was there.

    Raises DataError where the package cannot be had, is of a version whose text is not known, or
    gives another text; OutputError where the folder cannot be written. Nothing is changed then.
    """
    target = added_folder(entry.name)
    with (
        one_process(target),
        opened_package(entry) as (root, version),
        folder_aside(target) as part,
    ):
        added = _write_texts(entry, version, root, part)
        _compare(entry, added)
        (part / RECORD).write_text(json.dumps(asdict(added), indent=2), encoding="utf-8")
    return added


def _write_texts(entry: Entry, version: str, root: Path, part: Path) -> Added:
    for name, path in files_of(entry, root):
        for suffix, text in _read(entry, path):
            output = part / f"{name}{suffix}.txt"
            if ".." in output.parts:  # a database names its books
                raise damaged(path, ValueError("a text has a name outside of its folder"))
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8", newline="\n")
    sha256, files, size = folder_sha256(part)
    if not files:
        message = f"version {version} of {entry.package} holds no such files"
        raise data_error("no-text-files", message, root, f"known versions: {entry.versions}")
    return Added(version, files, size, sha256)


def _read(entry: Entry, path: Path) -> list[tuple[str, str]]:
    try:
        return list(READERS[entry.reader](path))
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error, sqlite3.Error) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _compare(entry: Entry, added: Added) -> None:
    expected = entry.sha256.get(added.version)
    if expected is None:
        message = f"no sha256 is known of '{entry.name}' in version {added.version}"
        hint = f"known: {entry.versions}; or name its files with text:PATTERN"
        raise data_error("unknown-version", message, entry.package, hint)
    if expected != added.sha256:
        message = f"the text has the sha256 {added.sha256}, not {expected}"
        hint = "the package was changed, or is not whole; install it anew"
        raise data_error("other-text", message, f"{entry.package} {added.version}", hint)


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
