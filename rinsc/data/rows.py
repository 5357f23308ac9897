"""Corpora whose documents are rows: JSON lines and Parquet files."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rinsc.data.documents import Document, Part, free_unused_memory, part_of, text_parts
from rinsc.data.names import (
    SUFFIXES_OF_KIND,
    CorpusName,
    cannot_read,
    damaged,
    data_error,
    not_utf8,
)
from rinsc.data.text_files import file_facts, find_files, total_size
from rinsc.data.wide_rows import WideRow, read_wide_row
from rinsc.errors import DataError, nearest
from rinsc.extras import require
from rinsc.storage.files import parse_json

JSONL_SUFFIXES, PARQUET_SUFFIXES = SUFFIXES_OF_KIND["jsonl"], SUFFIXES_OF_KIND["parquet"]
PARQUET_ROWS = 256  # read at once
PARQUET_BYTES = 1 << 18  # of text at once, as far as rows allow
READ_BYTES = 1 << 18  # of a Parquet file at once
MAX_LINE_BYTES = 1 << 28
WIDE_LINE_BYTES = 1 << 18  # beyond it a row is not parsed as a whole
MAX_ROW_DEPTH = 512  # of values in values; only one of them is read

# A bracket or a comma, a string, or the rest of a buffer that ends within a string.
_MARK = re.compile(rb"""(?P<mark>[][{},])|"(?:[^"\\]++|\\.)*+(?:"|(?P<open>))""", re.DOTALL)

_FileReader = Callable[[Path, str], Iterator[str | bytes]]


@dataclass(frozen=True)
class RowFiles:
    """A `Source` of one document a row; each belongs to the part that its hash says."""

    name: str
    kind: str
    files: dict[str, Path]
    field: str
    most_bytes: int | None
    names_documents = False

    @property
    def total_bytes(self) -> int | None:
        # Compressed files hold more text than bytes.
        plain = self.kind == "jsonl" and not any(f.endswith(".gz") for f in self.files)
        return min(total_size(self.files), self.most_bytes or 2**63) if plain else self.most_bytes

    def identity(self) -> Mapping[str, object]:
        limits = {"field": self.field, "bytes": self.most_bytes}
        return {"kind": self.kind, "files": file_facts(self.files), **limits}

    def documents(self) -> Iterator[tuple[Part, Document]]:
        read = _READERS[self.kind]
        texts = (text for path in self.files.values() for text in read(path, self.field))
        return as_documents(texts, self.most_bytes)


def row_files(name: CorpusName) -> RowFiles:
    """The source that a name of JSON lines or Parquet files stands for; raises DataError."""
    suffixes = JSONL_SUFFIXES if name.kind == "jsonl" else PARQUET_SUFFIXES
    files = find_files(name.where, suffixes)
    return RowFiles(name.text, name.kind, files, name.field, name.most_bytes)


def as_documents(
    texts: Iterator[str | bytes], most_bytes: int | None
) -> Iterator[tuple[Part, Document]]:
    """The texts that are not blank, until ``most_bytes`` of them have passed."""
    total = 0
    documents = map(_document, itertools.count(), texts)  # no text is kept here meanwhile
    for document in documents:
        if document.is_blank:
            continue
        total += document.byte_count
        if most_bytes is not None and total > most_bytes:
            return
        item = [(part_of(document.data), document)]
        del document
        yield item.pop()


def _document(number: int, text: str | bytes) -> Document:
    return Document(str(number), text)


def _json_lines(path: Path, field: str) -> Iterator[str | bytes]:
    try:
        with open_lines(path) as file:
            yield from texts_of_lines(file, field, str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def texts_of_lines(
    file: Any, field: str, place: str, *, may_lack: bool = False
) -> Iterator[str | bytes]:
    """The text of each line; where some rows ``may_lack`` the field, they are blank documents."""
    number, offset = 0, 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1 and line.startswith(BOM_UTF8):
            line, offset = line[len(BOM_UTF8) :], len(BOM_UTF8)
        start, offset = offset, offset + len(line)
        if line.strip():
            text = [_row_text(line, field, f"{place}: line {number}", start, may_lack)]
            del line  # what is long is kept once
            yield text.pop()


def texts_of_array(file: Any, field: str, place: str) -> Iterator[str | bytes]:
    """The text of each row of one array of JSON; rows that lack the field are blank documents."""
    number = 0
    try:
        for number, (start, row) in enumerate(elements_of_array(file), 1):
            text = [_row_text(row.pop(), field, f"{place}: row {number}", start, may_lack=True)]
            yield text.pop()
    except ValueError as error:
        message = f"not an array of JSON: {first_line(error)}"
        row_place = f"{place}: row {number + 1}"
        raise data_error("bad-json", message, row_place, "mend the file") from error


def elements_of_array(file: Any) -> Iterator[tuple[int, list[bytes]]]:
    """Where each element of an array of JSON starts, and its text, alone in a list, to be taken.

    As much of the file is in memory as one element takes. Raises ValueError where no array is.
    """
    head = file.read(READ_BYTES)
    buffer = bytearray(head.removeprefix(BOM_UTF8).lstrip())
    if not buffer.startswith(b"["):
        raise ValueError("it does not start with [")
    start, at, depth = len(head) - len(buffer) + 1, 0, 0
    del head, buffer[:1]
    is_first = True
    while True:
        mark, at = _next_mark(buffer, at)
        if not mark:
            more = file.read(max(READ_BYTES, len(buffer)))  # ever more, so that it stays linear
            if not more:
                raise ValueError("it does not end")
            buffer += more
        elif mark in "[{":
            depth += 1
        elif depth > 0:
            depth -= mark in "]}"
        else:
            element = [bytes(buffer[: at - 1])]
            del buffer[:at]
            if mark != "]" or not is_first or element[0].strip():
                yield start, element
            start, at, is_first = start + at, 0, False
            if mark != ",":
                break
    if mark != "]" or buffer.strip() or file.read(READ_BYTES).strip():
        raise ValueError("something follows it")


def _next_mark(buffer: bytearray, start: int) -> tuple[str, int]:
    """The next bracket or comma outside of strings, and where it ends; "" and where to go on from
    where the buffer ends before."""
    for match in _MARK.finditer(buffer, start):
        if match["open"] is not None:
            return "", match.start()
        if match["mark"]:
            return match["mark"].decode(), match.end()
    return "", len(buffer)


def _row_text(line: bytes, field: str, place: str, offset: int, may_lack: bool) -> str | bytes:
    try:
        return _json_text(line, field, place, offset)
    except DataError as error:
        if not may_lack or error.code != "no-such-field":
            raise
        return ""


def _json_text(line: bytes, field: str, place: str, offset: int) -> str | bytes:
    try:
        if len(line) > WIDE_LINE_BYTES:
            return _wide_text(read_wide_row(line, field, MAX_ROW_DEPTH), field, place)
        row = parse_json(line, MAX_ROW_DEPTH)
        _require_object(type(row).__name__, place)
        text = _text_of(row, field, place)
        text.encode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(offset + error.start, place) from error
    except UnicodeEncodeError as error:
        message = f"character {error.start} of '{field}' is half a character"
        raise data_error("bad-json", message, place, "write surrogates in pairs") from error
    except ValueError as error:
        message = f"not JSON: {first_line(error)}"
        raise data_error("bad-json", message, place, "one JSON object a line") from error
    return text


def _wide_text(row: WideRow, field: str, place: str) -> bytes:
    _require_object(row.kind, place)
    if not row.has_field:
        require_field(field, [name for name in row.names if name != field], place)
    if row.field_kind == "NoneType":
        return b""
    _require_text(row.field_kind, field, place)
    return row.text()


def _require_object(kind: str, place: str) -> None:
    if kind != "dict":
        message = f"a JSON {kind}, not an object"
        raise data_error("bad-json", message, place, "one JSON object a line")


def open_lines(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    return path.open("rb")


def _parquet(path: Path, field: str) -> Iterator[str | bytes]:
    require("pyarrow")
    import pyarrow
    import pyarrow.parquet

    # A little is read at a time, and nothing ahead: one long row is in memory, not several.
    options = {"pre_buffer": False, "buffer_size": READ_BYTES, "page_checksum_verification": True}
    try:
        with pyarrow.parquet.ParquetFile(path, **options) as file:
            require_field(field, file.schema_arrow.names, str(path))
            for group in range(file.num_row_groups):
                size = _rows_at_once(file.metadata.row_group(group), field)
                batches = file.iter_batches(size, [group], columns=[field], use_threads=False)
                yield from arrow_texts(map(_only_column, batches), field, str(path))
    except pyarrow.ArrowException as error:
        raise damaged(path, error) from error
    except UnicodeDecodeError as error:
        raise not_utf8(error.start, path) from error
    except OSError as error:
        raise damaged(path, error) if error.errno is None else cannot_read(path, error) from error


def _only_column(batch: Any) -> Any:
    return batch.column(0)


def _rows_at_once(group: Any, field: str) -> int:
    """As many rows of a row group as hold some `PARQUET_BYTES` on average."""
    columns = map(group.column, range(group.num_columns))
    size = sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.partition(".")[0] == field
    )
    rows: int = group.num_rows * PARQUET_BYTES // max(1, size)
    return max(1, min(PARQUET_ROWS, rows))


def arrow_texts(columns: Iterator[Any], field: str, place: str) -> Iterator[str | bytes]:
    """The texts of columns of Arrow; no text is kept here, nor in the memory of its library."""
    were_long = False
    for column in columns:
        texts = _texts_of_column(column, field, place)
        del column
        is_long = sum(map(len, texts)) > PARQUET_BYTES
        if is_long or were_long:
            _free_arrow_memory()
        were_long = is_long
        texts.reverse()
        while texts:
            yield texts.pop()
    if were_long:
        _free_arrow_memory()


def _texts_of_column(column: Any, field: str, place: str) -> list[str | bytes]:
    """Text is cut out where it is: an element of Arrow is a copy, and a str of it may take four
    times as much."""
    import pyarrow

    kind = {pyarrow.string(): np.int32, pyarrow.large_string(): np.int64}.get(column.type)
    if kind is None:
        values = [getattr(value, "value", value).as_py() for value in column]  # of a dictionary
        return [_text_of({field: value}, field, place) for value in values]
    _, offsets, data = column.buffers()
    if offsets is None or data is None:
        return [b""] * len(column)
    starts = np.frombuffer(offsets, kind)[column.offset :].tolist()
    return [
        _whole_utf8(data.slice(starts[row], starts[row + 1] - starts[row]).to_pybytes())
        if is_valid
        else b""
        for row, is_valid in enumerate(column.is_valid().to_pylist())
    ]


def _free_arrow_memory() -> None:
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
    free_unused_memory()


def _whole_utf8(data: bytes) -> bytes:
    for _ in text_parts(data):
        pass
    return data


_READERS: Mapping[str, _FileReader] = {"jsonl": _json_lines, "parquet": _parquet}


def _text_of(row: Mapping[str, object], field: str, place: str) -> str:
    """The text of one row; a missing value is a blank document."""
    require_field(field, list(row), place)
    value = row[field]
    if value is None:
        return ""
    _require_text(type(value).__name__, field, place)
    return str(value)


def _require_text(kind: str, field: str, place: str) -> None:
    if kind != "str":
        message = f"'{field}' holds a {kind}, not text"
        raise data_error("not-text", message, place, "name the field that holds text: ?field=NAME")


def require_field(field: str, names: Sequence[str], place: str) -> None:
    if field not in names:
        there = ", ".join(names[:20]) or "none"
        close = f"; did you mean '{near}'?" if (near := nearest(field, names)) else ""
        message = f"there is no field '{field}'; those there are: {there}"
        raise data_error("no-such-field", message, place, f"write ?field=NAME{close}")


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
