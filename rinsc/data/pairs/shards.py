"""Shards of WebDataset: .tar files in which the files of one picture follow each other.

    000000.jpg  000000.txt     one pair: what stands before the first point of the names is equal
    000001.png  000001.json    {"caption": "a dog"}

Nothing is unpacked onto the disk, and what is too large is not read.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rinsc.data.names import cannot_read, damaged
from rinsc.data.pairs.decoding import SUFFIXES, BadPictureError
from rinsc.data.pairs.files import Columns
from rinsc.data.pairs.raw import (
    CAPTION_NAMES,
    LABEL_NAME,
    SPLIT_NAME,
    RawPair,
    captions_of,
    lines_of,
    part_named,
    require_bytes,
)
from rinsc.data.text_files import file_facts
from rinsc.storage.files import parse_json

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class Shards:
    """A `PairSource` of .tar files."""

    files: dict[str, Path]
    columns: Columns

    def identity(self) -> Mapping[str, object]:
        columns = [self.columns.image, self.columns.caption]
        return {"kind": "shards", "files": file_facts(self.files), "columns": columns}

    def pairs(self) -> Iterator[RawPair]:
        for name, path in self.files.items():
            try:
                with tarfile.open(path, "r|*") as archive:
                    yield from self._of_shard(name, archive)
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
                raise damaged(path, error) from error
            except OSError as error:
                raise (damaged if error.errno is None else cannot_read)(path, error) from error

    def _of_shard(self, shard: str, archive: tarfile.TarFile) -> Iterator[RawPair]:
        sample = _Sample("", self.columns)
        for member in archive:
            if member.isdir():
                continue
            key, ending = _key_and_ending(member.name)
            if key != sample.key:
                yield from sample.pairs(shard)
                sample = _Sample(key, self.columns)
            try:
                sample.add(ending, member, archive)
            except BadPictureError as error:
                sample.problem = sample.problem or str(error)
        yield from sample.pairs(shard)


class _Sample:
    """The files of one picture, as they pass."""

    def __init__(self, key: str, columns: Columns) -> None:
        self.key, self._columns = key, columns
        self.problem = ""
        self._picture: bytes | None = None
        self._captions: dict[str, tuple[str, ...]] = {}
        self._facts: Mapping[str, object] = {}

    def add(self, ending: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        chosen = self._columns
        is_picture = f".{ending}" in SUFFIXES if chosen.image is None else ending == chosen.image
        is_text = ending == (chosen.caption or "txt")
        if not (is_picture or is_text or ending == "json"):
            return
        if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
            raise BadPictureError("its name leads out of the archive")
        if not member.isreg():
            raise BadPictureError("it is a link or a device, which is not followed")
        if is_picture:
            require_bytes(member.size)
        elif member.size > MAX_TEXT_BYTES:
            raise BadPictureError(f"its caption has {member.size:,} bytes")
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
        if is_picture and self._picture is None:
            self._picture = data
        elif is_text:
            self._captions["txt"] = lines_of(data)
        elif ending == "json":
            self._read_json(data)

    def _read_json(self, data: bytes) -> None:
        try:
            facts = parse_json(data)
        except ValueError:
            raise BadPictureError("its .json is no JSON in UTF-8") from None
        if not isinstance(facts, dict):
            return
        self._facts = facts
        named = (self._columns.caption,) if self._columns.caption else CAPTION_NAMES
        found = next((name for name in named if name in facts), None)
        if found is not None:
            self._captions["json"] = captions_of(facts[found])

    def pairs(self, shard: str) -> Iterator[RawPair]:
        """The pair, or what is wrong with it; nothing where there are other files alone."""
        name = f"{shard}: {self.key}"
        captions = self._captions.get("txt") or self._captions.get("json") or ()
        if self.problem:
            yield RawPair(name, problem=self.problem)
        elif self._picture is not None and not captions:
            yield RawPair(name, problem="it has no caption")
        elif self._picture is not None:
            label, split = self._facts.get(LABEL_NAME), self._facts.get(SPLIT_NAME)
            label = label if isinstance(label, str) else ""
            yield RawPair(name, captions, self._picture, part=part_named(split), label=label)
        elif captions:
            yield RawPair(name, problem="it has a caption and no picture")


def _key_and_ending(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower()
