"""Text files in one order everywhere: each a document, whole files held out, without markup."""

from __future__ import annotations

import glob
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rinsc.data.documents import (
    PART_BYTES,
    Document,
    Part,
    cut,
    free_unused_memory,
    held_out_names,
    text_facts,
    text_parts,
)
from rinsc.data.names import cannot_read, data_error, expanded, not_utf8


def find_files(where: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files by their names inside the corpus, sorted.

    Of a folder and all below it, the files with one of the suffixes; of a pattern (``*``, ``?``,
    ``**``), every file that matches. Raises DataError where there are none.
    """
    path = expanded(where)
    if path.is_dir():
        return _of_folder(path, suffixes)
    if path.exists():
        if not path.is_file():
            hint = "copy the text into a file"
            raise data_error("not-a-file", "this is not a regular file", path, hint)
        return {path.name: path}
    if glob.has_magic(where):
        return _of_pattern(path)
    raise data_error("no-such-path", "no file or folder of this name", path, "check the path")


def file_facts(files: dict[str, Path]) -> list[list[object]]:
    """Name, size and times of change of each file: what tells a changed file from an old one.

    The time of the contents can be set, as archives and copies do; that of the entry cannot.
    """
    facts: list[list[object]] = []
    for name, path in files.items():
        try:
            status = path.stat()
        except OSError as error:
            raise cannot_read(path, error) from error
        facts.append([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return facts


def total_size(files: dict[str, Path]) -> int:
    return sum(path.stat().st_size for path in files.values())


def _of_folder(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    paths = []
    # A part that cannot be listed must not be left out silently.
    for root, _, names in os.walk(folder, onerror=_refuse):
        paths += [Path(root, name) for name in names if name.lower().endswith(tuple(suffixes))]
    paths = sorted(path for path in paths if path.is_file())
    if not paths:
        message = f"no {' or '.join(suffixes)} files in this folder"
        hint = "name a folder that holds some, or a file"
        raise data_error("no-text-files", message, folder, hint)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _of_pattern(pattern: Path) -> dict[str, Path]:
    paths = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise data_error("no-such-path", "no file matches this pattern", pattern, "check it")
    base = Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(base).as_posix(): path for path in paths}


def _refuse(error: OSError) -> None:
    raise cannot_read(Path(error.filename or "?"), error) from error


SUFFIXES = (".txt", ".md")
MAX_FILE_BYTES = 1 << 30  # one file is held in memory


@dataclass(frozen=True)
class TextFiles:
    """A `Source` of files in UTF-8, by their names inside the corpus; .md files lose their markup.

    ``ending`` is cut off the names: that of files which were written as ``NAME.txt`` before.
    """

    name: str
    files: dict[str, Path]
    ending: str = ""
    names_documents = True

    @property
    def total_bytes(self) -> int:
        return total_size(self.files)

    def identity(self) -> Mapping[str, object]:
        return {"kind": "text", "files": file_facts(self.files), "ending": self.ending}

    def documents(self) -> Iterator[tuple[Part, Document]]:
        """Every file that is not blank; of a single one the beginning and the end."""
        files = {document.name: text_facts(document) for document in self._read_all()}
        held_out = held_out_names(files)
        for document in self._read_all():
            if len(files) == 1:
                head, tail = cut(document)
                del document  # what is long is kept once
                free_unused_memory()
                yield "train", head
                del head
                yield "held_out", tail
            elif document.name in files:  # else it was blank a moment ago
                yield ("held_out" if document.name in held_out else "train"), document

    def _read_all(self) -> Iterator[Document]:
        for name, path in self.files.items():
            document = Document(name.removesuffix(self.ending), read_text(path))
            if not document.is_blank:
                parts = [document]
                del document
                yield parts.pop()


def read_text(path: Path) -> bytes:
    """The text of one file in UTF-8, with plain line ends; raises DataError."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            message = f"{size} bytes in one file; at most {MAX_FILE_BYTES} are read"
            raise data_error("too-much-text", message, path, "cut it into several files")
        data = path.read_bytes().removeprefix(BOM_UTF8)
        for _ in text_parts(data):
            pass  # all of it is UTF-8
    except OSError as error:
        raise cannot_read(path, error) from error
    except UnicodeDecodeError as error:
        raise not_utf8(error.start, path) from error
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return plain_bytes(data) if path.suffix.lower() == ".md" else data


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
    match = _INSIDE_A_LINE.search(text, first, last)
    return match.end() if match else last


def _without_marks(text: str) -> str:
    text = _HEADING.sub("", text)
    text = _BOLD.sub(r"\1", text)
    text = _STARS.sub(r"\1", text)
    text = _UNDERSCORES.sub("", text)
    text = _ESCAPE.sub(r"\1", text)
    return _TRAILING_SPACE.sub("", text)
