"""Datasets of the library datasets: of the hub, or of a folder that it understands."""

from __future__ import annotations

import logging
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from rinsc.data.documents import Document, Part
from rinsc.data.names import CorpusName, data_error, expanded
from rinsc.data.rows import (
    MAX_ROW_DEPTH,
    WIDE_LINE_BYTES,
    arrow_texts,
    as_documents,
    first_line,
    require_field,
    texts_of_array,
    texts_of_lines,
)
from rinsc.data.text_files import file_facts, find_files
from rinsc.errors import DataError
from rinsc.extras import require
from rinsc.storage.files import parse_json

_TextsOf: TypeAlias = Callable[[Any, str, str], Iterator[str | bytes]]

_LIBRARIES = ("datasets", "pyarrow", "huggingface_hub")


@dataclass(frozen=True)
class HubDataset:
    """A `Source` of a dataset that the library datasets knows, read as a stream."""

    name: str
    path: str
    config: str | None
    split: str
    revision: str | None
    field: str
    most_bytes: int | None
    names_documents = False

    @property
    def total_bytes(self) -> int | None:
        return self.most_bytes

    def identity(self) -> Mapping[str, object]:
        """Of a folder its files; of a dataset elsewhere its name, configuration and revision."""
        folder = expanded(self.path)
        chosen = {"config": self.config, "split": self.split, "revision": self.revision}
        limits = {"field": self.field, "bytes": self.most_bytes}
        files = file_facts(find_files(self.path, ("",))) if folder.is_dir() else []
        return {"kind": "hf", "path": self.path, "files": files, **chosen, **limits}

    def documents(self) -> Iterator[tuple[Part, Document]]:
        return as_documents(self._texts(), self.most_bytes)

    def tables(self, rows: int) -> Iterator[Any]:
        """Tables of Arrow with so many rows each; raises DataError."""
        with self._failures():
            yield from self._open().with_format("arrow").iter(batch_size=rows)

    def _texts(self) -> Iterator[str | bytes]:
        with self._failures():
            if (files := self._files_of_rows()) is not None:
                for path, texts_of in files.items():
                    with _opened_by_datasets(path) as file:
                        yield from texts_of(file, self.field, self.name)
                return
            # Tables of Arrow, since a row in Python holds its text once more.
            columns = map(self._column, self.tables(1))
            yield from arrow_texts(columns, self.field, self.name)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What the library raises in the body becomes a DataError."""
        try:
            yield
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise self._unreadable(error) from error
        except Exception as error:
            # The library passes on whatever the readers of files raise.
            if _is_of(error, *_LIBRARIES):
                raise self._unreadable(error) from error
            raise

    def _files_of_rows(self) -> dict[str, _TextsOf] | None:
        """The files of JSON, and what reads each; None for a dataset of any other form.

        The library's own reader takes eight bytes for each byte of a long row.
        """
        require("datasets")
        import datasets
        from datasets.packaged_modules.json.json import Json

        _quiet(datasets)
        folder = expanded(self.path)
        path = str(folder) if folder.is_dir() else self.path
        try:
            builder: Any = datasets.load_dataset_builder(path, self.config, revision=self.revision)
        except ValueError:
            return None  # `_open` says what is wrong
        config, files = builder.config, dict(getattr(builder.config, "data_files", None) or {})
        named = {str(split): paths for split, paths in files.items()}.get(self.split)
        is_plain = isinstance(builder, Json) and config.field is None and config.features is None
        if not named or not is_plain or config.encoding.lower() != "utf-8":
            return None
        manager = datasets.StreamingDownloadManager(base_path=builder.base_path)
        every: list[str] = list(manager.iter_files(manager.download_and_extract(list(named))))
        readers = {file: _reader(file, self.field) for file in every}
        known = {file: reader for file, reader in readers.items() if reader is not None}
        return known if len(known) == len(readers) else None

    def _column(self, table: Any) -> Any:
        require_field(self.field, table.column_names, self.name)
        return table.column(self.field).chunk(0)  # of its one row

    def _open(self) -> Any:
        """The stream; raises DataError where the dataset has no such configuration or split."""
        require("datasets")
        import datasets

        _quiet(datasets)
        folder = expanded(self.path)
        path = str(folder) if folder.is_dir() else self.path
        try:
            return datasets.load_dataset(
                path, self.config, split=self.split, revision=self.revision, streaming=True
            )
        except ValueError as error:  # that is how the library refuses names
            if _is_of(error, "pyarrow"):
                raise
            hint = "check config= and split="
            raise data_error("bad-option", first_line(error), self.name, hint) from error

    def _unreadable(self, error: BaseException) -> DataError:
        message = f"the dataset cannot be read: {first_line(error)}"
        hint = "check the name, the network, and that the files are whole"
        return data_error("cannot-read", message, self.name, hint)


def hub_dataset(name: CorpusName) -> HubDataset:
    config, revision = name.options.get("config"), name.options.get("revision")
    split = name.options.get("split", "train")
    return HubDataset(name.text, name.where, config, split, revision, name.field, name.most_bytes)


def _quiet(datasets: Any) -> None:
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is an error of ours


def _opened_by_datasets(file: str) -> Any:
    """A file by the library's name for it, which may be packed or far away."""
    from datasets.download.streaming_download_manager import xopen

    return xopen(file, "rb")


def _reader(path: str, field: str) -> _TextsOf | None:
    """What reads a file of JSON: an array of rows, or lines of which the first is a row with the
    field, or too long to be anything else."""
    with _opened_by_datasets(path) as file:
        head = file.readline(WIDE_LINE_BYTES).removeprefix(BOM_UTF8)
        while head.strip() in (b"", b"[") and (more := file.readline(WIDE_LINE_BYTES)):
            head = head.strip() + more.lstrip()
    if head.lstrip().startswith(b"["):
        return texts_of_array if head.lstrip()[1:].lstrip().startswith((b"{", b"]")) else None
    is_of_lines = head.startswith(b"{") if len(head) == WIDE_LINE_BYTES else _is_row(head, field)
    return _texts_of_lines if is_of_lines else None


def _is_row(line: bytes, field: str) -> bool:
    try:
        row = parse_json(line, MAX_ROW_DEPTH)
    except ValueError:
        return False
    return isinstance(row, dict) and field in row


def _texts_of_lines(file: Any, field: str, place: str) -> Iterator[str | bytes]:
    return texts_of_lines(file, field, place, may_lack=True)


def _is_of(error: BaseException, *libraries: str) -> bool:
    return type(error).__module__.partition(".")[0] in libraries
