"""Block graph to ONNX graph; the graphs of several towers, each written as if alone, as one.

The names of a tower's inputs, outputs, nodes and dimensions bear its own: ``image_patches``,
``text_rounds_A``. A weight of a block has the name that it has in every model, and stands once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with

from rinsc.backends.onnx.contract import LOGITS, RUNTIME, USED, dial_name, tower_port
from rinsc.backends.onnx.form import OnnxForm
from rinsc.backends.onnx.write.builder import (
    FLOAT,
    INT64,
    Moments,
    OpBuilder,
    Weights,
    guarded,
    make_value,
    no_moments,
)
from rinsc.backends.onnx.write.cache import FIRST, graph_slots, name_present, packed
from rinsc.backends.onnx.write.fusion import FusedProgram, fused_layer
from rinsc.backends.onnx.write.ops import emit_program
from rinsc.backends.onnx.write.site import as_real
from rinsc.backends.onnx.write.walk import Walk
from rinsc.graph import BlockGraph, TowersGraph
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.layers import Programs, trace_join, trace_programs
from rinsc.layers.cached import MASK, POSITIONS, VISIBLE, cached_programs
from rinsc.ops import PositionIds, VisibleKeys
from rinsc.ops.program import Program
from rinsc.spec import TowersSpec

OPSETS = {"": 23, RUNTIME: 1}
DTYPES = {"int64": INT64, "float32": FLOAT}


def emit_graph(
    graph: BlockGraph, weights: Weights, form: OnnxForm, moments: Moments = no_moments
) -> ir.Graph:
    """The ONNX graph of a block graph; each of its loops becomes a ``Loop``.

    Inputs: ``input_ids`` (batch, seq), int64, or what else the layer kind takes; for every loop
    that is a dial ``rounds_<name>``, a number, int64. Output: ``logits`` (batch, seq, vocab_size),
    or what else the layer kind gives.
    Every weight is stored once, but a head that is tied to a table of floats has its own bits.

    A cached graph continues sequences: it is given ``attention_mask`` (batch, total), int64, and
    past keys and values too, and gives the present ones; its loops become ``Scan``. See
    `graph_slots`. In a gated one each round after the first becomes an ``If``, and the input that
    sets the rounds is ``depth``, or ``depth_<name>`` where there are several. With an exit the
    rounds that ran are an output each, ``rounds_used_<name>``, int64.
    """
    op = OpBuilder(weights, form.precision, moments)
    programs = cached_programs(graph.spec) if form.cache else trace_programs(graph.spec).inferred
    takes = programs.input
    inputs = {
        name: make_value(name, value.shape, DTYPES[takes.dtype])
        for name, value in programs.embed.inputs.items()
    }
    dials = {
        loop.name: make_value(dial_name(graph, loop.name, gated=form.gated), (), INT64)
        for loop in graph.dials()
    }
    limits = {loop.name: loop.rounds if form.gated else MAX_ROUNDS for loop in graph.dials()}
    rounds: dict[str, ir.Value] = dials
    checked = dict(inputs)
    if not form.fused:  # there each token pays for a check, and the session has made it before
        rounds = {name: _checked_rounds(op, value, limits[name]) for name, value in dials.items()}
        if takes.has_positions:
            longest = inputs.get(MASK, inputs[takes.name])
            checked[str(longest.name)] = _checked_length(op, longest, graph.spec.context)
    if takes.dtype == "float32":
        checked[takes.name] = as_real(op, checked[takes.name])
    if form.cache and graph.shares_slots:
        checked[takes.name] = _checked_single(op, checked[takes.name])
    embed, packing, first = programs.embed, None, None
    if form.fused:
        first = make_value(FIRST, (), op.real)
        packing = packed(op, checked[takes.name], inputs[MASK], first)
        embed = _embed_of_packed(embed)
        checked = {takes.name: packing.ids, POSITIONS: packing.positions}
    sides = emit_program(op, embed, checked)
    past: list[ir.Value] = []
    slots = graph_slots(past, op.real, first)
    layers = _layers(programs, form)
    walk = Walk(op, graph, form, programs, layers, rounds, sides, packing)
    x = walk.steps(graph, sides["x"], slots)
    output = walk.head(x if packing is None else packing.unpacked(op, x))
    output.name, _ = programs.output
    for name, used in walk.used.items():
        used.name = USED + name
    stored = [v for v in op.initializers.values() if v.uses() or not _is_constant(v)]
    return ir.Graph(
        [*inputs.values(), *past, *dials.values()],
        [output, *name_present(slots), *walk.used.values()],
        nodes=op.nodes,
        initializers=stored,
        opset_imports={domain: OPSETS[domain] for domain in sorted(op.domains)},
        name="model",
    )


def _embed_of_packed(embed: Program) -> Program:
    """The embedding of packed tokens, whose positions are known."""
    nodes = tuple(n for n in embed.nodes if not isinstance(n.op, PositionIds | VisibleKeys))
    inputs = {name: value for name, value in embed.inputs.items() if name != MASK}
    outputs = {name: value for name, value in embed.outputs.items() if name != VISIBLE}
    return Program({**inputs, POSITIONS: embed.outputs[POSITIONS]}, nodes, outputs)


def _layers(
    programs: Programs, form: OnnxForm
) -> Mapping[str, Sequence[Program]] | Mapping[str, Sequence[FusedProgram]]:
    if not form.fused:
        return programs.layers
    return programs.rewritten(lambda _, layer: fused_layer(layer, programs))


def _checked_rounds(op: OpBuilder, rounds: ir.Value, limit: int) -> ir.Value:
    complaint = f"{rounds.name} must be from 1 to {limit}"
    with op.scope("checks"), op.scope(str(rounds.name)):
        return guarded(op, rounds, rounds, limit, complaint)


def _checked_length(op: OpBuilder, value: ir.Value, context: int) -> ir.Value:
    with op.scope("checks"), op.scope("seq"):
        seq = op.Shape(value, start=1, end=2, shape=(1,), dtype=INT64)
        return guarded(op, value, seq, context, f"seq must be from 1 to {context}")


def _checked_single(op: OpBuilder, ids: ir.Value) -> ir.Value:
    """Where rounds share slots, a token must see those before it as the slots keep them."""
    with op.scope("checks"), op.scope("single"):
        seq = op.Shape(ids, start=1, end=2, shape=(1,), dtype=INT64)
        return guarded(op, ids, seq, 1, "seq must be 1: rounds share slots, run token by token")


CONSTANTS = "constants/"


def merged(graphs: Mapping[str, ir.Graph], towers: TowersGraph, weights: Weights) -> ir.Graph:
    """One graph of those of the towers, which are taken apart, and what compares them, if any.

    ``weights`` are those of the comparison.
    """
    whole = _Merged()
    for name, graph in graphs.items():
        whole.add(name, graph, tuple(towers.towers[name].blocks))
    whole.join(towers.spec, weights)
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
        stored = self.initializers.get(name)
        is_block = name.partition(".")[0] in blocks
        if stored is not None and (is_block or _equal(stored, value)):
            replace_all_uses_with([value], [stored])
            return
        if not is_block and not name.startswith(CONSTANTS):
            name = f"{tower}.{name}"
        elif stored is not None:
            name = f"{tower}/{name}"
        value.name = name
        assert value.const_value is not None
        value.const_value.name = name
        self.initializers[name] = value

    def join(self, spec: TowersSpec, weights: Weights) -> None:
        """The logits of each pair of the outputs, in float32 as these are."""
        program, pair = trace_join(spec), spec.pairing
        if program is None or pair is None:
            return
        op, names = OpBuilder(weights), {"image": pair.image, "text": pair.text}
        outputs = {value.name: value for value in self.outputs}
        embeddings = {side: outputs[tower_port(own, "embedding")] for side, own in names.items()}
        logits = emit_program(op, program, embeddings)[LOGITS]
        logits.name = LOGITS
        sizes = {f"{side}s": f"{own}_batch" for side, own in names.items()}
        for node in op.nodes:
            for value in node.outputs:
                dims = [d if isinstance(d, int) else str(d) for d in value.shape or ()]
                value.shape = ir.Shape([sizes.get(str(d), d) for d in dims])
        self.nodes += op.nodes
        self.outputs.append(logits)
        for name, value in op.initializers.items():
            if name in weights:
                self.initializers[name] = value
            else:
                self._store("join", value, ())

    def graph(self) -> ir.Graph:
        return ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=list(self.initializers.values()),
            opset_imports=dict(sorted(self.opsets.items())),
            name="model",
        )


def _is_constant(value: ir.Value) -> bool:
    """Whether it is none of the model's weights; one that nothing reads is not stored."""
    return str(value.name).startswith(CONSTANTS)


def _equal(one: ir.Value, other: ir.Value) -> bool:
    """Whether two constants hold the same numbers."""
    left, right = one.const_value, other.const_value
    if left is None or right is None or not _is_constant(other):
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
    for subgraph in _graphs(graph):
        yield from subgraph


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Every value that is an input of a graph or made by a node, each once."""
    values: dict[int, ir.Value] = {}
    for subgraph in _graphs(graph):
        outputs = (value for node in subgraph for value in node.outputs)
        values |= {id(value): value for value in (*subgraph.inputs, *outputs)}
    return list(values.values())
