"""What the kinds share: attention, feed-forward, rotary positions, and the logits."""

from __future__ import annotations

from rinsc.layers.kind import Sides
from rinsc.ops import (
    Activation,
    Attention,
    Init,
    Linear,
    MergeHeads,
    Mul,
    RMSNorm,
    Rope,
    RotaryTable,
    SplitHeads,
    TiedLinear,
)
from rinsc.ops.elements import Function
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


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
) -> Value:
    """Multi-head attention with grouped keys and values: (batch, seq, width) to the same.

    ``rotary`` holds the tables of `rotary_sides`, for queries and keys. ``gated`` weighs each
    channel with the sigmoid of a linear map of ``h``, before the output projection. With a
    ``window`` a position sees so many positions, itself and those before it. ``head_norm`` norms
    each head of queries and keys before it is rotated. ``queries`` (batch, …, width) look at ``h``
    in its own place. Names of operations begin with a ``prefix``; all matrices start as ``init``.
    """
    asking, matrix = h if queries is None else queries, init or "normal"
    q_width, kv_width = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    pair_bias = bias or query_key_bias
    query = b(
        SplitHeads(spec.heads), b(Linear(q_width, pair_bias, matrix), asking, name=f"{prefix}query")
    )
    key = b(
        SplitHeads(spec.kv_heads), b(Linear(kv_width, pair_bias, matrix), h, name=f"{prefix}key")
    )
    value = b(Linear(kv_width, bias or value_bias, matrix), h, name=f"{prefix}value")
    value = b(SplitHeads(spec.kv_heads), value)
    if head_norm:
        query = b(RMSNorm(spec.norm_eps), query, name="query_norm")
        key = b(RMSNorm(spec.norm_eps), key, name="key_norm")
    if rotary is not None:
        query = b(Rope(), query, rotary["cos"], rotary["sin"])
        key = b(Rope(), key, rotary["cos"], rotary["sin"])
    mixed = b(MergeHeads(), b(Attention(causal, window), query, key, value))
    if gated:
        gate = b(Linear(q_width), h, name="attention_gate")
        mixed = b(Mul(), mixed, b(Activation("sigmoid"), gate))
    return b(Linear(spec.width, bias, init or "residual"), mixed, name=f"{prefix}output")


def gated_mlp(b: Builder, h: Value, spec: ModelSpec) -> Value:
    """down(silu(gate(h)) · up(h)) (SwiGLU, arXiv 2002.05202, equation 6)."""
    gate = b(Activation("silu"), b(Linear(spec.mlp_width), h, name="gate"))
    up = b(Linear(spec.mlp_width), h, name="up")
    return b(Linear(spec.width, init="residual"), b(Mul(), gate, up), name="down")


def mlp(
    b: Builder,
    h: Value,
    spec: ModelSpec,
    function: Function,
    *,
    prefix: str = "",
    init: Init | None = None,
    bias_init: Init | None = None,
) -> Value:
    """down(function(up(h))), with biases; both matrices start as ``init``, where it is given."""
    widen = Linear(spec.mlp_width, True, init or "normal", bias_init)
    up = b(Activation(function), b(widen, h, name=f"{prefix}up"))
    return b(Linear(spec.width, True, init or "residual", bias_init), up, name=f"{prefix}down")


def rotary_sides(
    b: Builder,
    input_ids: Value,
    x: Value,
    spec: ModelSpec,
    *,
    theta: float | None = None,
    prefix: str = "",
) -> Sides:
    """Cosines and sines of each position, (seq, head_dim / 2), called ``cos`` and ``sin``.

    Another base ``theta`` than the spec's makes tables of another name, with a ``prefix``.
    """
    base = spec.rope_theta if theta is None else theta
    with b.part("embedding"):
        angles = (base, spec.head_size, spec.context)
        cos = b(RotaryTable("cos", *angles), input_ids, name=f"{prefix}cos")
        sin = b(RotaryTable("sin", *angles), input_ids, name=f"{prefix}sin")
    return {f"{prefix}cos": cos, f"{prefix}sin": sin}


def logits(b: Builder, h: Value, spec: ModelSpec) -> Value:
    """(batch, seq, width) to (batch, seq, vocab_size), by the embedding's table if tied."""
    if spec.tied_embedding:
        return b(TiedLinear("embedding", spec.vocab_size), h)
    return b(Linear(spec.vocab_size), h, name="head")
