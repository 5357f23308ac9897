"""A program: the operations of a layer, an embedding or a head, in order, with their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from keyword import iskeyword
from typing import Any

from rinsc.errors import GraphError
from rinsc.ops import Op, Param, Shape


@dataclass(frozen=True)
class Value:
    """What a node makes or a program is given; equal only to itself within a program."""

    index: int
    shape: Shape


@dataclass(frozen=True)
class Node:
    """One operation: its inputs and output, where its parameters stand, and what it is part of."""

    op: Op
    inputs: tuple[Value, ...]
    output: Value
    name: str
    part: str

    @property
    def params(self) -> tuple[Param, ...]:
        """Its trained tensors, named from the program's root: ``query.weight``."""
        own = self.op.params(*(value.shape for value in self.inputs))
        return tuple(Param(weight_name(self.name, p.name), p.shape, p.init) for p in own)


def weight_name(node: str, param: str) -> str:
    """``query.weight``; of an operation that is one number, its own name."""
    return f"{node}.{param}".removesuffix(".")


@dataclass(frozen=True)
class Program:
    """Nodes in order of execution. Inputs and outputs keep the names that they were given."""

    inputs: dict[str, Value]
    nodes: tuple[Node, ...]
    outputs: dict[str, Value]

    @cached_property
    def params(self) -> tuple[Param, ...]:
        return tuple(param for node in self.nodes for param in node.params)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for programs that do and own the same, whatever inputs they leave unread."""
        names: dict[Value, object] = {
            value: (name, value.shape) for name, value in self.inputs.items()
        }
        nodes = []
        for number, node in enumerate(self.nodes):
            wires = tuple([names[value] for value in node.inputs])
            nodes.append((node.op, wires, node.name, node.part))
            names[node.output] = number
        outputs = tuple([(name, names[value]) for name, value in self.outputs.items()])
        return (*nodes, *outputs)

    @cached_property
    def param_count(self) -> int:
        return sum(param.count for param in self.params)


@dataclass
class Builder:
    """Collects nodes while a layer's function runs: ``h = b(RMSNorm(eps), x, name="norm")``."""

    _nodes: list[Node] = field(default_factory=list)
    _values: int = 0
    _part: str = ""
    _settings: object = None
    _layer: tuple[int, int] | None = None
    read_settings: bool = False  # whether what was traced depends on them
    read_index: bool = False  # and whether it depends on which layer it is

    @property
    def settings(self) -> Any:
        """The settings of the layer kind that is traced: an instance of its dataclass."""
        self.read_settings = True
        return self._settings

    @property
    def index(self) -> int:
        """The number of the layer in its block, from 0."""
        return self._numbers()[0]

    @property
    def stack_index(self) -> int:
        """The number of the layer among all layers that own weights, block after block, from 0."""
        return self._numbers()[1]

    def _numbers(self) -> tuple[int, int]:
        self.read_index = True
        if self._layer is None:
            raise TypeError("only the function 'layer' of a kind has an index")
        return self._layer

    @contextmanager
    def of_layer(self, index: int, stack_index: int) -> Iterator[None]:
        """What is traced inside is the layer with these numbers."""
        self._layer = (index, stack_index)
        try:
            yield
        finally:
            self._layer = None

    @contextmanager
    def of_kind(self, settings: object) -> Iterator[None]:
        """Functions that are traced inside belong to a kind with these settings."""
        outer = self._settings, self.read_settings
        self._settings, self.read_settings = settings, False
        try:
            yield
        finally:
            self._settings, self.read_settings = outer

    def __call__(self, op: Op, *inputs: Value, name: str = "") -> Value:
        """Add an operation and return its result.

        Operations that own something, weights or a table, need a ``name`` of their own. Raises
        `GraphError` for a bad name and for shapes that do not fit.
        """
        if type(op).__module__.partition(".ops")[0] != "rinsc":
            message = f"{type(op).__name__} is not an operation of rinsc"
            hint = "operations are a closed set; compose those of rinsc.ops"
            raise GraphError("unknown-operation", message, hint=hint)
        shapes = [value.shape for value in inputs]
        output = self.value(op.output_shape(*shapes))
        self._check_name(name, type(op).__name__, owns=op.owns_table or bool(op.params(*shapes)))
        self._nodes.append(Node(op, inputs, output, name, self._part))
        return output

    def _check_name(self, name: str, operation: str, *, owns: bool) -> None:
        """Names become attributes of emitted modules and names of weights."""
        if not name and not owns:
            return
        hint = "give each operation with weights or a table a name of its own, such as 'query'"
        if not name.isidentifier() or iskeyword(name):
            message = f"{operation} needs a name that is an identifier, not '{name}'"
            raise GraphError("bad-operation-name", message, hint=hint)
        if name in (node.name for node in self._nodes):
            message = f"two operations are called '{name}'"
            raise GraphError("bad-operation-name", message, hint=hint)

    def value(self, shape: Shape) -> Value:
        self._values += 1
        return Value(self._values, shape)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Operations added inside count under ``name`` in cost reports."""
        outer, self._part = self._part, name
        try:
            yield
        finally:
            self._part = outer

    def program(self, inputs: dict[str, Value], outputs: dict[str, Value]) -> Program:
        return Program(inputs, tuple(self._nodes), outputs)


def trace(
    shapes: dict[str, Shape], function: Callable[[Builder, dict[str, Value]], dict[str, Value]]
) -> Program:
    """The program that ``function`` writes when it is given inputs of these shapes."""
    builder = Builder()
    inputs = {name: builder.value(shape) for name, shape in shapes.items()}
    return builder.program(inputs, function(builder, inputs))
