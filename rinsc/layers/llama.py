"""The Llama layer (arXiv 2302.13971): RMSNorm, rotary positions, grouped queries, SwiGLU."""

from __future__ import annotations

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.rotary import rotary_sides
from rinsc.layers.vocabulary import logits
from rinsc.ops import (
    Activation,
    Add,
    Attention,
    Embedding,
    Linear,
    MergeHeads,
    Mul,
    RMSNorm,
    Rope,
    SplitHeads,
)
from rinsc.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        return b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + swiglu(norm(x))."""
    cos, sin = sides["cos"], sides["sin"]
    kv_width = spec.kv_heads * spec.head_dim
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        query = b(SplitHeads(spec.heads), b(Linear(spec.width), h, name="query"))
        key = b(SplitHeads(spec.kv_heads), b(Linear(kv_width), h, name="key"))
        value = b(SplitHeads(spec.kv_heads), b(Linear(kv_width), h, name="value"))
        mixed = b(Attention(), b(Rope(), query, cos, sin), b(Rope(), key, cos, sin), value)
        output = Linear(spec.width, init="residual")
        x = b(Add(), x, b(output, b(MergeHeads(), mixed), name="output"))
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        gate = b(Activation("silu"), b(Linear(spec.mlp_width), h, name="gate"))
        up = b(Linear(spec.mlp_width), h, name="up")
        down = Linear(spec.width, init="residual")
        return b(Add(), x, b(down, b(Mul(), gate, up), name="down"))


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(RMSNorm(spec.norm_eps), x, name="final_norm"), spec)


KIND = LayerKind(embed, layer, head, rotary_sides)
