"""Programs of a pass behind a cache, or whose caller gives positions, mask and cache.

In goes a layer that sees a whole sequence:

    >>> import rinsc
    >>> spec = rinsc.model_spec("AB", preset="tiny")
    >>> def shown(program):
    ...     print(", ".join(program.inputs), "->", ", ".join(program.outputs))
    ...     print(" ".join(type(node.op).__name__ for node in program.nodes[7:13]))
    >>> shown(trace_programs(spec).layers["A"][0])
    x, cos, sin -> x
    Rope Rope Attention MergeHeads Linear Add

Out comes one for new tokens. It appends their keys and values, and sees past ones too. The mask
says which keys count, so that attention is no longer causal by itself:

    >>> shown(cached_programs(spec).layers["A"][0])
    x, cos, sin, mask, past_key_0, past_value_0 -> x, present_key_0, present_value_0
    Rope Rope Append Append Attention MergeHeads

The hosted form has the same operations as the plain one. Its attention hands keys and values to
the caller, which keeps them in slots:

    >>> shown(hosted_programs(spec).layers["A"][0])
    x, cos, sin, mask, slots -> x
    Rope Rope Attention MergeHeads Linear Add
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from rinsc.errors import LoweringError
from rinsc.layers.kind import require_language_model
from rinsc.layers.tracing import Programs, trace_programs
from rinsc.ops import (
    Append,
    Attention,
    Op,
    PositionIds,
    Shape,
    VisibleKeys,
)
from rinsc.ops.program import Node, Program, Value
from rinsc.spec import ModelSpec

VISIBLE, POSITIONS, MASK = "mask", "position_ids", "attention_mask"
PAST = ("past_key", "past_value")
PRESENT = ("present_key", "present_value")


@lru_cache(maxsize=64)
def cached_programs(spec: ModelSpec) -> Programs:
    """The programs of `trace_programs`, for new tokens behind a cache.

    ``embed`` is given ``attention_mask`` (batch, total) as well, 1 for every token that counts,
    past ones included, and makes the side values ``position_ids`` and ``mask``; a layer is
    given past keys and values (batch, kv_heads, past, head_dim) for each of its attentions, and
    gives all of them back, the new ones behind. Raises `SpecError` for a model that predicts no
    next token, and `LoweringError` for a layer that looks back in another way than attention.
    """
    require_language_model(spec)
    programs = trace_programs(spec).inferred
    embed = _cached_embed(programs.embed)
    layers = programs.rewritten(
        lambda block, layer: _cached_layer(with_sides_of(layer, embed), spec.block_kinds[block])
    )
    return replace(programs, embed=embed, layers=layers)


class HasValues(Protocol):
    """A program, whatever its nodes are."""

    @property
    def inputs(self) -> Mapping[str, Value]: ...

    @property
    def outputs(self) -> Mapping[str, Value]: ...


def cache_inputs(layer: HasValues) -> list[str]:
    """The names of the past keys and values that a cached layer is given, in order."""
    return [name for name in layer.inputs if name.startswith(PAST)]


def cache_outputs(layer: HasValues) -> list[str]:
    """The names of what it gives back for them."""
    return [name for name in layer.outputs if name.startswith(PRESENT)]


@dataclass
class Rewriter:
    """A program on its way to the cached form: nodes so far, and new values."""

    program: Program
    nodes: list[Node] = field(default_factory=list)
    added: int = 0

    def value(self, shape: Shape) -> Value:
        self.added += 1
        return Value(_last_value(self.program) + self.added, shape)

    def add(self, op: Op, *inputs: Value, like: Node | None = None) -> Value:
        shape = op.output_shape(*(value.shape for value in inputs))
        name, part = (like.name, like.part) if like else ("", "embedding")
        output = like.output if like and like.output.shape == shape else self.value(shape)
        self.nodes.append(Node(op, inputs, output, name, part))
        return output


def _cached_embed(embed: Program) -> Program:
    """Tables are read at the positions of the new tokens."""
    rewriter = Rewriter(embed)
    (ids,) = embed.inputs.values()
    mask = rewriter.value(("batch", "total"))
    positions = rewriter.add(PositionIds(), mask, ids)
    visible = rewriter.add(VisibleKeys(), mask, ids)
    now: dict[Value, Value] = {}
    for node in embed.nodes:
        inputs = [now.get(value, value) for value in node.inputs]
        op, rows = node.op, node.op.at_positions()
        if rows is not None:
            op, inputs = rows, [positions]
        now[node.output] = rewriter.add(op, *inputs, like=node)
    outputs = {name: now.get(value, value) for name, value in embed.outputs.items()}
    sides = {POSITIONS: positions, VISIBLE: visible}
    return Program({**embed.inputs, MASK: mask}, tuple(rewriter.nodes), {**outputs, **sides})


def with_sides_of(program: Program, embed: Program) -> Program:
    """The program, given the side values that ``embed`` makes: tables have a row a token now."""
    rewriter = Rewriter(program)
    now: dict[Value, Value] = {}
    inputs: dict[str, Value] = {}
    for name, value in program.inputs.items():
        shape = embed.outputs[name].shape
        inputs[name] = value if shape == value.shape else rewriter.value(shape)
        now[value] = inputs[name]
    nodes = tuple(
        replace(node, inputs=tuple(now.get(value, value) for value in node.inputs))
        for node in program.nodes
    )
    return replace(program, inputs=inputs, nodes=nodes)


def _cached_layer(layer: Program, kind: str) -> Program:
    """Attention sees the past keys and values, then the new ones."""
    rewriter = Rewriter(layer)
    visible = rewriter.value(("batch", 1, "seq", "total"))
    past: dict[str, Value] = {}
    present: dict[str, Value] = {}
    for node in layer.nodes:
        if node.op.needs == "everything":
            name = type(node.op).__name__
            message = f"layers of kind '{kind}' look back by {name}, which has no cache yet"
            hint = "generate without a cache"
            raise LoweringError("no-cache", message, hint=hint)
        if node.op.needs != "keys":
            rewriter.nodes.append(node)
            continue
        query, *new = node.inputs
        number = f"_{len(past) // 2}"
        keys_and_values = []
        for before, after, value in zip(PAST, PRESENT, new, strict=True):
            batch, heads, _, head_dim = value.shape
            past[before + number] = rewriter.value((batch, heads, "past", head_dim))
            like = replace(node, name="")
            output = rewriter.add(Append(), past[before + number], value)
            rewriter.nodes[-1] = replace(rewriter.nodes[-1], part=like.part)
            present[after + number] = output
            keys_and_values.append(output)
        assert isinstance(node.op, Attention)
        attention = replace(node.op, causal=False)  # the mask says it
        rewriter.nodes.append(
            replace(node, op=attention, inputs=(query, *keys_and_values, visible))
        )
    inputs = {**layer.inputs, VISIBLE: visible, **past}
    return Program(inputs, tuple(rewriter.nodes), {**layer.outputs, **present})


def _last_value(program: Program) -> int:
    values = [*program.inputs.values(), *(node.output for node in program.nodes)]
    return max(value.index for value in values)


SLOTS = "slots"
HOST = (VISIBLE, SLOTS)  # what each layer is handed on from the caller


@lru_cache(maxsize=64)
def hosted_programs(spec: ModelSpec) -> Programs:
    """The programs of `trace_programs`, for a caller that knows of positions and keeps a cache.

    ``embed`` is given ``position_ids`` (batch or 1, seq) as well; a layer is given ``mask``,
    which keys each token sees (batch, 1, seq, total), and ``slots``, where keys and values are
    kept, and hands both to its attentions. Raises `SpecError` for a model that predicts no next
    token.
    """
    require_language_model(spec)
    programs = trace_programs(spec)
    embed = _hosted_embed(programs.embed)
    layers = programs.rewritten(lambda _, layer: _hosted_layer(with_sides_of(layer, embed)))
    return replace(programs, embed=embed, layers=layers).trained


def looks_back_by_attention_alone(programs: Programs) -> bool:
    """Whether cache and mask say all that a layer may see: false where one shifts its state."""
    layers = programs.inferred.distinct_layers()
    every = (*programs.enter.values(), *layers, *programs.leave.values())
    return not any(node.op.needs == "everything" for program in every for node in program.nodes)


def _hosted_embed(embed: Program) -> Program:
    """Tables are read at the positions that are given, in the type of the state."""
    rewriter = Rewriter(embed)
    (ids,) = embed.inputs.values()
    positions = rewriter.value(ids.shape)
    now: dict[Value, Value] = {}
    for node in embed.nodes:
        inputs = [now.get(value, value) for value in node.inputs]
        op, rows, x = node.op, node.op.at_positions(), embed.outputs["x"]
        if rows is not None:
            op, inputs = rows, [positions, *[now.get(x, x)] * rows.owns_table]
        now[node.output] = rewriter.add(op, *inputs, like=node)
    outputs = {name: now.get(value, value) for name, value in embed.outputs.items()}
    return Program({**embed.inputs, POSITIONS: positions}, tuple(rewriter.nodes), outputs)


def _hosted_layer(layer: Program) -> Program:
    """Attention is given mask and slots beside query, key and value."""
    rewriter = Rewriter(layer)
    mask, slots = rewriter.value(("batch", 1, "seq", "total")), rewriter.value(())
    nodes = tuple(
        replace(node, inputs=(*node.inputs, mask, slots)) if node.op.needs == "keys" else node
        for node in layer.nodes
    )
    return Program({**layer.inputs, VISIBLE: mask, SLOTS: slots}, nodes, layer.outputs)
