"""A thin façade over onnx-ir: ``op.MatMul(x, w)`` adds a node and returns its value; and weights,
checked against the graph.

It keeps what every form of a model needs: readable unique names, one initializer a weight and a
constant, a type and a shape on every value, and the nesting of loop bodies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rinsc.backends.onnx.contract import RUNTIME, RUNTIME_OPERATORS, is_ours
from rinsc.backends.onnx.precision import Precision
from rinsc.errors import CheckpointError, Problem
from rinsc.formats import FORMATS, names
from rinsc.graph import BlockGraph
from rinsc.layers import weight_shapes
from rinsc.ops import Dim, Shape, Sizes

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
# By the name of a matrix: sums over tokens of products of what it is multiplied with (in, in).
Moments: TypeAlias = Callable[[str], npt.NDArray[np.float32] | None]


class HasStateDict(Protocol):
    """A module: its weights by name, as tensors or arrays."""

    def state_dict(self) -> Mapping[str, Any]: ...


def weights_of(graph: BlockGraph, source: HasStateDict | Mapping[str, Any]) -> Weights:
    """The weights that ``graph`` needs, in float32; arrays share memory where they can.

    Raises `CheckpointError` for weights that are missing, left over or of another shape.
    """
    named = source if isinstance(source, Mapping) else source.state_dict()
    return matching_weights(weight_shapes(graph), named)


def matching_weights(needed: Mapping[str, Sizes], named: Mapping[str, Any]) -> Weights:
    """`weights_of` these names and shapes."""
    problems = [_problem(f"the weight '{name}' is missing") for name in needed if name not in named]
    problems += [
        _problem(f"the weight '{name}' is not one of this model")
        for name in named
        if name not in needed
    ]
    problems += [
        _problem(f"the weight '{name}' holds no numbers; it is on the device 'meta'")
        for name in named
        if getattr(named[name], "is_meta", False)
    ]
    if problems:
        raise CheckpointError.of(*problems)
    weights = {name: _as_array(named[name]) for name in needed}
    problems += [
        _problem(f"the weight '{name}' is {array.shape}; the model has {needed[name]}")
        for name, array in weights.items()
        if array.shape != needed[name]
    ]
    if problems:
        raise CheckpointError.of(*problems)
    return weights


def no_moments(name: str) -> None:
    """Where nothing is known of what matrices are multiplied with."""
    return None


def _as_array(tensor: Any) -> npt.NDArray[np.float32]:
    if hasattr(tensor, "detach"):
        # numpy has no bfloat16; float() leaves a float32 tensor as it is, without a copy.
        tensor = tensor.detach().cpu().float().numpy()
    return np.asarray(tensor, dtype=np.float32)


def _problem(message: str) -> Problem:
    return Problem("wrong-weights", message, hint="take the weights of a model of the same spec")


FLOAT = ir.DataType.FLOAT
INT32 = ir.DataType.INT32
INT64 = ir.DataType.INT64
BOOL = ir.DataType.BOOL
REALS = {
    name: ir.DataType[FORMATS[name].onnx]
    for name in (*names(arithmetic="floats"), *names(arithmetic="cast"))
}
FULL = Precision()
VISIT = "rinsc.visit"  # of a node: the visit that it was added for

Made = TypeVar("Made")


class Emit(Protocol):
    """Adds one node; ``shape`` and ``dtype`` of its value are by default the first input's.

    ``name`` replaces the name that the scopes give.
    """

    def __call__(
        self,
        *inputs: ir.Value | None,
        shape: Shape | None = None,
        dtype: ir.DataType | None = None,
        name: str | None = None,
        **attributes: Any,
    ) -> ir.Value: ...


def make_value(name: str, shape: Shape, dtype: ir.DataType) -> ir.Value:
    """A value that no node makes: an input of a graph or of a loop's body."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def shape_of(value: ir.Value) -> Shape:
    """The shape that every value of a builder has."""
    if value.shape is None:
        raise TypeError(f"the value '{value.name}' has no shape")
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)


def _static(dim: Dim) -> int:
    if isinstance(dim, str):
        raise TypeError(f"dimension '{dim}' is only known at run time")
    return dim


class OpBuilder:
    """Collects the nodes and initializers of one model; its attributes are ONNX operators.

    ``precision`` says how matrices are stored, and ``moments`` what they are multiplied with, where
    that is known; ``real`` is the type of activations, of all other weights and of what is cached.
    """

    def __init__(
        self, weights: Weights, precision: Precision = FULL, moments: Moments = no_moments
    ) -> None:
        self.precision = precision
        self.moments = moments
        self.real = REALS[precision.float_type]
        self.initializers: dict[str, ir.Value] = {}
        self.domains: set[str] = {""}
        self.visit = 0  # the visit that nodes are added for; 0 outside of any
        self._weights = weights
        self._bodies: list[list[ir.Node]] = [[]]
        self._scopes: list[str] = []
        self._names: Counter[str] = Counter()
        self._shared: dict[Hashable, Any] = {}

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """Nodes of the graph that is being written, in order."""
        return self._bodies[-1]

    def __getattr__(self, op_type: str) -> Emit:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def emit(
            *inputs: ir.Value | None,
            shape: Shape | None = None,
            dtype: ir.DataType | None = None,
            name: str | None = None,
            **attributes: Any,
        ) -> ir.Value:
            first = next(value for value in inputs if value is not None)
            name = self._unique_name(op_type) if name is None else name
            output = ir.Value(
                name=name,
                shape=first.shape if shape is None else ir.Shape(shape),
                type=first.type if dtype is None else ir.TensorType(dtype),
            )
            self._add(op_type, inputs, attributes, [output], name)
            return output

        return emit

    def many(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any],
        shapes: Sequence[Shape],
        dtypes: Sequence[ir.DataType] = (),
    ) -> Sequence[ir.Value]:
        """Add a node with several results, by default real ones."""
        name = self._unique_name(op_type)
        types = dtypes or [self.real] * len(shapes)
        outputs = [
            make_value(f"{name}/{index}", shape, dtype)
            for index, (shape, dtype) in enumerate(zip(shapes, types, strict=True))
        ]
        self._add(op_type, inputs, attributes, outputs, name)
        return outputs

    def _add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any],
        outputs: Sequence[ir.Value],
        name: str,
    ) -> None:
        domain = RUNTIME if op_type in RUNTIME_OPERATORS else ""
        if not is_ours(domain, op_type):
            raise AttributeError(f"no exported model has the operator {op_type}")
        self.domains.add(domain)
        node = ir.node(op_type, inputs, attributes, domain=domain, outputs=outputs, name=name)
        node.meta[VISIT] = self.visit
        self._bodies[-1].append(node)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes added inside are named below ``name``; the first of them bears it alone."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def scoped(self, name: str) -> str:
        """``name`` below the scopes that are open."""
        return "/".join([*filter(None, self._scopes), name])

    @contextmanager
    def body(self) -> Iterator[list[ir.Node]]:
        """Nodes added inside go to the list that this yields: the body of a loop."""
        self._bodies.append([])
        try:
            yield self._bodies[-1]
        finally:
            self._bodies.pop()

    def shared(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` computes, computed once in a model, in its outermost graph."""
        if key not in self._shared:
            bodies, self._bodies = self._bodies, self._bodies[:1]
            try:
                self._shared[key] = make()
            finally:
                self._bodies = bodies
        value: Made = self._shared[key]
        return value

    def weight(self, name: str) -> ir.Value:
        """The initializer of a weight, as it is."""
        return self.stored(name, self.array(name).shape, lambda: self.array(name))

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """The numbers of a weight."""
        return self._weights[name]

    def stored(
        self,
        name: str,
        shape: Sequence[int],
        make: Callable[[], npt.NDArray[Any]],
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """An initializer, by default real, whose numbers are made when the model is written.

        So there is no second copy of the weights before that, and then of one at a time.
        """
        if name not in self.initializers:
            dtype = self.real if dtype is None else dtype

            def tensor() -> ir.TensorProtocol:
                array = make().astype(dtype.numpy(), copy=False)
                return ir.Tensor(array, dtype=dtype, name=name)

            lazy = ir.LazyTensor(tensor, dtype, ir.Shape(shape), name=name)
            self._add_initializer(name, lazy)
        return self.initializers[name]

    def ints(self, *numbers: Dim) -> ir.Value:
        """A constant vector of int64; dimensions that are known before run time."""
        text = "_".join(str(number).replace("-", "minus_") for number in numbers)
        return self.constant(f"ints/{text}", np.array([_static(n) for n in numbers], np.int64))

    def scalar(self, number: int) -> ir.Value:
        """A constant int64 without dimensions."""
        return self.constant(f"int/{number}".replace("-", "minus_"), np.array(number, np.int64))

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """A constant, stored once under its name."""
        return self.array_initializer(f"constants/{name}", array)

    def array_initializer(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """An initializer that is at hand, stored once under its name."""
        if name not in self.initializers:
            self._add_initializer(name, ir.Tensor(array, name=name))
        return self.initializers[name]

    def real_constant(self, name: str, array: npt.NDArray[np.floating]) -> ir.Value:
        """A constant in the type of the activations."""
        return self.constant(name, np.asarray(array).astype(self.real.numpy()))

    def _add_initializer(self, name: str, tensor: ir.TensorProtocol) -> None:
        self.initializers[name] = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )

    def _unique_name(self, op_type: str) -> str:
        """The scope itself for its first node, then the operator's name below it, numbered."""
        scope = "/".join(filter(None, self._scopes))
        name = scope if scope and not self._names[scope] else self.scoped(op_type.lower())
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}_{self._names[name]}"


def guarded(
    op: OpBuilder, value: ir.Value, number: ir.Value, limit: int, complaint: str
) -> ir.Value:
    """``value``, once ``number`` (one int64) is known to be from 1 to ``limit``."""
    nearest = op.Clip(number, op.scalar(1), op.scalar(limit))
    distance = op.Abs(op.Sub(number, nearest))  # not negative: index -1 would be legal
    one = op.Gather(op.ints(1), distance, axis=0, shape=shape_of(number), name=complaint)
    if value.dtype != INT64:
        one = op.Cast(one, to=value.dtype, dtype=value.dtype)
    return op.Mul(value, one)
