"""Files of PyTorch that a stranger may have written, read without running what they name.

PyTorch keeps the index of a sharded checkpoint as a plain pickle, and loads the numbers of an
optimizer's groups as one. A pickle can call any function. Here the index may name nothing but the
classes that an index is made of, and everything else goes through PyTorch's own safe reader
(``weights_only``). Zip archives, which is what ``torch.save`` writes, must be stored as they are:
a compressed one can unpack to any size.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from rinsc.errors import CheckpointError, Problem

UnpicklingError = pickle.UnpicklingError  # what safe readers raise, for those who catch it

INDEX = ".metadata"  # as torch.distributed.checkpoint calls it
TORCH_FILES = ("*.pt", "*.pth", "*.bin")  # what a Trainer reads beside its safetensors
MAX_INDEX_BYTES = 1 << 28  # some million pieces of tensors

_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "StorageMeta", "MetadataIndex", "TensorStorageMetadata"),
        *("BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {
        "Size",
        *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    },
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # of Python 3.13
    "collections": {"OrderedDict"},
}
# They allocate what they name before a byte of it is read.
_UNBOUNDED = frozenset({"BYTEARRAY8", "LONG1", "LONG4", "LONG", "NEXT_BUFFER", "READONLY_BUFFER"})


class ForeignPickleError(ValueError):
    """A file is no plain data: it would run code, or unpack to more than its size."""


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if global_name not in _CLASSES.get(module_name, ()):
            raise ForeignPickleError(f"it names {module_name}.{global_name}"[:120])
        if module_name.startswith("pathlib"):
            return _nowhere
        return super().find_class(module_name, global_name)


def _nowhere(*parts: str) -> None:
    """In place of the folder that an index was written in, which is of no use here."""


def read_index(folder: Path, sizes: Mapping[str, int]) -> Metadata:
    """The index of a sharded checkpoint, whose data files have these ``sizes`` by name.

    Raises ForeignPickleError for an index that is none, names anything but the classes of one, or
    points outside of the files; OSError where it cannot be read.
    """
    path = folder / INDEX
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise ForeignPickleError("the index is too large")
    data = path.read_bytes()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            is_far = "PUT" in opcode.name and int(argument or 0) > len(data)
            if opcode.name in _UNBOUNDED or is_far:
                raise ForeignPickleError(f"it uses {opcode.name}")
        index = _IndexUnpickler(io.BytesIO(data)).load()
    except ForeignPickleError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ForeignPickleError(f"the index is damaged ({type(error).__name__})") from None
    _check_index(index, sizes)
    try:
        _check_slices(folder, index)
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).partition("\n")[0][:120]
        raise ForeignPickleError(f"a piece of it cannot be read: {reason}") from None
    return index  # type: ignore[no-any-return]


def _check_index(index: object, sizes: Mapping[str, int]) -> None:
    if not isinstance(index, Metadata):
        raise ForeignPickleError("it is no index")
    entries, stored = index.state_dict_metadata, index.storage_data
    if not (isinstance(entries, dict) and isinstance(stored, dict)):
        raise ForeignPickleError("it is no index")
    for entry in entries.values():
        if isinstance(entry, TensorStorageMetadata) and not _is_shape(entry.size):
            raise ForeignPickleError("a tensor has no shape")
    for piece in stored.values():
        name, transforms = piece.relative_path, getattr(piece, "transform_descriptors", None)
        first, length = piece.offset, piece.length
        if name not in sizes or transforms or not _is_shape((first, length)):
            raise ForeignPickleError("it points outside of the checkpoint")
        if first + length > sizes[name]:
            raise ForeignPickleError(f"it points beyond the end of {name}")


def _is_shape(values: object) -> bool:
    return isinstance(values, tuple) and all(type(size) is int and size >= 0 for size in values)


def _check_slices(folder: Path, index: Metadata) -> None:
    """Every piece of the data files is plain, and a tensor of the shape that the index says."""
    pieces = sorted(index.storage_data.items(), key=lambda item: item[1].relative_path)
    for name, group in groupby(pieces, key=lambda item: str(item[1].relative_path)):
        with (folder / name).open("rb") as file:
            for key, location in group:
                file.seek(location.offset)
                piece = io.BytesIO(file.read(location.length))
                check_stored(piece)
                piece.seek(0)
                _check_piece(index, key, torch.load(piece, map_location="meta", weights_only=True))


def _check_piece(index: Metadata, key: MetadataIndex, value: object) -> None:
    entry = index.state_dict_metadata.get(key.fqn)
    if isinstance(entry, TensorStorageMetadata):
        sizes = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in entry.chunks}
        expected = sizes.get(tuple(key.offset or ()), None if key.offset else tuple(entry.size))
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != expected:
            raise ForeignPickleError(f"'{key.fqn}' has another shape than the index says"[:120])


def check_torch_files(folder: Path) -> None:
    """Raise CheckpointError where a file of ``torch.save`` in a folder would unpack to more than
    its size. Every reader of these files is a safe one (``weights_only``)."""
    for path in sorted(file for pattern in TORCH_FILES for file in folder.glob(pattern)):
        try:
            check_stored(path)
        except (ForeignPickleError, OSError) as error:
            message = f"{path.name} is damaged or no file of this checkpoint: {error}"
            hint = "remove this checkpoint: the run then goes on from an earlier one"
            problem = Problem("damaged-checkpoint", message, place=str(folder), hint=hint)
            raise CheckpointError.of(problem) from None


def check_stored(file: Path | IO[bytes]) -> None:
    """Raise ForeignPickleError unless the archive is one, and holds no more than its size."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            compressed = [
                member for member in members if member.compress_type != zipfile.ZIP_STORED
            ]
            unpacked, packed = (
                sum(member.file_size for member in members),
                sum(member.compress_size for member in members),
            )
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise ForeignPickleError(f"it is not what torch.save writes ({error})") from None
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, io.SEEK_END)
    if compressed or unpacked != packed or unpacked > size:
        raise ForeignPickleError("it is compressed, or would unpack to more than its size")


class IndexReader(FileSystemReader):
    """Reads the data files of a checkpoint by an index that `read_index` has checked."""

    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._index.storage_meta = StorageMeta(load_id=self.load_id)
        return self._index


class PlainValuesPlanner(DefaultLoadPlanner):
    """Fills a state dict; what is no tensor goes through PyTorch's safe reader."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
