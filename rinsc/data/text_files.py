"""Text files: each is a document, and whole files are held out."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rinsc.data.documents import (
    Document,
    Part,
    cut,
    free_unused_memory,
    held_out_names,
    text_facts,
    text_parts,
)
from rinsc.data.markup import plain_bytes
from rinsc.data.paths import file_facts, total_size
from rinsc.data.problems import cannot_read, data_error, not_utf8

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
