"""What the kinds share: attention, feed-forward, rotary positions, and the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from rinsc.layers.kind import Sides
from rinsc.layers.rope_scaling import Rotation, divided
from rinsc.ops import (
    Activation,
    Attention,
    Init,
    Linear,
    MergeHeads,
    Mul,
    Op,
    RMSNorm,
    Rope,
    RotaryTable,
    SplitHeads,
    TiedLinear,
)
from rinsc.ops.elements import Function
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec

Norm: TypeAlias = Callable[[float], Op]  # from what keeps it finite


def attention(
    b: Builder,
    h: Value,
    spec: ModelSpec,
    *,
    rotary: Sides | None = None,
    bias: bool = False,
    query_key_bias: bool = False,
    value_bias: bool = False,
    head_norm: bool = False,
    causal: bool = True,
    gated: bool = False,
    window: int | None = None,
    queries: Value | None = None,
    prefix: str = "",
    init: Init | None = None,
    output_bias: bool = False,
    width_norm: bool = False,
    norm: Norm = RMSNorm,
    scale: float | None = None,
    cap: float | None = None,
) -> Value:
    """Multi-head attention with grouped keys and values: (batch, seq, width) to the same.

    ``rotary`` holds the tables of `rotary_sides`, for queries and keys. ``gated`` weighs each
    channel with the sigmoid of a linear map of ``h``, before the output projection. With a
    ``window`` a position sees so many positions, itself and those before it. ``head_norm`` norms
    each head of queries and keys before it is rotated, ``width_norm`` all heads together; ``norm``
    makes those norms. For ``scale`` and ``cap`` see `Attention`. ``queries`` (batch, …, width) look
    at ``h`` in its own place. Names of operations begin with a ``prefix``; all matrices start as
    ``init``.
    """
    asking, matrix = h if queries is None else queries, init or "normal"
    q_width, kv_width = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    pair_bias = bias or query_key_bias
    query = b(Linear(q_width, pair_bias, matrix), asking, name=f"{prefix}query")
    if width_norm:
        query = b(norm(spec.norm_eps), query, name="query_norm")
    query = b(SplitHeads(spec.heads), query)
    key = b(Linear(kv_width, pair_bias, matrix), h, name=f"{prefix}key")
    if width_norm:
        key = b(norm(spec.norm_eps), key, name="key_norm")
    key = b(SplitHeads(spec.kv_heads), key)
    value = b(Linear(kv_width, bias or value_bias, matrix), h, name=f"{prefix}value")
    value = b(SplitHeads(spec.kv_heads), value)
    if head_norm:
        query = b(norm(spec.norm_eps), query, name="query_norm")
        key = b(norm(spec.norm_eps), key, name="key_norm")
    if rotary is not None:
        query = b(Rope(), query, rotary["cos"], rotary["sin"])
        key = b(Rope(), key, rotary["cos"], rotary["sin"])
    mixed = b(MergeHeads(), b(Attention(causal, window, scale, cap), query, key, value))
    if gated:
        gate = b(Linear(q_width), h, name="attention_gate")
        mixed = b(Mul(), mixed, b(Activation("sigmoid"), gate))
    back = Linear(spec.width, bias or output_bias, init or "residual")
    return b(back, mixed, name=f"{prefix}output")


def gated_mlp(
    b: Builder, h: Value, spec: ModelSpec, function: Function = "silu", *, bias: bool = False
) -> Value:
    """down(silu(gate(h)) · up(h)) (SwiGLU, arXiv 2002.05202, equation 6), or another function."""
    gate = b(Activation(function), b(Linear(spec.mlp_width, bias), h, name="gate"))
    up = b(Linear(spec.mlp_width, bias), h, name="up")
    return b(Linear(spec.width, bias, "residual"), b(Mul(), gate, up), name="down")


def mlp(
    b: Builder,
    h: Value,
    spec: ModelSpec,
    function: Function,
    *,
    bias: bool = True,
    prefix: str = "",
    init: Init | None = None,
    bias_init: Init | None = None,
) -> Value:
    """down(function(up(h))), by default with biases; both matrices start as ``init``, where it is
    given."""
    widen = Linear(spec.mlp_width, bias, init or "normal", bias_init)
    up = b(Activation(function), b(widen, h, name=f"{prefix}up"))
    return b(Linear(spec.width, bias, init or "residual", bias_init), up, name=f"{prefix}down")


def rotary_sides(
    b: Builder,
    input_ids: Value,
    x: Value,
    spec: ModelSpec,
    *,
    theta: float | None = None,
    prefix: str = "",
    scaling: str = "",
    fraction: float = 1.0,
) -> Sides:
    """Cosines and sines of each position, (seq, head_dim / 2), called ``cos`` and ``sin``.

    Another base ``theta`` than the spec's makes tables of another name, with a ``prefix``.
    ``scaling`` is for longer contexts (`rinsc.layers.rope_scaling`); of each head only the first
    ``fraction`` turns.
    """
    base = spec.rope_theta if theta is None else theta
    width = int(spec.head_size * fraction)
    own: dict[str, Any] = {}
    if scaling:
        own = vars(divided(scaling, Rotation(width, base, spec.context)))
    with b.part("embedding"):
        cos = RotaryTable("cos", base, width, spec.context, **own)
        ops = {f"{prefix}cos": cos, f"{prefix}sin": replace(cos, function="sin")}
        return {name: b(op, input_ids, name=name) for name, op in ops.items()}


def logits(b: Builder, h: Value, spec: ModelSpec) -> Value:
    """(batch, seq, width) to (batch, seq, vocab_size), by the embedding's table if tied."""
    if spec.tied_embedding:
        return b(TiedLinear("embedding", spec.vocab_size), h)
    return b(Linear(spec.vocab_size), h, name="head")
