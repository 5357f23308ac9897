"""Block graph to ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from rinsc.backends.onnx.contract import USED, dial_name
from rinsc.backends.onnx.form import OnnxForm
from rinsc.backends.onnx.operators import RUNTIME
from rinsc.backends.onnx.write.builder import FLOAT, INT64, OpBuilder, guarded, make_value
from rinsc.backends.onnx.write.cache import FIRST, graph_slots, name_present
from rinsc.backends.onnx.write.fusion import FusedProgram, fused_layer
from rinsc.backends.onnx.write.ops import emit_program
from rinsc.backends.onnx.write.packing import packed
from rinsc.backends.onnx.write.site import as_real
from rinsc.backends.onnx.write.walk import Walk
from rinsc.backends.onnx.write.weights import Moments, Weights, no_moments
from rinsc.graph import BlockGraph
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.layers import Programs, trace_programs
from rinsc.layers.cached import MASK, POSITIONS, VISIBLE, cached_programs
from rinsc.ops import PositionIds, VisibleKeys
from rinsc.ops.program import Program

OPSETS = {"": 23, RUNTIME: 1}
DTYPES = {"int64": INT64, "float32": FLOAT}


def emit_graph(
    graph: BlockGraph, weights: Weights, form: OnnxForm, moments: Moments = no_moments
) -> ir.Graph:
    """The ONNX graph of a block graph; each of its loops becomes a ``Loop``.

    Inputs: ``input_ids`` (batch, seq), int64, or what else the layer kind takes; for every loop
    that is a dial ``rounds_<name>``, a number, int64. Output: ``logits`` (batch, seq, vocab_size).
    Every weight is stored once, but a head that is tied to a table of floats has its own bits.

    A cached graph continues sequences: it is given ``attention_mask`` (batch, total), int64, and
    past keys and values too, and gives the present ones; its loops become ``Scan``. See
    `graph_slots`. In a gated one each round after the first becomes an ``If``, and the input that
    sets the rounds is ``depth``, or ``depth_<name>`` where there are several. With an exit the
    rounds that ran are an output each, ``rounds_used_<name>``, int64.
    """
    op = OpBuilder(weights, form.precision, moments)
    programs = cached_programs(graph.spec) if form.cache else trace_programs(graph.spec)
    takes = programs.input
    given = {
        name: make_value(name, value.shape, DTYPES[takes.dtype])
        for name, value in programs.embed.inputs.items()
    }
    dials = {
        loop.name: make_value(dial_name(graph, loop.name, gated=form.gated), (), INT64)
        for loop in graph.dials()
    }
    limits = {loop.name: loop.rounds if form.gated else MAX_ROUNDS for loop in graph.dials()}
    rounds: dict[str, ir.Value] = dials
    checked = dict(given)
    if not form.fused:  # there each token pays for a check, and the session has made it before
        rounds = {name: _checked_rounds(op, value, limits[name]) for name, value in dials.items()}
        longest = given.get(MASK, given[takes.name])
        checked[str(longest.name)] = _checked_length(op, longest, graph.spec.context)
    if takes.dtype == "float32":
        checked[takes.name] = as_real(op, checked[takes.name])
    if form.cache and graph.shares_slots:
        checked[takes.name] = _checked_single(op, checked[takes.name])
    embed, packing, first = programs.embed, None, None
    if form.fused:
        first = make_value(FIRST, (), op.real)
        packing = packed(op, checked[takes.name], given[MASK], first)
        embed = _embed_of_packed(embed)
        checked = {takes.name: packing.ids, POSITIONS: packing.positions}
    sides = emit_program(op, embed, checked)
    past: list[ir.Value] = []
    slots = graph_slots(past, op.real, first)
    layers = _layers(programs, form)
    walk = Walk(op, graph, form, programs, layers, rounds, sides, packing)
    x = walk.steps(list(graph.steps()), sides["x"], slots)
    logits = walk.head(x if packing is None else packing.unpacked(op, x))
    logits.name = "logits"
    for name, used in walk.used.items():
        used.name = USED + name
    return ir.Graph(
        [*given.values(), *past, *dials.values()],
        [logits, *name_present(slots), *walk.used.values()],
        nodes=op.nodes,
        initializers=list(op.initializers.values()),
        opset_imports={domain: OPSETS[domain] for domain in sorted(op.domains)},
        name="model",
    )


def _embed_of_packed(embed: Program) -> Program:
    """The embedding of packed tokens, whose positions are known."""
    nodes = tuple(n for n in embed.nodes if not isinstance(n.op, PositionIds | VisibleKeys))
    inputs = {name: value for name, value in embed.inputs.items() if name != MASK}
    outputs = {name: value for name, value in embed.outputs.items() if name != VISIBLE}
    return Program({**inputs, POSITIONS: embed.outputs[POSITIONS]}, nodes, outputs)


def _layers(programs: Programs, form: OnnxForm) -> Mapping[str, Program | FusedProgram]:
    if not form.fused:
        return programs.layer
    return {kind: fused_layer(layer, programs) for kind, layer in programs.layer.items()}


def _checked_rounds(op: OpBuilder, rounds: ir.Value, limit: int) -> ir.Value:
    complaint = f"{rounds.name} must be from 1 to {limit}"
    with op.scope("checks"), op.scope(str(rounds.name)):
        return guarded(op, rounds, rounds, limit, complaint)


def _checked_length(op: OpBuilder, given: ir.Value, context: int) -> ir.Value:
    with op.scope("checks"), op.scope("seq"):
        seq = op.Shape(given, start=1, end=2, shape=(1,), dtype=INT64)
        return guarded(op, given, seq, context, f"seq must be from 1 to {context}")


def _checked_single(op: OpBuilder, ids: ir.Value) -> ir.Value:
    """Where rounds share slots, a token must see those before it as the slots keep them."""
    with op.scope("checks"), op.scope("single"):
        seq = op.Shape(ids, start=1, end=2, shape=(1,), dtype=INT64)
        return guarded(op, ids, seq, 1, "seq must be 1: rounds share slots, run token by token")
