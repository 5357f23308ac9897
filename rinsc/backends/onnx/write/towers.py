"""Several towers in one ONNX model: the graph of each, written as if it stood alone, and joined.

The names of a tower's inputs, outputs, nodes and dimensions bear its own: ``image_patches``,
``text_rounds_A``. A weight of a block has the name that it has in every model, and stands once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with

from rinsc.backends.onnx.contract import tower_port

CONSTANTS = "constants/"


def merged(graphs: Mapping[str, ir.Graph], blocks: Mapping[str, Collection[str]]) -> ir.Graph:
    """One graph of those of the towers, which are taken apart; ``blocks`` are those of each."""
    whole = _Merged()
    for name, graph in graphs.items():
        whole.add(name, graph, blocks[name])
    return whole.graph()


class _Merged:
    """What the graphs of towers have become, one after the other."""

    def __init__(self) -> None:
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.opsets: dict[str, int] = {}

    def add(self, tower: str, graph: ir.Graph, blocks: Collection[str]) -> None:
        ports = [*graph.inputs, *graph.outputs]
        stored = list(graph.initializers.values())
        _rename(tower, graph, {id(value) for value in (*ports, *stored)})
        for value in ports:
            value.name = tower_port(tower, str(value.name))
        self.opsets |= graph.opset_imports
        self.inputs += list(graph.inputs)
        self.outputs += list(graph.outputs)
        nodes = list(graph)
        graph.outputs.clear()
        graph.inputs.clear()
        graph.remove(nodes)
        self.nodes += nodes
        graph.initializers.clear()
        for value in stored:
            self._store(tower, value, blocks)

    def _store(self, tower: str, value: ir.Value, blocks: Collection[str]) -> None:
        """A weight of a block, or a constant, that is there already is not stored again."""
        name = str(value.name)
        known = self.initializers.get(name)
        is_block = name.partition(".")[0] in blocks
        if known is not None and (is_block or _equal(known, value)):
            replace_all_uses_with([value], [known])
            return
        if not is_block and not name.startswith(CONSTANTS):
            name = f"{tower}.{name}"
        elif known is not None:
            name = f"{tower}/{name}"
        value.name = name
        assert value.const_value is not None
        value.const_value.name = name
        self.initializers[name] = value

    def graph(self) -> ir.Graph:
        return ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=list(self.initializers.values()),
            opset_imports=dict(sorted(self.opsets.items())),
            name="model",
        )


def _equal(one: ir.Value, other: ir.Value) -> bool:
    """Whether two constants hold the same numbers."""
    left, right = one.const_value, other.const_value
    if left is None or right is None or not str(other.name).startswith(CONSTANTS):
        return False
    same = (left.dtype, left.shape.numpy()) == (right.dtype, right.shape.numpy())
    return same and left.tobytes() == right.tobytes()


def _rename(tower: str, graph: ir.Graph, left_alone: set[int]) -> None:
    """Nodes and values below the tower's name, and dimensions that are known at run time.

    Equal names of dimensions mean equal sizes, and towers have sequences of their own.
    """
    for node in _nodes(graph):
        node.name = f"{tower}/{node.name}"
    for value in _values(graph):
        if id(value) not in left_alone:
            value.name = f"{tower}/{value.name}"
        if value.shape is not None and value.const_value is None:
            dims = [d if isinstance(d, int) else f"{tower}_{d}" for d in value.shape]
            value.shape = ir.Shape(dims)


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _graphs(attribute.as_graph())


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for each in _graphs(graph):
        yield from each


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Every value that is an input of a graph or made by a node, each once."""
    found: dict[int, ir.Value] = {}
    for each in _graphs(graph):
        made = (value for node in each for value in node.outputs)
        found |= {id(value): value for value in (*each.inputs, *made)}
    return list(found.values())
