"""GPT-2's layer: LayerNorm, learned positions, biases everywhere, GELU in its tanh form."""

from __future__ import annotations

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.vocabulary import logits
from rinsc.ops import (
    Activation,
    Add,
    Attention,
    Embedding,
    LayerNorm,
    Linear,
    MergeHeads,
    Positions,
    SplitHeads,
)
from rinsc.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return b(Add(), x, b(Positions(spec.context, spec.width), input_ids, name="positions"))


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    kv_width = spec.kv_heads * spec.head_dim
    with b.part("attention"):
        h = b(LayerNorm(spec.norm_eps), x, name="attention_norm")
        query = b(SplitHeads(spec.heads), b(Linear(spec.width, bias=True), h, name="query"))
        key = b(SplitHeads(spec.kv_heads), b(Linear(kv_width, bias=True), h, name="key"))
        value = b(SplitHeads(spec.kv_heads), b(Linear(kv_width, bias=True), h, name="value"))
        mixed = b(MergeHeads(), b(Attention(), query, key, value))
        output = Linear(spec.width, bias=True, init="residual")
        x = b(Add(), x, b(output, mixed, name="output"))
    with b.part("mlp"):
        h = b(LayerNorm(spec.norm_eps), x, name="mlp_norm")
        up = b(Linear(spec.mlp_width, bias=True), h, name="up")
        down = Linear(spec.width, bias=True, init="residual")
        return b(Add(), x, b(down, b(Activation("gelu_tanh"), up), name="down"))


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(LayerNorm(spec.norm_eps), x, name="final_norm"), spec)


KIND = LayerKind(embed, layer, head)
