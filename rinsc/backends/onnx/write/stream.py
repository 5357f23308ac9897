"""Models written tensor by tensor, several at once: what they share is made once.

A protobuf of a model is a message in messages, each after its length. The lengths follow from the
types and shapes of the weights, so that no copy of them is needed:

    graph (7), length, nodes …, initializer (5), length, name …, raw_data (9), length, numbers
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir
from onnx_ir import TensorProtocol

from rinsc.backends.onnx.write.file import (
    ALIGNMENT_BYTES,
    GRAPH_ALLOWANCE_BYTES,
    PROTOBUF_LIMIT_BYTES,
    SMALL_BYTES,
    OnnxModel,
)

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # numbers of fields
MESSAGE = 2  # the type of a field that has a length
WHOLE = frozenset(("float32", "float16", "int8", "uint8", "int32", "int64"))  # as numpy has them


DATA = "_data"  # what follows the name of a model, in that of its weights


def write_models(models: Mapping[Path, OnnxModel]) -> None:
    """Write each model to its path; the weights of one above 2 GB go to ``<path>_data``.

    Raises OSError. The caller sees to it that nothing half-written is seen.
    """
    with ExitStack() as opened:
        holders: dict[int, list[tuple[BinaryIO, _Entry]]] = {}
        for path, model in models.items():
            file = opened.enter_context(path.open("wb"))
            data = path.with_name(path.name + DATA)
            head, entries = _taken_apart(model, data.name if is_too_large(model) else None)
            file.write(head)
            if is_too_large(model):
                file = opened.enter_context(data.open("wb"))
            for entry in entries:
                holders.setdefault(id(entry.tensor), []).append((file, entry))
        pool = opened.enter_context(ThreadPoolExecutor(2))
        writing: list[Future[None]] = []
        for held in holders.values():
            numbers = _numbers(held[0][1].tensor)  # while those before are being written
            for future in writing:
                future.result()
            writing = [pool.submit(_write, file, entry, numbers) for file, entry in held]
        for future in writing:
            future.result()


def is_too_large(model: OnnxModel) -> bool:
    """Whether a model's weights do not fit into one protobuf."""
    return model.weight_bytes > PROTOBUF_LIMIT_BYTES - GRAPH_ALLOWANCE_BYTES


def _write(file: BinaryIO, entry: _Entry, numbers: memoryview | bytes) -> None:
    if entry.offset is None:
        file.write(entry.head)
    else:
        file.seek(entry.offset)
    file.write(numbers)


@dataclass(frozen=True)
class _Entry:
    """A tensor, and what stands before its numbers in the graph's message; ``offset`` is where
    they stand in a file of their own."""

    tensor: TensorProtocol
    head: bytes
    offset: int | None = None

    @property
    def length(self) -> int:
        """Bytes of all that stands in the message."""
        return len(self.head) + (self.tensor.nbytes if self.offset is None else 0)


def _taken_apart(model: OnnxModel, location: str | None) -> tuple[bytes, list[_Entry]]:
    """All of a model but the numbers of its large weights, which follow in this order, or go to
    the file ``location``."""
    graph = model.ir.graph
    inputs = {id(value) for value in graph.inputs}
    large = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None
        and value.const_value.nbytes >= SMALL_BYTES
        and id(value) not in inputs
    }
    for name in large:
        del graph.initializers[name]
    try:
        proto = ir.to_proto(model.ir)
    finally:
        for value in large.values():
            graph.register_initializer(value)
    body = proto.graph.SerializeToString()
    proto.ClearField("graph")
    tensors = {name: value.const_value for name, value in large.items() if value.const_value}
    entries = list(_entries(tensors, location))
    length = len(body) + sum(entry.length for entry in entries)
    heads = b"" if location is None else b"".join(entry.head for entry in entries)
    return proto.SerializeToString() + _field(GRAPH, length) + body + heads, entries


def _entries(tensors: Mapping[str, TensorProtocol], location: str | None) -> Iterator[_Entry]:
    from onnx import TensorProto

    end = 0
    for name, tensor in tensors.items():
        proto = TensorProto(name=name, data_type=tensor.dtype, dims=tensor.shape.numpy())
        if location is None:
            head = proto.SerializeToString() + _field(RAW_DATA, tensor.nbytes)
            length, offset = len(head) + tensor.nbytes, None
        else:
            offset = end + -end % ALIGNMENT_BYTES
            end = offset + tensor.nbytes
            proto.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", location),
                ("offset", offset),
                ("length", end - offset),
            ):
                proto.external_data.add(key=key, value=str(value))
            head = proto.SerializeToString()
            length = len(head)
        yield _Entry(tensor, _field(INITIALIZER, length) + head, offset)


def _field(number: int, length: int) -> bytes:
    """The beginning of a field with a length."""
    return bytes([number << 3 | MESSAGE, *_varint(length)])


def _varint(number: int) -> Iterator[int]:
    """Seven bits a byte, the lowest first.

    >>> list(_varint(300))
    [172, 2]
    """
    while number > 127:
        yield number & 127 | 128
        number >>= 7
    yield number


def _numbers(tensor: TensorProtocol) -> memoryview | bytes:
    """The bytes of a tensor, without a copy where it is laid out as a file has it."""
    array = tensor.numpy()
    if array.dtype.name not in WHOLE or array.dtype.byteorder == ">":
        return tensor.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
