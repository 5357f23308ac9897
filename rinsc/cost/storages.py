"""What autograd keeps of a program for its backward pass, storage by storage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rinsc.ops import (
    Attention,
    LayerNorm,
    MergeHeads,
    RMSNorm,
    Shape,
    at_sizes,
)
from rinsc.ops.program import Node, Program, Value

FULL = 4  # bytes of an element outside of matrix products
ID_BYTES = 8  # of a token, a position or a target


def run_storages(
    program: Program, batch: int, seq: int, products: int, widths: Mapping[str, int]
) -> Storages:
    """What one run of the program leaves; see `rinsc.cost.memory.saved_bytes`."""
    saved = Storages((("batch", batch), ("seq", seq)), products)
    saved.widths |= {program.inputs[name]: width for name, width in widths.items()}
    for node in program.nodes:
        saved.run(node)
    return saved


@dataclass
class Storages:
    """The storages that autograd keeps while a program runs, by what is in them."""

    sizes: tuple[tuple[str, int], ...]
    products: int  # bytes of an element that a product takes and gives
    storages: dict[object, int] = field(default_factory=dict)
    widths: dict[Value, int] = field(default_factory=dict)  # bytes of an element; else fp32
    views: dict[Value, Value] = field(default_factory=dict)  # what is no storage of its own
    in_place: set[Value] = field(default_factory=set)  # attention over heads as a matrix gives them

    def run(self, node: Node) -> None:
        op, inputs, output = node.op, node.inputs, node.output
        self.widths[output] = max((self._width(value) for value in inputs), default=FULL)
        if op.kept == "product":
            self._keep_product(node)
        elif op.kept == "norm":
            self._keep_norm(node)
        elif op.kept == "full":
            self.widths[output] = FULL  # as its tables
        elif op.kept == "view" or self._merges_in_place(node):
            self.views[output] = self._storage(inputs[0])
        elif op.kept == "ids":
            self.widths[output] = FULL  # rows of a table, whatever asks for them
            self.storages[output, "ids"] = ID_BYTES * self._elements(output.shape[:-1])
        elif op.kept in ("table", "output"):
            self._keep(output)
        elif op.kept == "inputs":
            for value in inputs:
                self._keep(value)

    def _merges_in_place(self, node: Node) -> bool:
        return isinstance(node.op, MergeHeads) and node.inputs[0] in self.in_place

    def _keep_product(self, node: Node) -> None:
        inputs, output = node.inputs, node.output
        self.widths[output] = self.products
        if isinstance(node.op, Attention) and node.op.cap is not None:
            self._keep_capped(node)
            return
        for index, value in enumerate(inputs):
            self._keep_cast((output, index), value, self.products)
        if isinstance(node.op, Attention):
            self._keep(output)
            rows = inputs[0].shape[:-1]  # the logarithm of a sum for each row of each head
            self.storages[output, "rows"] = FULL * self._elements(rows)
            if node.op.window is not None:  # whose mask is one of numbers
                pairs = (inputs[0].shape[2], inputs[1].shape[2])
                self.storages[output, "mask"] = self.products * self._elements(pairs)
            if inputs[0] in self.views:
                self.in_place.add(output)

    def _keep_capped(self, node: Node) -> None:
        """Attention that is written out: its scores twice, and keys and values a query's head."""
        (query, *others), output = node.inputs[:3], node.output
        self._keep_cast((output, "query"), query, self.products)
        for index, value in enumerate(others):
            if value.shape[1] == query.shape[1]:
                self._keep_cast((output, index), value, self.products)
            else:
                self.storages[output, index] = self.products * self._elements(query.shape)
        pairs = (query.shape[2], others[0].shape[2])
        scores = self._elements((*query.shape[:2], *pairs))
        self.storages[output, "tanh"] = self.products * scores
        self.storages[output, "softmax"] = FULL * scores
        if self.products != FULL:
            self.storages[output, "softmax as it is multiplied"] = self.products * scores
        self.storages[output, "mask"] = self._elements(pairs)

    def _keep_norm(self, node: Node) -> None:
        """The input, numbers of each row, and of some the input as it is normalised, in fp32."""
        (value, *_), output = node.inputs, node.output
        if isinstance(node.op, LayerNorm):
            self._keep(value)
        else:
            self._keep_cast((output, "input"), value, FULL)
        rows = FULL * self._elements(value.shape[:-1])
        self.storages[output, "rows"] = rows * (2 if isinstance(node.op, LayerNorm) else 1)
        if isinstance(node.op, RMSNorm):
            if node.op.offset:
                self.storages[output, "weight"] = FULL * self._elements(value.shape[-1:])
            # A fused kernel, as GPUs have one, keeps less.
            self.storages[output, "normalised"] = FULL * self._elements(value.shape)

    def _keep_cast(self, key: object, value: Value, width: int) -> None:
        if self._width(value) == width:
            self._keep(value)
        else:
            self.storages[key] = width * self._elements(value.shape)

    def _keep(self, value: Value) -> None:
        if not self._is_fixed(value):
            storage = self._storage(value)
            self.storages[storage] = self._width(value) * self._elements(storage.shape)

    def _storage(self, value: Value) -> Value:
        return self.views.get(value, value)

    def _width(self, value: Value) -> int:
        return self.widths.get(value, FULL)

    def _elements(self, shape: Shape) -> int:
        return math.prod(at_sizes(shape, self.sizes))

    def _is_fixed(self, value: Value) -> bool:
        return not any(isinstance(dim, str) for dim in value.shape)
