"""The programs of a pass whose caller gives positions, mask and cache, made from plain ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from rinsc.layers.cached import POSITIONS, VISIBLE, Rewriter, with_sides_of
from rinsc.layers.language import require_language_model
from rinsc.layers.programs import Programs
from rinsc.layers.tracing import trace_programs
from rinsc.ops import (
    Attention,
    PositionRows,
    Positions,
    RotaryRows,
    RotaryTable,
    Shift,
)
from rinsc.program import Program, Value
from rinsc.spec import ModelSpec

SLOTS = "slots"
HOST = (VISIBLE, SLOTS)  # what each layer is handed on from the caller


@lru_cache(maxsize=64)
def hosted_programs(spec: ModelSpec) -> Programs:
    """The programs of `trace_programs`, for a caller that knows of positions and keeps a cache.

    ``embed`` is given ``position_ids`` (batch or 1, seq) as well; ``layer`` is given ``mask``,
    which keys each token sees (batch, 1, seq, total), and ``slots``, where keys and values are
    kept, and hands both to its attentions. Raises `SpecError` for a model that predicts no next
    token.
    """
    require_language_model(spec)
    programs = trace_programs(spec)
    embed = _hosted_embed(programs.embed)
    layers = {
        kind: _hosted_layer(with_sides_of(program, embed))
        for kind, program in programs.layer.items()
    }
    return replace(programs, embed=embed, layer=layers)


def looks_back_by_attention_alone(programs: Programs) -> bool:
    """Whether cache and mask say all that a layer may see: false where one shifts its state."""
    every = (*programs.enter.values(), *programs.layer.values(), *programs.leave.values())
    return not any(isinstance(node.op, Shift) for program in every for node in program.nodes)


def _hosted_embed(embed: Program) -> Program:
    """Tables are read at the positions that are given, in the type of the state."""
    rewriter = Rewriter(embed)
    (ids,) = embed.inputs.values()
    positions = rewriter.value(ids.shape)
    now: dict[Value, Value] = {}
    for node in embed.nodes:
        inputs = [now.get(value, value) for value in node.inputs]
        op = node.op
        if isinstance(op, RotaryTable):
            x = embed.outputs["x"]
            op = RotaryRows(op.function, op.theta, op.head_dim, op.context)
            inputs = [positions, now.get(x, x)]
        elif isinstance(op, Positions):
            op, inputs = PositionRows(op.context, op.width), [positions]
        now[node.output] = rewriter.add(op, *inputs, like=node)
    outputs = {name: now.get(value, value) for name, value in embed.outputs.items()}
    return Program({**embed.inputs, POSITIONS: positions}, tuple(rewriter.nodes), outputs)


def _hosted_layer(layer: Program) -> Program:
    """Attention is given mask and slots beside query, key and value."""
    rewriter = Rewriter(layer)
    mask, slots = rewriter.value(("batch", 1, "seq", "total")), rewriter.value(())
    nodes = tuple(
        replace(node, inputs=(*node.inputs, mask, slots))
        if isinstance(node.op, Attention)
        else node
        for node in layer.nodes
    )
    return Program({**layer.inputs, VISIBLE: mask, SLOTS: slots}, nodes, layer.outputs)
