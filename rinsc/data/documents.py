"""Documents, the two parts of a corpus, and which document belongs to which."""

from __future__ import annotations

import codecs
import ctypes
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from rinsc.data.names import data_error
from rinsc.errors import plural

Part: TypeAlias = Literal["train", "held_out"]

HELD_OUT_SHARE = 0.10
MIN_TRAIN_BYTES = 4096
MIN_HELD_OUT_BYTES = 256
PART_BYTES = 1 << 16  # of a long text, at once


@dataclass(frozen=True, init=False)
class Document:
    """One text; ``name`` is its path inside the corpus, with slashes, or its place in it.

    It is kept as UTF-8: a str takes four bytes for each character where one of them is an emoji.
    """

    name: str
    data: bytes

    def __init__(self, name: str, text: str | bytes | None = None, data: bytes = b"") -> None:
        object.__setattr__(self, "name", name)
        if text is not None:  # else `dataclasses.replace` hands over the data
            data = text.encode("utf-8") if isinstance(text, str) else text
        object.__setattr__(self, "data", data)

    @property
    def text(self) -> str:
        return self.data.decode("utf-8")

    @property
    def is_blank(self) -> bool:
        return all(part.isspace() for part in text_parts(self.data))

    @property
    def byte_count(self) -> int:
        return len(self.data)


def free_unused_memory() -> None:
    """Give freed memory back to the system, where the C library has a call for it.

    Else that of one long text stays beside that of the next.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def text_parts(data: bytes) -> Iterator[str]:
    """UTF-8 as text, part by part; raises UnicodeDecodeError with the place in all of it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), PART_BYTES):
        part = data[start : start + PART_BYTES]
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(part, start + PART_BYTES >= len(data))
        except UnicodeDecodeError as error:
            at = start - held + error.start
            raise UnicodeDecodeError("utf-8", b"", at, at + 1, error.reason) from None
        yield text


class Source(Protocol):
    """A corpus that can be read as often as is wanted, one document in memory at a time."""

    @property
    def name(self) -> str: ...

    @property
    def total_bytes(self) -> int | None:
        """About how much `documents` will read, for those who show progress."""

    @property
    def names_documents(self) -> bool:
        """Whether the documents' names are worth keeping: they are files."""

    def identity(self) -> Mapping[str, object]:
        """What the texts depend on, as JSON, without reading them. Raises DataError."""

    def documents(self) -> Iterator[tuple[Part, Document]]:
        """Every document that is not blank, in its part. Raises DataError."""


@dataclass(frozen=True)
class Corpus:
    """Text for training and text that is never trained on, in memory."""

    name: str
    train: tuple[Document, ...]
    held_out: tuple[Document, ...]
    names_documents: bool = True

    def record(self) -> dict[str, object]:
        """What was trained and evaluated on: documents, byte counts, a sha256 of each part."""
        parts = {}
        for part, documents in (("train", self.train), ("held_out", self.held_out)):
            tally = PartTally(self.names_documents)
            for document in documents:
                tally.add(document)
            parts[part] = tally.record()
        return {"name": self.name, **parts}


class PartTally:
    """Counts the documents of one part as they pass."""

    def __init__(self, names_documents: bool) -> None:
        self._names_documents = names_documents
        self._names: list[str] = []
        self._digest = hashlib.sha256()
        self.documents = 0
        self.byte_count = 0

    def add(self, document: Document) -> None:
        self.documents += 1
        self.byte_count += document.byte_count
        self._digest.update(document.data)
        if self._names_documents:
            self._names.append(document.name)

    def record(self) -> dict[str, object]:
        """Bytes, the sha256 of all texts in a row, and the files or how many documents."""
        which: dict[str, object] = (
            {"files": self._names} if self._names_documents else {"documents": self.documents}
        )
        return {**which, "bytes": self.byte_count, "sha256": self._digest.hexdigest()}


def split(name: str, documents: Iterable[Document]) -> Corpus:
    """Hold out about a tenth of the bytes, as `held_out_names` says.

    A corpus of one file is cut at the end of a line instead. Raises DataError where either part
    would be too small to use.
    """
    documents = [document for document in documents if not document.is_blank]
    if len(documents) == 1:
        head, tail = cut(documents[0])
        corpus = Corpus(name, train=(head,), held_out=(tail,))
    else:
        held_out = held_out_names({document.name: text_facts(document) for document in documents})
        corpus = Corpus(
            name,
            train=tuple(d for d in documents if d.name not in held_out),
            held_out=tuple(d for d in documents if d.name in held_out),
        )
    sizes = [sum(d.byte_count for d in part) for part in (corpus.train, corpus.held_out)]
    check_amounts(name, *sizes)
    return corpus


@dataclass(frozen=True)
class TextFacts:
    """What the split asks of a file's text."""

    byte_count: int
    sha256: str


def text_facts(document: Document) -> TextFacts:
    return TextFacts(document.byte_count, hashlib.sha256(document.data).hexdigest())


def held_out_names(files: Mapping[str, TextFacts]) -> frozenset[str]:
    """The files that are held out, by the hash of their names; copies of a text stay together.

    Texts are taken in the order of these hashes as long as they fit into a tenth of the bytes;
    where none fits, the smallest is held out.
    """
    limit = HELD_OUT_SHARE * sum(facts.byte_count for facts in files.values())
    copies: dict[str, list[str]] = {}
    for name in sorted(files, key=_sha256):
        copies.setdefault(files[name].sha256, []).append(name)
    sizes = {text: sum(files[name].byte_count for name in names) for text, names in copies.items()}
    held_out: set[str] = set()
    total = 0
    for text, names in copies.items():
        if total + sizes[text] <= limit:
            held_out.update(names)
            total += sizes[text]
    if files and not held_out:
        smallest = min((facts.sha256 for facts in files.values()), key=lambda text: sizes[text])
        held_out.update(copies[smallest])
    return frozenset(held_out)


def part_of(text: str | bytes) -> Part:
    """The part of a document that is no file, by the hash of its text.

    Equal documents fall into the same part, so none is trained on that is held out elsewhere.
    """
    share = int(_sha256(text)[:16], 16) / 16**16
    return "held_out" if share < HELD_OUT_SHARE else "train"


def cut(document: Document) -> tuple[Document, Document]:
    """The only file of a corpus in two: at the end of a line, or inside one that is too long."""
    data = document.data
    characters = sum(map(len, text_parts(data)))
    middle = int(characters * (1 - HELD_OUT_SHARE))
    last = (middle + characters) // 2  # at least half of the share is held out
    first, beyond = _byte_of(data, middle), _byte_of(data, last)
    end = data.find(b"\n", first, beyond) + 1 or first
    head = Document(f"{document.name} (beginning)", data[:end])
    return head, Document(f"{document.name} (end)", data[end:])


def _byte_of(data: bytes, character: int) -> int:
    """Where the character begins that has so many before it."""
    at = 0
    for part in text_parts(data):
        if character <= len(part):
            return at + len(part[:character].encode("utf-8"))
        character -= len(part)
        at += len(part.encode("utf-8"))
    return at


def check_amounts(name: str, train_bytes: int, held_out_bytes: int) -> None:
    """Raises DataError unless there is enough of both parts."""
    for part, count, least in (
        ("train on", train_bytes, MIN_TRAIN_BYTES),
        ("hold out", held_out_bytes, MIN_HELD_OUT_BYTES),
    ):
        if count < least:
            message = f"{plural(count, 'byte')} to {part}; at least {least} are needed"
            raise data_error("too-little-text", message, name, "add more text")


def _sha256(text: str | bytes) -> str:
    # Names of files may hold bytes that are no text, texts of JSON half characters.
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()
