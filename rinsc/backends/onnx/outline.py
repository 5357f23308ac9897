"""The outline of a model file, read from its bytes: where loading fails, it tells why.

Running needs onnxruntime alone, so this reads the protobuf itself, without the package onnx.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Field numbers of onnx.proto.
GRAPH, OPSET_IMPORT, METADATA = 7, 8, 14  # of a model
INITIALIZER = 5  # of a graph
DATA_TYPE, EXTERNAL_DATA = 2, 13  # of a tensor
DOMAIN, VERSION = 1, 2  # of an import of operators
KEY, VALUE = 1, 2  # of an entry of metadata, and of external data

FIRST_BYTE = b"\x08"  # of every writer: the tag of ir_version, the first field
Field = int | memoryview  # the value of a field: a number, or bytes of any meaning

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
MAX_VARINT_BYTES = 10
NOTHING = memoryview(b"")


@dataclass(frozen=True)
class Outline:
    """Versions of the operators by domain, metadata, and of the initializers the types and files.

    ``data_types`` are numbers of onnx.TensorProto.DataType; ``external_bytes`` says of each file
    of weights, by its name beside the model, how long it must be at least.
    """

    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    data_types: frozenset[int]
    external_bytes: Mapping[str, int]


def read_outline(data: memoryview) -> Outline:
    """The outline of a serialized model; raises ValueError where it is cut short or no protobuf."""
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    types: set[int] = set()
    external: dict[str, int] = {}
    for number, value in _fields(data):
        if number == OPSET_IMPORT:
            given = dict(_fields(_bytes(value)))
            opsets[_text(given.get(DOMAIN, NOTHING))] = _number(given.get(VERSION, 0))
        elif number == METADATA:
            key, text = _entry(value)
            metadata[key] = text
        elif number == GRAPH:
            for tensor in _all(value, INITIALIZER):
                types.update(_number(kind) for kind in _all(tensor, DATA_TYPE))
                outside = dict(_entry(entry) for entry in _all(tensor, EXTERNAL_DATA))
                if outside:
                    name = outside.get("location", "")
                    end = int(outside.get("offset", "0")) + int(outside.get("length", "0"))
                    external[name] = max(external.get(name, 0), end)
    return Outline(opsets, metadata, frozenset(types), external)


def _fields(data: memoryview) -> Iterator[tuple[int, Field]]:
    """Number and value of each field of one message, in order."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if tag >> 3 == 0:
            raise ValueError("not a protobuf")
        if kind == VARINT:
            value, place = _varint(data, place)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            size, place = _varint(data, place)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError("not a protobuf")
        if place + size > len(data):
            raise ValueError("cut short")
        yield tag >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """The number that starts at ``place``, seven bits a byte, and the place behind it."""
    value = 0
    for index, byte in enumerate(data[place : place + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("cut short")


def _all(message: Field, number: int) -> Iterator[Field]:
    return (value for found, value in _fields(_bytes(message)) if found == number)


def _entry(message: Field) -> tuple[str, str]:
    pair = dict(_fields(_bytes(message)))
    return _text(pair.get(KEY, NOTHING)), _text(pair.get(VALUE, NOTHING))


def _text(value: Field) -> str:
    return str(_bytes(value), "utf-8")


def _bytes(value: Field) -> memoryview:
    if isinstance(value, int):
        raise ValueError("not a model")
    return value


def _number(value: Field) -> int:
    if not isinstance(value, int):
        raise ValueError("not a model")
    return value
