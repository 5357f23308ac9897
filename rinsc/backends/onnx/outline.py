"""The outline of a model file, read from its bytes: where loading fails, it tells why.

Running needs onnxruntime alone, so this reads the protobuf itself, without the package onnx.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

# Field numbers of onnx.proto.
GRAPH, OPSET_IMPORT, METADATA, FUNCTIONS = 7, 8, 14, 25  # of a model
NODE, INITIALIZER, SPARSE_INITIALIZER = 1, 5, 15  # of a graph
INPUT, OUTPUT, OP_TYPE, ATTRIBUTE, NODE_DOMAIN = 1, 2, 4, 5, 7  # of a node
TENSORS, GRAPHS, SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)  # of an attribute, one and several
DIMS, DATA_TYPE, NAME, EXTERNAL_DATA = 1, 2, 8, 13  # of a tensor
CONTENT = frozenset({4, 5, 6, 7, 9, 10, 11})  # of a tensor, in one of these by its type
DOMAIN, VERSION = 1, 2  # of an import of operators
KEY, VALUE = 1, 2  # of an entry of metadata, and of external data
MAX_DEPTH = 64  # of graphs in graphs
MAX_DIMS = 64  # of a tensor
SHAPE = "Shape"
# Operators of which the first input has as many elements as the result, or more; and those where
# the result has no more than all inputs multiplied.
SAME_SIZE = frozenset(
    {"Cast", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
BY_ELEMENT = frozenset(
    {
        *("Abs", "Add", "Clip", "Cos", "Div", "Equal", "Exp", "Gather", "Greater", "Log", "Max"),
        *("Min", "Mod", "Mul", "Neg", "Relu", "Sigmoid", "Sin", "Sqrt", "Sub", "Tanh", "Where"),
        *("GreaterOrEqual", "LessOrEqual", "And", "Or"),
    }
)
SPARSE = "a sparse tensor"  # in place of the name of an operator
LOCAL = "a function of the model"  # in place of the domain of an operator that it defines itself

FIRST_BYTE = b"\x08"  # of every writer: the tag of ir_version, the first field
Field = int | memoryview  # the value of a field: a number, or bytes of any meaning

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
MAX_VARINT_BYTES = 10
NOTHING = memoryview(b"")


@dataclass(frozen=True)
class Outline:
    """Versions of the operators by domain, metadata, and of all tensors the types and files.

    ``data_types`` are numbers of onnx.TensorProto.DataType; ``external_bytes`` says of each file
    of weights, by its name beside the model, how long it must be at least. ``operators`` are pairs
    of domain and name, and ``hollow`` the tensors whose shape needs more than is written of them.
    ``computed`` are values that need nothing but constants: a few of them make any number of bytes.
    ``sized`` is how many need nothing but constants and the shapes of other values.
    """

    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    data_types: frozenset[int]
    external_bytes: Mapping[str, int]
    operators: frozenset[tuple[str, str]]
    hollow: tuple[str, ...]
    computed: tuple[str, ...]
    sized: int


def read_outline(data: memoryview) -> Outline:
    """The outline of a serialized model; raises ValueError where it is cut short or no protobuf."""
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    contents = _Contents()
    for number, value in _fields(data):
        if number == OPSET_IMPORT:
            imported = dict(_fields(_bytes(value)))
            opsets[_text(imported.get(DOMAIN, NOTHING))] = _number(imported.get(VERSION, 0))
        elif number == METADATA:
            key, text = _entry(value)
            metadata[key] = text
        elif number == GRAPH:
            contents.add_graph(value)
        elif number == FUNCTIONS:
            contents.operators.add((LOCAL, _text(dict(_fields(_bytes(value))).get(1, NOTHING))))
    return Outline(
        opsets,
        metadata,
        frozenset(contents.types),
        contents.external,
        frozenset(contents.operators),
        tuple(contents.hollow),
        tuple(contents.computed()),
        contents.sized(),
    )


@dataclass
class _Node:
    """A node: its operator, the names of its values, and the graphs in its attributes."""

    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    graphs: list[Field] = field(default_factory=list)


class _Contents:
    """What all graphs of a model hold, those in its nodes too."""

    def __init__(self) -> None:
        self.types: set[int] = set()
        self.external: dict[str, int] = {}
        self.operators: set[tuple[str, str]] = set()
        self.hollow: list[str] = []
        self._nodes: list[_Node] = []
        self._sizes: dict[str, int] = {}  # elements of the initializers

    def add_graph(self, graph: Field, depth: int = 0) -> None:
        if depth > MAX_DEPTH:
            raise ValueError("graphs nest too deep")
        nodes: list[_Node] = []
        for number, value in _fields(_bytes(graph)):
            if number == NODE:
                nodes.append(self._node(value))
            elif number == INITIALIZER:
                name, elements = self._add_tensor(value)
                self._sizes[name] = max(elements, self._sizes.get(name, 0))
            elif number == SPARSE_INITIALIZER:
                self._add_sparse()
        for node in nodes:
            for inner in node.graphs:
                self.add_graph(inner, depth + 1)
        self._nodes += nodes

    def computed(self) -> Iterator[str]:
        """Values that need nothing but constants, and may be larger than what they are made of."""
        sizes = dict(self._sizes)
        for node in self._ordered(()):
            operands = [sizes.get(name, 0) for name in node.inputs if name]
            largest = max(operands, default=0)
            bound = math.prod(max(1, size) for size in operands)
            fits = node.kind in SAME_SIZE or (node.kind in BY_ELEMENT and bound <= max(1, largest))
            if not operands or not fits:
                yield node.outputs[0] if node.outputs else node.kind
            sizes.update(dict.fromkeys(node.outputs, largest))

    def sized(self) -> int:
        """How many nodes need nothing but constants and shapes."""
        return sum(1 for _ in self._ordered((SHAPE,)))

    def _ordered(self, kinds: Collection[str]) -> Iterator[_Node]:
        """Nodes that need nothing but constants and what operators of ``kinds`` kinds make, each
        after those that it needs, in whatever order they stand."""
        readers: dict[str, list[int]] = {}
        missing: list[int] = []
        ready: list[int] = []
        for index, node in enumerate(self._nodes):
            needed = {name for name in node.inputs if name and name not in self._sizes}
            missing.append(len(needed))
            if node.graphs:
                continue
            if node.kind in kinds or not needed:
                ready.append(index)
                continue
            for name in needed:
                readers.setdefault(name, []).append(index)
        for index in ready:  # which grows
            yield self._nodes[index]
            for name in self._nodes[index].outputs:
                for reader in readers.pop(name, ()):
                    missing[reader] -= 1
                    if missing[reader] == 0:
                        ready.append(reader)

    def _node(self, node: Field) -> _Node:
        domain, outline = "", _Node()
        for number, value in _fields(_bytes(node)):
            if number == OP_TYPE:
                outline.kind = _text(value)
            elif number == NODE_DOMAIN:
                domain = _text(value)
            elif number in (INPUT, OUTPUT):
                (outline.inputs if number == INPUT else outline.outputs).append(_text(value))
            elif number == ATTRIBUTE:
                for what, content in _fields(_bytes(value)):
                    if what in TENSORS:
                        self._add_tensor(content)
                    elif what in GRAPHS:
                        outline.graphs.append(content)
                    elif what in SPARSE_TENSORS:
                        self._add_sparse()
        self.operators.add((domain, outline.kind))
        return outline

    def _add_sparse(self) -> None:
        """Its shape may be of any size, whatever it holds."""
        self.operators.add(("", SPARSE))

    def _add_tensor(self, tensor: Field) -> tuple[str, int]:
        """Adds a tensor; gives its name and its elements."""
        elements, content, name, outside = 1, 0, "", {}
        dims = 0
        for number, value in _fields(_bytes(tensor)):
            if number == DIMS:
                for size in [value] if isinstance(value, int) else _packed(value):
                    elements *= size
                    dims += 1
                    if dims > MAX_DIMS:
                        raise ValueError("a tensor has too many dimensions")
            elif number == DATA_TYPE:
                self.types.add(_number(value))
            elif number == NAME:
                name = _text(value)
            elif number in CONTENT:
                content += 8 if isinstance(value, int) else len(value)
            elif number == EXTERNAL_DATA:
                key, text = _entry(value)
                outside[key] = text
                if key == "location":  # of several, a reader may take any
                    self.external.setdefault(text, 0)
        if outside:
            file, length = outside.get("location", ""), int(outside.get("length", "0"))
            start = int(outside.get("offset", "0"))
            if start < 0 or length < 0:
                raise ValueError("a tensor lies before its file")
            self.external[file] = max(self.external.get(file, 0), start + length)
            content += length
        if elements > 2 * content:  # four bits are the smallest element
            self.hollow.append(name)
        return name, elements


def _packed(data: memoryview) -> Iterator[int]:
    index = 0
    while index < len(data):
        value, index = _varint(data, index)
        yield value


def _fields(data: memoryview) -> Iterator[tuple[int, Field]]:
    """Number and value of each field of one message, in order."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        kind = tag & 7
        if tag >> 3 == 0:
            raise ValueError("not a protobuf")
        if kind == VARINT:
            value, offset = _varint(data, offset)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            size, offset = _varint(data, offset)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError("not a protobuf")
        if offset + size > len(data):
            raise ValueError("cut short")
        yield tag >> 3, data[offset : offset + size]
        offset += size


def _varint(data: memoryview, offset: int) -> tuple[int, int]:
    """The number that starts at ``offset``, seven bits a byte, and the place behind it."""
    value = 0
    for index, byte in enumerate(data[offset : offset + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, offset + index + 1
    raise ValueError("cut short")


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
