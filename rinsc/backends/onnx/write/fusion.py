"""Programs with operators of ONNX Runtime in place of ours, and how those read.

A rewrite by pattern, so that it serves every layer kind: what matches no pattern stays as it is.

The cases, each with the function that handles it:

1. Append keys, append values, attention, merged heads, and where the table fits the rotation of
   queries and keys: one ``GroupQueryAttention`` (`_attention`).
2. Linear maps of one input, for queries, keys and values: one product (`_one_product`).
3. x · sigmoid(x): one ``QuickGelu`` (`_fuse_silu`).
4. A sum and the norm behind it, in one visit: one ``SkipLayerNormalization``, in the finished graph
   (`fuse_skip_norms`).

In goes a layer behind a cache, out comes one with cases 1 to 3:

    >>> import rinsc
    >>> from rinsc.layers.cached import cached_programs
    >>> programs = cached_programs(rinsc.model_spec("AB", preset="tiny", heads=4, kv_heads=2))
    >>> def shown(layer):
    ...     print(*(type(node.op).__name__ for node in layer.nodes[:15]))
    >>> layer = programs.layers["A"][0]
    >>> shown(layer)
    RMSNorm Linear SplitHeads Linear SplitHeads Linear SplitHeads Rope Rope Append Append Attention
    MergeHeads Linear Add
    >>> shown(fused_layer(layer, programs))
    RMSNorm Packed GroupedAttention Linear Add RMSNorm Linear Silu Linear Mul Linear Add
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from rinsc import ops
from rinsc.backends.onnx.contract import RUNTIME
from rinsc.backends.onnx.write.builder import VISIT, OpBuilder, shape_of
from rinsc.backends.onnx.write.cache import Packing
from rinsc.backends.onnx.write.matrices import Matrix, product
from rinsc.backends.onnx.write.rotary import rotary_key, rotary_steps
from rinsc.layers import Programs, trace_programs
from rinsc.layers.cached import VISIBLE
from rinsc.ops.base import static
from rinsc.ops.program import Node, Program, Value
from rinsc.spec import ModelSpec

HEAD_MULTIPLE = 8  # head widths that GroupQueryAttention takes
ROTARY_MULTIPLE = 16  # and those whose rotation it does inside


@dataclass(frozen=True)
class Packed:
    """Linear maps of one input side by side; ``nodes`` own the weights."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class GroupedAttention:
    """Attention behind a cache that it appends to; rotates by ``rotary``, where there is one.

    Inputs: queries, keys and values (batch, seq, heads · head_dim), or all of them packed and
    twice None; past keys and values. Outputs: what was mixed, and present keys and values.
    """

    heads: int
    kv_heads: int
    rotary: ops.RotaryRows | None
    window: int | None = None
    scale: float | None = None
    cap: float | None = None


@dataclass(frozen=True)
class Silu:
    """x · sigmoid(x)."""


FusedOp: TypeAlias = Packed | GroupedAttention | Silu


@dataclass(frozen=True)
class Fused:
    """Several operations that the runtime does as one."""

    op: FusedOp
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    name: str
    part: str


@dataclass(frozen=True)
class FusedProgram:
    """A `Program` of which some nodes are fused."""

    inputs: dict[str, Value]
    nodes: tuple[Node | Fused, ...]
    outputs: dict[str, Value]


def can_fuse(spec: ModelSpec) -> bool:
    """Whether the fused attention can take the place of all attention in a model's layers.

    It takes heads of some widths only, and gives its result with the heads merged.
    """
    if spec.head_size % HEAD_MULTIPLE:
        return False
    layers = trace_programs(spec).distinct_layers()
    users = [
        [type(user.op) for user in layer.nodes if node.output in user.inputs]
        for layer in layers
        for node in layer.nodes
        if isinstance(node.op, ops.Attention)
    ]
    return bool(users) and all(of == [ops.MergeHeads] for of in users)


def fused_layer(layer: Program, programs: Programs) -> FusedProgram:
    """A layer of `cached_programs` with fused operators; ``programs.embed`` makes its tables."""
    sides = {name: _maker(programs.embed, value) for name, value in programs.embed.outputs.items()}
    tables = {
        value: node.op
        for name, value in layer.inputs.items()
        if (node := sides.get(name)) is not None and isinstance(node.op, ops.RotaryRows)
    }
    nodes: list[Node | Fused] = list(layer.nodes)
    nodes = _fuse_attention(layer, nodes, tables)
    nodes = [_fuse_silu(node) for node in nodes]
    inputs = {name: value for name, value in layer.inputs.items() if name != VISIBLE}
    return FusedProgram(inputs, tuple(_used(nodes, layer.outputs)), layer.outputs)


def _maker(program: Program, value: Value) -> Node | None:
    return next((node for node in program.nodes if node.output == value), None)


def _fuse_attention(
    layer: Program, nodes: list[Node | Fused], tables: dict[Value, ops.RotaryRows]
) -> list[Node | Fused]:
    makers = {node.output: node for node in layer.nodes}
    users = Counter(value for node in layer.nodes for value in node.inputs)
    spare = max(value.index for value in [*layer.inputs.values(), *makers])
    for node in layer.nodes:
        if not isinstance(node.op, ops.Attention):
            continue
        merge = next(user for user in layer.nodes if node.output in user.inputs)
        fused, spare = _attention(node, merge, makers, users, tables, spare)
        gone = {merge, node, *(makers[value] for value in node.inputs[1:3])}
        index = nodes.index(merge)
        before: list[Node | Fused] = [n for n in nodes[:index] if n not in gone]
        nodes = [*before, *fused, *nodes[index + 1 :]]
    return nodes


def _attention(
    node: Node,
    merge: Node,
    makers: dict[Value, Node],
    users: Counter[Value],
    tables: dict[Value, ops.RotaryRows],
    spare: int,
) -> tuple[list[Node | Fused], int]:
    """Case 1: the operations in place of an attention, and the last index of a value."""
    query = node.inputs[0]
    appends = [makers[value] for value in node.inputs[1:3]]
    assert isinstance(node.op, ops.Attention)
    assert all(isinstance(append.op, ops.Append) for append in appends)
    key, value = (append.inputs[1] for append in appends)
    rotary = _rotation(makers.get(query), makers.get(key), tables)
    if rotary is not None:
        query, key = makers[query].inputs[0], makers[key].inputs[0]
    fused: list[Node | Fused] = []
    flat = []
    for source in (query, key, value):
        maker = makers.get(source)
        if maker is not None and isinstance(maker.op, ops.SplitHeads):
            flat.append(maker.inputs[0])
            continue
        spare += 1
        batch, heads, seq, head_dim = source.shape
        together = Value(spare, (batch, seq, static(heads) * static(head_dim)))
        fused.append(Node(ops.MergeHeads(), (source,), together, "", node.part))
        flat.append(together)
    inputs: list[Value | None] = list(flat)
    sources = [makers.get(value) for value in flat]
    if (linears := _one_product(sources, users)) is not None:
        spare += 1
        width = sum(static(value.shape[-1]) for value in flat)
        packed = Value(spare, (*flat[0].shape[:-1], width))
        name = "_".join(linear.name for linear in linears)
        fused.append(Fused(Packed(linears), linears[0].inputs, (packed,), name, node.part))
        inputs = [packed, None, None]
    heads, kv_heads = (static(value.shape[1]) for value in (node.inputs[0], key))
    fused.append(
        Fused(
            GroupedAttention(heads, kv_heads, rotary, node.op.window, node.op.scale, node.op.cap),
            (*inputs, *(append.inputs[0] for append in appends)),
            (merge.output, *(append.output for append in appends)),
            node.name,
            node.part,
        )
    )
    return fused, spare


def _rotation(
    query: Node | None, key: Node | None, tables: dict[Value, ops.RotaryRows]
) -> ops.RotaryRows | None:
    """The table by which queries and keys are both turned, if the fused operator can do it."""
    if query is None or key is None or not isinstance(query.op, ops.Rope):
        return None
    if not isinstance(key.op, ops.Rope) or query.inputs[1:] != key.inputs[1:]:
        return None
    cos, sin = (tables.get(value) for value in query.inputs[1:])
    if cos is None or sin is None or (cos.function, sin.function) != ("cos", "sin"):
        return None
    if replace(cos, function="sin") != sin or cos.head_dim % ROTARY_MULTIPLE:
        return None
    if cos.far is not None:  # the operator has one table for all lengths
        return None
    return cos


def _one_product(sources: Sequence[Node | None], users: Counter[Value]) -> tuple[Node, ...] | None:
    """Case 2: the linear maps, if they share an input, are alike in biases and are used once."""
    linears = [source for source in sources if source and isinstance(source.op, ops.Linear)]
    if len(linears) != len(sources) or any(users[node.output] != 1 for node in linears):
        return None
    if (
        len({(node.inputs, node.op.bias) for node in linears if isinstance(node.op, ops.Linear)})
        != 1
    ):
        return None
    return tuple(linears)


def _fuse_silu(node: Node | Fused) -> Node | Fused:
    """Case 3."""
    if isinstance(node, Node) and node.op == ops.Activation("silu"):
        return Fused(Silu(), node.inputs, (node.output,), node.name, node.part)
    return node


def _used(nodes: list[Node | Fused], outputs: dict[str, Value]) -> list[Node | Fused]:
    """The nodes without those whose results nobody reads any more."""
    needed = set(outputs.values())
    used: list[Node | Fused] = []
    for node in reversed(nodes):
        results = node.outputs if isinstance(node, Fused) else (node.output,)
        if needed.intersection(results):
            needed.update(value for value in node.inputs if value is not None)
            used.append(node)
    return used[::-1]


@dataclass(frozen=True)
class FusedSite:
    """Where a fused operation is lowered; ``prefix`` says where its nodes' weights stand."""

    node: Fused
    prefix: Callable[[Node], str]
    packing: Packing | None

    @property
    def op(self) -> Any:
        return self.node.op


Inputs: TypeAlias = Sequence[ir.Value | None]
FusedLowering: TypeAlias = Callable[[OpBuilder, FusedSite, Inputs], Sequence[ir.Value]]


def _packed(op: OpBuilder, at: FusedSite, inputs: Inputs) -> Sequence[ir.Value]:
    (x,) = inputs
    assert x is not None
    owners = [at.prefix(node) + node.name for node in at.op.nodes]
    matrix = Matrix(tuple(owners), bias=at.op.nodes[0].op.bias)
    return [product(op, x, matrix, at.node.outputs[0].shape)]


def _grouped_attention(op: OpBuilder, at: FusedSite, inputs: Inputs) -> Sequence[ir.Value]:
    assert at.packing is not None
    attention: GroupedAttention = at.op
    operands = [*inputs, at.packing.last, at.packing.total]
    if attention.rotary is not None:
        operands += _rotary_tables(op, attention.rotary)
    batch, seq, width = at.node.outputs[0].shape
    attributes: dict[str, int | float] = {
        "num_heads": attention.heads,
        "kv_num_heads": attention.kv_heads,
        "do_rotary": int(attention.rotary is not None),
    }
    scores = {
        "local_window_size": attention.window,
        "scale": attention.scale,
        "softcap": attention.cap,
    }
    attributes |= {name: value for name, value in scores.items() if value is not None}
    shapes = [(batch, seq, width), *(value.shape for value in at.node.outputs[1:])]
    return op.many("GroupQueryAttention", operands, attributes, shapes)


def _rotary_tables(op: OpBuilder, rotary: ops.RotaryRows) -> list[ir.Value]:
    """Cosines and sines of every position, (context, head_dim / 2)."""
    positions = np.arange(rotary.context, dtype=np.float32)[:, None]
    angles = positions * rotary_steps(rotary)
    key = f"{rotary_key(rotary)}_{rotary.context}"
    gain = np.float32(1 if rotary.gain is None else rotary.gain)
    return [
        op.real_constant(f"rotary_cos/{key}", gain * np.cos(angles)),
        op.real_constant(f"rotary_sin/{key}", gain * np.sin(angles)),
    ]


def _silu(op: OpBuilder, at: FusedSite, inputs: Inputs) -> Sequence[ir.Value]:
    return [op.QuickGelu(*inputs, alpha=1.0)]


FUSED_OPS: dict[type[FusedOp], FusedLowering] = {
    Packed: _packed,
    GroupedAttention: _grouped_attention,
    Silu: _silu,
}


KINDS = {
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "LayerNormalization": "SkipLayerNormalization",
}


def fuse_skip_norms(graph: ir.Graph) -> None:
    """Case 4: in the graph, and in the bodies in it, where sum and norm stand in one of them."""
    for node in list(graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                fuse_skip_norms(attribute.as_graph())
        if node.op_type in KINDS:
            _fuse(graph, node)


def _fuse(graph: ir.Graph, norm: ir.Node) -> None:
    x, *weights = norm.inputs
    total = None if x is None else x.producer()
    if total is None or total.op_type != "Add" or total.graph is not graph:
        return
    if norm.meta[VISIT] != total.meta[VISIT] or not norm.meta[VISIT]:
        return
    first, second = total.inputs
    if first is None or second is None or shape_of(first) != shape_of(second):
        return
    if len(shape_of(first)) != 3:  # the operator's rank
        return
    (normed,), (summed,) = norm.outputs, total.outputs
    outputs = [
        ir.Value(name=value.name, shape=value.shape, type=value.type)
        if value is not None
        else ir.Value(name="")
        for value in (normed, None, None, summed)
    ]
    fused = ir.node(
        KINDS[norm.op_type],
        [first, second, *weights],
        {"epsilon": norm.attributes["epsilon"].as_float()},
        domain=RUNTIME,
        outputs=outputs,
        name=norm.name,
    )
    graph.insert_before(total, fused)
    for old, new in ((normed, outputs[0]), (summed, outputs[3])):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove([norm, total], safe=True)
