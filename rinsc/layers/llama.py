"""The Llama layer (arXiv 2302.13971): RMSNorm, rotary positions, grouped queries, SwiGLU."""

from __future__ import annotations

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, gated_mlp, logits, rotary_sides
from rinsc.ops import Add, Embedding, RMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        return b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + swiglu(norm(x))."""
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, rotary=sides))
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        return b(Add(), x, gated_mlp(b, h, spec))


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(RMSNorm(spec.norm_eps), x, name="final_norm"), spec)


KIND = LayerKind(embed, layer, head, rotary_sides)
