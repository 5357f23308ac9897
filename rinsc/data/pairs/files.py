"""Pictures in files: a folder of them with captions, and lines that name them.

    dog.png  dog.txt                                    captions beside the pictures
    metadata.jsonl  {"file_name": "dog.png", "text": "a dog"}
    pets.jsonl      {"image": "pictures/dog.png", "captions": ["a dog", "a puppy"]}

Several lines of one picture are several captions of it.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rinsc.data.documents import Part
from rinsc.data.names import cannot_read, damaged, data_error
from rinsc.data.pairs.decoding import SUFFIXES, BadPictureError
from rinsc.data.pairs.raw import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    LABEL_NAME,
    SPLIT_NAME,
    Located,
    RawPair,
    captions_of,
    chosen_column,
    lines_of,
    part_named,
)
from rinsc.data.rows import open_lines
from rinsc.data.text_files import file_facts
from rinsc.storage.files import parse_json

METADATA = ("metadata.jsonl", "metadata.csv")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv")
HELD_OUT_FOLDERS = ("test", "validation", "val", "valid", "dev", "eval")
MAX_LINE_BYTES = 1 << 24
MAX_CAPTION_FILE = 1 << 20


@dataclass(frozen=True)
class Columns:
    """What the user says of columns; None where they are to be found."""

    image: str | None = None
    caption: str | None = None
    label: str = LABEL_NAME


@dataclass(frozen=True)
class PictureFolder:
    """A `PairSource` of a folder and all below it: metadata files, and captions beside pictures."""

    folder: Path
    files: dict[str, Path]
    root: Path
    columns: Columns

    def identity(self) -> Mapping[str, object]:
        return {"kind": "folder", "files": file_facts(self.files), **_facts(self)}

    def pairs(self) -> Iterator[RawPair]:
        located = Located(self.root)
        tables = {n: p for n, p in self.files.items() if PurePosixPath(n).name in METADATA}
        described: dict[str, RawPair] = {}
        for name, path in tables.items():
            below = str(PurePosixPath(name).parent)
            described |= {p.name: p for p in line_pairs(path, located, self.columns, below)}
        parts = self._parts()
        for name in self.files:
            if PurePosixPath(name).suffix.lower() in SUFFIXES:
                known = name in described
                pair = described.pop(name) if known else self._beside(located, name)
                part = parts.get(name.partition("/")[0])
                yield replace(pair, part=part) if pair.part is None else pair
        yield from described.values()  # what is named and not there

    def _parts(self) -> Mapping[str, Part]:
        """What the folders ``train`` and ``test``, or ``validation``, say; {} without both."""
        folders = {name.partition("/")[0] for name in self.files if "/" in name}
        parts: dict[str, Part] = {"train": "train", **dict.fromkeys(HELD_OUT_FOLDERS, "held_out")}
        known = {name: part for name, part in parts.items() if name in folders}
        return known if len(set(known.values())) == 2 else {}

    def _beside(self, located: Located, name: str) -> RawPair:
        path = PurePosixPath(name)
        caption = self.files.get(str(path.with_suffix(".txt")))
        try:
            if caption is None:
                raise BadPictureError("it has no caption: no .txt beside it, no line of metadata")
            file = located.file(self.folder, name)
            located.file(self.folder, str(path.with_suffix(".txt")), is_picture=False)
            with caption.open("rb") as opened:
                captions = lines_of(opened.read(MAX_CAPTION_FILE))
        except BadPictureError as error:
            return RawPair(name, problem=str(error))
        except OSError as error:
            raise cannot_read(caption or self.files[name], error) from error
        return RawPair(name, captions, file)


@dataclass(frozen=True)
class PictureLines:
    """A `PairSource` of files whose lines name pictures, beside or below them."""

    files: dict[str, Path]
    root: Path | None
    columns: Columns

    def identity(self) -> Mapping[str, object]:
        pictures = {pair.name: pair.data for pair in self.pairs() if isinstance(pair.data, Path)}
        facts = file_facts({**self.files, **pictures})
        return {"kind": "lines", "files": facts, **_facts(self)}

    def pairs(self) -> Iterator[RawPair]:
        for name, path in self.files.items():
            for pair in line_pairs(path, Located(self.root or path.parent), self.columns):
                several = len(self.files) > 1
                yield replace(pair, name=f"{name}/{pair.name}") if several else pair


def line_pairs(path: Path, located: Located, columns: Columns, below: str = "") -> list[RawPair]:
    """The pairs of a file of lines, one a picture; damaged lines come as problems."""
    pairs: dict[str, RawPair] = {}
    for number, row in _rows(path):
        pair = _pair(row, f"{path.name}: line {number}", path, located, columns, below)
        old = pairs.get(pair.name)
        if old is None or old.problem:
            pairs[pair.name] = pair
        elif not pair.problem:
            captions = tuple(dict.fromkeys((*old.captions, *pair.captions)))
            pairs[pair.name] = replace(old, captions=captions)
    return list(pairs.values())


def _pair(
    row: Mapping[str, object] | str,
    place: str,
    path: Path,
    located: Located,
    columns: Columns,
    below: str,
) -> RawPair:
    if isinstance(row, str):
        return RawPair(place, problem=row)
    names = list(row)
    image = row[chosen_column(columns.image, names, IMAGE_NAMES, "image", place)]
    caption = row[chosen_column(columns.caption, names, CAPTION_NAMES, "caption", place)]
    if not isinstance(image, str):
        return RawPair(place, problem="the picture's path is no text")
    name = image if "://" in image else str(PurePosixPath(below) / image)
    label = row.get(columns.label)
    try:
        return RawPair(
            name,
            captions_of(caption),
            located.file(path.parent, image),
            part=part_named(row.get(SPLIT_NAME)),
            label=label if isinstance(label, str) else "",
        )
    except BadPictureError as error:
        return RawPair(name, problem=str(error))


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    """The number of each line with its row, or what is wrong with it."""
    try:
        with open_lines(path) as file:
            if path.suffix.lower() == ".csv":
                yield from _csv_rows(path, file.read())
            else:
                yield from _json_rows(iter(lambda: file.readline(MAX_LINE_BYTES), b""))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _json_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except UnicodeDecodeError:
            yield number, "the line is not UTF-8 text"
        except ValueError:
            yield number, "the line is not JSON"
        else:
            yield number, row if isinstance(row, dict) else "the line is no JSON object"


def _csv_rows(path: Path, data: bytes) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "convert the file to UTF-8"
        message = f"byte {error.start} is not UTF-8 text"
        raise data_error("not-utf8", message, path, hint) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            whole = None not in row and None not in row.values()
            yield reader.line_num, row if whole else "the line has not as many values as the first"
    except csv.Error as error:
        raise damaged(path, error) from error


def _facts(source: PictureFolder | PictureLines) -> dict[str, object]:
    columns = list(vars(source.columns).values())
    return {"columns": columns, "root": None if source.root is None else str(source.root)}
