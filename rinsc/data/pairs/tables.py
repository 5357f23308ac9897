"""Tables with a column of pictures and one of captions: Parquet as the hub has it, Arrow files that
the library datasets saved, and datasets that it knows.

A picture is a struct of ``bytes`` and ``path``, as the library's feature Image stores it, or bytes
alone, or the path of a file beside the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rinsc.data.hub import HubDataset
from rinsc.data.names import cannot_read, damaged, data_error, expanded
from rinsc.data.pairs.decoding import BadPictureError
from rinsc.data.pairs.files import Columns
from rinsc.data.pairs.raw import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    LABEL_NAME,
    SPLIT_NAME,
    Located,
    RawPair,
    captions_of,
    chosen_column,
    part_named,
    require_bytes,
)
from rinsc.data.text_files import file_facts
from rinsc.extras import require
from rinsc.storage.files import parse_json

TABLE_SUFFIXES = (".parquet", ".arrow")
ROWS = 16  # read at once; each holds a picture


@dataclass(frozen=True)
class Tables:
    """A `PairSource` of tables."""

    files: dict[str, Path]
    root: Path | None
    columns: Columns

    def identity(self) -> Mapping[str, object]:
        columns = [self.columns.image, self.columns.caption]
        root = None if self.root is None else str(self.root)
        return {
            "kind": "tables",
            "files": file_facts(self.files),
            "columns": columns,
            "root": root,
        }

    def pairs(self) -> Iterator[RawPair]:
        require("pyarrow")
        import pyarrow

        for name, path in self.files.items():
            reader = _arrow_batches if path.suffix.lower() == ".arrow" else _parquet_batches
            try:
                yield from self._of_file(name, path, reader(path, self.columns))
            except pyarrow.ArrowException as error:
                raise damaged(path, error) from error
            except OSError as error:
                raise (damaged if error.errno is None else cannot_read)(path, error) from error

    def _of_file(self, name: str, path: Path, batches: Iterator[Any]) -> Iterator[RawPair]:
        located = Located(self.root or path.parent)
        yield from _pairs(batches, name, str(path), self.columns, path.parent, located)


@dataclass(frozen=True)
class HubPairs:
    """A `PairSource` of a dataset that the library datasets knows, read as a stream."""

    dataset: HubDataset
    root: Path | None
    columns: Columns

    def identity(self) -> Mapping[str, object]:
        columns = [self.columns.image, self.columns.caption]
        return {**self.dataset.identity(), "kind": "hub", "columns": columns}

    def pairs(self) -> Iterator[RawPair]:
        folder = expanded(self.dataset.path)
        base = self.root or (folder if folder.is_dir() else Path(os.devnull))
        batches = (batch for table in self.dataset.tables(ROWS) for batch in table.to_batches())
        place = self.dataset.name
        yield from _pairs(batches, self.dataset.path, place, self.columns, base, Located(base))


def _pairs(
    batches: Iterator[Any],
    name: str,
    place: str,
    columns: Columns,
    base: Path,
    located: Located,
) -> Iterator[RawPair]:
    """The pairs of batches of Arrow, by their numbers."""
    number = 0
    for batch in batches:
        image, caption = _columns(batch.schema, columns, place)
        chosen = [image, caption, *({SPLIT_NAME, LABEL_NAME} & set(batch.schema.names))]
        table = {column: batch.column(column) for column in chosen}
        for row in range(batch.num_rows):
            number += 1
            try:
                values = {column: table[column][row].as_py() for column in chosen}
            except UnicodeDecodeError:
                yield RawPair(f"{name}: row {number}", problem="its caption is not UTF-8 text")
                continue
            yield _pair(f"{name}: row {number}", values, image, caption, base, located)


def _pair(
    name: str,
    values: Mapping[str, Any],
    image: str,
    caption: str,
    base: Path,
    located: Located,
) -> RawPair:
    label = values.get(LABEL_NAME)
    try:
        return RawPair(
            name,
            captions_of(values[caption]),
            _picture(values[image], base, located),
            part=part_named(values.get(SPLIT_NAME)),
            label=label if isinstance(label, str) else "",
        )
    except BadPictureError as error:
        return RawPair(name, problem=str(error))


def _picture(value: object, base: Path, located: Located) -> bytes | Path:
    """The bytes or the file of a cell; raises `BadPictureError`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        require_bytes(len(value))
        return value
    if isinstance(value, str):
        return located.file(base, value)
    raise BadPictureError("there is no picture in its row")


def _columns(schema: Any, columns: Columns, place: str) -> tuple[str, str]:
    """The columns of pictures and captions, by what they are said to be, their type or name."""
    return _image_column(schema, columns.image, place), _caption_column(schema, columns, place)


def _image_column(schema: Any, chosen: str | None, place: str) -> str:
    import pyarrow.types as types

    def holds_bytes(field: Any) -> bool:
        if types.is_struct(field.type):
            return bool(field.type.get_field_index("bytes") >= 0)
        return bool(types.is_binary(field.type) or types.is_large_binary(field.type))

    typed = [field.name for field in schema if holds_bytes(field)]
    declared = [name for name in _declared_images(schema) if name in schema.names]
    found = declared or typed
    if chosen is None and len(found) == 1:
        return found[0]
    if chosen is None and len(found) > 1 and not set(found) & set(IMAGE_NAMES):
        message = f"several columns hold pictures: {', '.join(found[:20])}"
        raise data_error("several-columns", message, place, "choose one: ?image=NAME")
    return chosen_column(chosen, found or schema.names, IMAGE_NAMES, "image", place)


def _caption_column(schema: Any, columns: Columns, place: str) -> str:
    import pyarrow.types as types

    def holds_text(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind):
            return holds_text(kind.value_type)
        if types.is_dictionary(kind):
            return holds_text(kind.value_type)
        return bool(types.is_string(kind) or types.is_large_string(kind))

    texts: list[str] = [field.name for field in schema if holds_text(field.type)]
    if columns.caption is None and len(texts) == 1:
        return texts[0]
    return chosen_column(columns.caption, texts, CAPTION_NAMES, "caption", place)


def _declared_images(schema: Any) -> list[str]:
    """The columns that the library datasets says are pictures."""
    try:
        features = parse_json(schema.metadata[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _parquet_batches(path: Path, columns: Columns) -> Iterator[Any]:
    import pyarrow.parquet

    options = {"pre_buffer": False, "page_checksum_verification": True}
    with pyarrow.parquet.ParquetFile(path, **options) as file:
        schema = file.schema_arrow
        chosen = [*_columns(schema, columns, str(path))]
        chosen += [name for name in (SPLIT_NAME, LABEL_NAME) if name in schema.names]
        for group in range(file.num_row_groups):
            yield from file.iter_batches(ROWS, [group], columns=chosen, use_threads=False)


def _arrow_batches(path: Path, columns: Columns) -> Iterator[Any]:
    """Of a stream, as the library writes it."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
        yield from stream
