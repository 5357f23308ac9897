"""How each primitive operation reads in ONNX: one lowering an operation; and programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from rinsc import ops
from rinsc.backends.onnx.write.builder import BOOL, INT64, OpBuilder, shape_of
from rinsc.backends.onnx.write.cache import Packing
from rinsc.backends.onnx.write.fusion import FUSED_OPS, Fused, FusedProgram, FusedSite
from rinsc.backends.onnx.write.matrices import Matrix, product, table_rows, tied_table
from rinsc.backends.onnx.write.rotary import rope, rotary_rows, rotary_table
from rinsc.backends.onnx.write.site import Site, noise_like
from rinsc.ops.base import static
from rinsc.ops.program import Node, Program, Value


def append(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Concat(*inputs, axis=2, shape=at.shape)


def position_ids(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """The last of the running counts of tokens that count, from 0."""
    counted, new = inputs
    counts = op.CumSum(counted, op.scalar(1))
    positions = op.Max(op.Sub(counts, op.scalar(1)), op.scalar(0))
    seq = op.Shape(new, start=1, end=2, shape=(1,), dtype=INT64)
    total = op.Shape(counted, start=1, end=2, shape=(1,), dtype=INT64)
    return op.Slice(positions, op.Sub(total, seq), total, op.ints(1), shape=at.shape)


def visible_keys(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    counted, new = inputs
    seq = _length(op, new)
    total = _length(op, counted)
    keys = op.Range(op.scalar(0), total, op.scalar(1), shape=("total",), dtype=INT64)
    own = op.Range(op.Sub(total, seq), total, op.scalar(1), shape=("seq",), dtype=INT64)
    column = op.Unsqueeze(own, op.ints(1), shape=("seq", 1))
    before = op.LessOrEqual(keys, column, shape=("seq", "total"), dtype=BOOL)
    itself = op.Equal(keys, column, shape=("seq", "total"), dtype=BOOL)
    counts = op.Cast(counted, to=BOOL, dtype=BOOL)
    counts = op.Unsqueeze(counts, op.ints(1, 2), shape=("batch", 1, 1, "total"))
    visible = op.And(before, counts, shape=at.shape)
    return op.Or(visible, itself, shape=at.shape)


def position_rows(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Gather(op.weight(at.weight_name("weight")), inputs[0], axis=0, shape=at.shape)


def _length(op: OpBuilder, value: ir.Value) -> ir.Value:
    """The second dimension as a number."""
    assert len(shape_of(value)) >= 2
    size = op.Shape(value, start=1, end=2, shape=(1,), dtype=INT64)
    return op.Squeeze(size, shape=())


Lowering: TypeAlias = Callable[[OpBuilder, Site, list[ir.Value]], ir.Value]


def _embedding(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return table_rows(op, inputs[0], at.prefix + at.node.name, at.shape)


def _positions(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    table = op.weight(at.weight_name("weight"))
    seq = op.Shape(inputs[0], start=1, end=2, shape=(1,), dtype=INT64)
    return op.Slice(table, op.ints(0), seq, op.ints(0), shape=at.shape)


def _linear(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    matrix = Matrix((at.prefix + at.node.name,), bias=at.op.bias)
    return product(op, inputs[0], matrix, at.shape)


def _tied_linear(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """``Gemm`` reads the embedding's table as it is, so that it is neither copied nor turned."""
    table = tied_table(op, at.op.owner)
    if table is None:
        return product(op, inputs[0], Matrix((at.op.owner,), bias=False), at.shape)
    width = at.node.inputs[0].shape[-1]
    rows = op.Reshape(inputs[0], op.ints(-1, width), shape=("tokens", width))
    logits = op.Gemm(rows, table, transB=1, shape=("tokens", at.op.rows))
    leading = op.Shape(inputs[0], start=0, end=2, shape=(2,), dtype=INT64)
    shape = op.Concat(leading, op.ints(at.op.rows), axis=0, shape=(3,))
    return op.Reshape(logits, shape, shape=at.shape)


def _project(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    out_features, in_features = at.node.inputs[1].shape
    turned = op.Transpose(inputs[1], perm=[1, 0], shape=(in_features, out_features))
    return op.MatMul(inputs[0], turned, shape=at.shape)


def _row(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    table = op.weight(at.weight_name("weight"))
    index = op.Min(inputs[0], op.scalar(at.op.rows - 1))
    return op.Gather(table, index, axis=0, shape=at.shape)


def _vector(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.weight(at.weight_name("weight"))


def _rms_norm(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    name, offset = at.weight_name("weight"), at.op.offset
    if offset is None:
        weight = op.weight(name)
    else:  # the sum is stored, so that no run adds it up again
        weight = op.stored(name, op.array(name).shape, lambda: op.array(name) + offset)
    return op.RMSNormalization(inputs[0], weight, axis=-1, epsilon=at.op.eps)


def _unit_rms_norm(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    width = static(at.shape[-1])
    ones = op.real_constant(f"ones/{width}", np.ones(width))
    return op.RMSNormalization(inputs[0], ones, axis=-1, epsilon=at.op.eps)


def _layer_norm(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    weight, bias = (op.weight(at.weight_name(name)) for name in ("weight", "bias"))
    return op.LayerNormalization(inputs[0], weight, bias, axis=-1, epsilon=at.op.eps)


def _split_heads(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    batch, heads, seq, head_dim = at.shape
    apart = op.Reshape(
        inputs[0], op.ints(0, 0, heads, head_dim), shape=(batch, seq, heads, head_dim)
    )
    return op.Transpose(apart, perm=[0, 2, 1, 3], shape=at.shape)


def _merge_heads(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    batch, heads, seq, head_dim = at.node.inputs[0].shape
    apart = op.Transpose(inputs[0], perm=[0, 2, 1, 3], shape=(batch, seq, heads, head_dim))
    return op.Reshape(apart, op.ints(0, 0, at.shape[-1]), shape=at.shape)


def _attention(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    scores = {"scale": at.op.scale, "softcap": at.op.cap}
    scores = {name: value for name, value in scores.items() if value is not None}
    if at.op.window is None:
        return op.Attention(*inputs, is_causal=int(at.op.causal), **scores)
    return op.Attention(*inputs[:3], _in_window(op, at, inputs), **scores)


def _positions_of_heads(op: OpBuilder, value: ir.Value) -> ir.Value:
    """The numbers of the positions of (batch, heads, seq, head_dim)."""
    size = op.Squeeze(op.Shape(value, start=2, end=3, shape=(1,), dtype=INT64), shape=())
    return op.Range(op.scalar(0), size, op.scalar(1), shape=("seq",), dtype=INT64)


def _in_window(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """The mask of an attention with a window: of the keys that a query would see, the last ones."""
    if len(inputs) > 3:
        mask, shape = inputs[3], at.node.inputs[3].shape
    else:
        shape = (at.node.inputs[0].shape[2], at.node.inputs[1].shape[2])
        queries, keys = (_positions_of_heads(op, value) for value in inputs[:2])
        column = op.Unsqueeze(queries, op.ints(1), shape=(shape[0], 1))
        last = column if at.op.causal else op.ReduceMax(keys, shape=())
        mask = op.LessOrEqual(
            keys, op.Max(column, last, shape=(shape[0], 1)), shape=shape, dtype=BOOL
        )
    counts = op.Cast(mask, to=INT64, shape=shape, dtype=INT64)
    last = op.scalar(len(shape) - 1)
    from_last = op.CumSum(counts, last, reverse=1, shape=shape, dtype=INT64)
    near = op.LessOrEqual(from_last, op.scalar(at.op.window), shape=shape, dtype=BOOL)
    return op.And(mask, near, shape=shape, dtype=BOOL)


def _activation(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    match at.op.function:
        case "silu":
            return op.Mul(inputs[0], op.Sigmoid(inputs[0]))
        case "gelu_tanh":
            return op.Gelu(inputs[0], approximate="tanh")
        case "gelu":
            return op.Gelu(inputs[0], approximate="none")
        case "relu":
            return op.Relu(inputs[0])
        case "sigmoid":
            return op.Sigmoid(inputs[0])
        case "exp":
            return op.Exp(inputs[0])
        case _:
            return op.Tanh(inputs[0])


def _add(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Add(*inputs, shape=at.shape)


def _mul(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Mul(*inputs, shape=at.shape)


def _sub(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Sub(*inputs, shape=at.shape)


def _scale(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    factor = op.real_constant(f"factor/{at.op.factor!r}", np.array(at.op.factor))
    return op.Mul(inputs[0], factor)


def _weigh(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Mul(inputs[0], op.weight(at.weight_name("weight")))


def _zeros_like(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    zero = op.real_constant("zero", np.array(0.0))
    return op.Expand(zero, op.Shape(inputs[0], shape=(len(at.shape),), dtype=INT64), shape=at.shape)


def _noise(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return noise_like(op, *inputs)


def _concat(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Concat(*inputs, axis=-1, shape=at.shape)


def _shift(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    padded = op.Pad(
        inputs[0], op.ints(0, at.op.steps, 0, 0, 0, 0), shape=("batch", "padded", at.shape[-1])
    )
    seq = op.Shape(inputs[0], start=1, end=2, shape=(1,), dtype=INT64)
    return op.Slice(padded, op.ints(0), seq, op.ints(1), shape=at.shape)


def _mean_pool(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.ReduceMean(inputs[0], op.ints(1), keepdims=0, shape=at.shape)


def _patch_convolution(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    weight, bias = (op.weight(at.weight_name(name)) for name in ("weight", "bias"))
    batch, _, width = at.shape
    rows, columns = (static(size) for size in at.node.inputs[0].shape[2:])
    sides = (rows // at.op.size, columns // at.op.size)
    strides = [at.op.size, at.op.size]
    cut = op.Conv(inputs[0], weight, bias, strides=strides, shape=(batch, width, *sides))
    flat = op.Reshape(cut, op.ints(0, width, -1), shape=(batch, width, "seq"))
    return op.Transpose(flat, perm=[0, 2, 1], shape=at.shape)


def _probe(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    batch = op.Shape(inputs[0], start=0, end=1, shape=(1,), dtype=INT64)
    sizes = op.Concat(batch, op.ints(1, at.shape[-1]), axis=0, shape=(3,))
    return op.Expand(op.weight(at.weight_name("weight")), sizes, shape=at.shape)


def _at_position(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Gather(inputs[0], op.scalar(at.op.index), axis=1, shape=at.shape)


def _unit_length(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    rows = (*at.shape[:-1], 1)
    length = op.ReduceL2(inputs[0], op.ints(-1), keepdims=1, shape=rows)
    return op.Div(inputs[0], op.Max(length, op.real_constant("least_length", np.array(1e-12))))


def _dots(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    others, width = at.node.inputs[1].shape
    turned = op.Transpose(inputs[1], perm=[1, 0], shape=(width, others))
    return op.MatMul(inputs[0], turned, shape=at.shape)


def _scalar(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.weight(at.prefix + at.node.name)


def _softmax(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.Softmax(inputs[0], axis=-1)


def _largest(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    """Ones scattered to where the largest stand."""
    largest_shape = (*at.shape[:-1], at.op.count)
    _, indices = op.many(
        "TopK",
        [inputs[0], op.ints(at.op.count)],
        {"axis": -1},
        [largest_shape, largest_shape],
        [op.real, INT64],
    )
    sizes = op.Shape(indices, shape=(len(largest_shape),), dtype=INT64)
    ones = op.Expand(op.real_constant("one", np.array(1.0)), sizes, shape=largest_shape)
    zeros = op.Mul(inputs[0], op.real_constant("zero", np.array(0.0)))
    return op.ScatterElements(zeros, indices, ones, axis=-1, shape=at.shape)


def _stretch(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    column = op.Unsqueeze(inputs[0], op.ints(-1), shape=(*shape_of(inputs[0]), 1))
    sizes = op.ints(*[1] * (len(at.shape)), at.op.times)
    many = op.Expand(column, sizes, shape=(*shape_of(inputs[0]), at.op.times))
    flat = op.ints(*[0] * (len(at.shape) - 1), at.shape[-1])
    return op.Reshape(many, flat, shape=at.shape)


def _token_mean(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return op.ReduceMean(inputs[0], op.ints(0, 1), keepdims=0, shape=at.shape)


def _auxiliary_loss(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
    return inputs[0]


ONNX_OPS: dict[type[ops.Op], Lowering] = {
    ops.Embedding: _embedding,
    ops.Positions: _positions,
    ops.RotaryTable: rotary_table,
    ops.Linear: _linear,
    ops.TiedLinear: _tied_linear,
    ops.RMSNorm: _rms_norm,
    ops.LayerNorm: _layer_norm,
    ops.SplitHeads: _split_heads,
    ops.MergeHeads: _merge_heads,
    ops.Append: append,
    ops.PositionIds: position_ids,
    ops.VisibleKeys: visible_keys,
    ops.RotaryRows: rotary_rows,
    ops.PositionRows: position_rows,
    ops.Rope: rope,
    ops.Attention: _attention,
    ops.Activation: _activation,
    ops.Project: _project,
    ops.Row: _row,
    ops.Vector: _vector,
    ops.UnitRMSNorm: _unit_rms_norm,
    ops.Add: _add,
    ops.Sub: _sub,
    ops.Mul: _mul,
    ops.Scale: _scale,
    ops.Weigh: _weigh,
    ops.ZerosLike: _zeros_like,
    ops.Noise: _noise,
    ops.Concat: _concat,
    ops.Shift: _shift,
    ops.MeanPool: _mean_pool,
    ops.PatchConvolution: _patch_convolution,
    ops.Probe: _probe,
    ops.AtPosition: _at_position,
    ops.UnitLength: _unit_length,
    ops.Dots: _dots,
    ops.Scalar: _scalar,
    ops.Softmax: _softmax,
    ops.Largest: _largest,
    ops.Stretch: _stretch,
    ops.TokenMean: _token_mean,
    ops.AuxiliaryLoss: _auxiliary_loss,
}


def emit_program(
    op: OpBuilder,
    program: Program | FusedProgram,
    inputs_by_name: Mapping[str, ir.Value],
    prefix: Callable[[Node], str] = lambda node: "",
    packing: Packing | None = None,
) -> dict[str, ir.Value]:
    """The program's outputs; ``prefix`` says where an operation's weights stand: ``A.0.``.

    Fused attention reads the lengths of its rows off ``packing``.
    """
    values = {value: inputs_by_name[name] for name, value in program.inputs.items()}
    labels: dict[Value, str] = {}
    for node in program.nodes:
        inputs = [None if value is None else values[value] for value in node.inputs]
        if isinstance(node, Fused):
            name = node.name or type(node.op).__name__.lower()
            labels[node.outputs[0]] = name
            with op.scope(node.part), op.scope(name):
                outputs = FUSED_OPS[type(node.op)](op, FusedSite(node, prefix, packing), inputs)
            values.update(zip(node.outputs, outputs, strict=True))
        else:
            label = _label(node, labels)
            with op.scope(node.part), op.scope(label):
                present = [value for value in inputs if value is not None]
                site = Site(node, prefix(node))
                values[node.output] = ONNX_OPS[type(node.op)](op, site, present)
    return {name: values[value] for name, value in program.outputs.items()}


def _label(node: Node, labels: dict[Value, str]) -> str:
    """The node's name; where it has none, its operation's after the one input that has a name."""
    kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(node.op).__name__).lower()
    sources = {labels[value] for value in node.inputs if labels.get(value)}
    source = sources.pop() if len(sources) == 1 else ""
    labels[node.output] = node.name or (source if len(node.inputs) == 1 else "")
    return node.name or "_".join(filter(None, (source, kind)))
