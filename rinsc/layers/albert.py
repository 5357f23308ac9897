"""ALBERT (arXiv 1909.11942): a post-norm encoder with a factorised embedding, as a masked LM.

Token ids get ``embedding_width`` channels and are then mapped to ``width``; the head goes the same
way back, over the same table. One token type. ``tied_embedding`` changes nothing: it always is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, mlp
from rinsc.ops import (
    Activation,
    Add,
    Embedding,
    LayerNorm,
    Linear,
    Positions,
    TiedLinear,
    Vector,
)
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


@dataclass(frozen=True)
class AlbertSettings:
    """``embedding_width``: channels of the factorised embedding."""

    embedding_width: int = field(default=128, metadata={"small": 11})


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    narrow = b.settings.embedding_width
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, narrow), input_ids, name="embedding")
        x = b(Add(), x, b(Vector(narrow, "normal"), input_ids, name="token_type"))
        x = b(Add(), x, b(Positions(spec.context, narrow), input_ids, name="positions"))
        x = b(LayerNorm(spec.norm_eps), x, name="embedding_norm")
        return b(Linear(spec.width, bias=True), x, name="widen")


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """norm(x + attention(x)), then norm(x + mlp(x)); every position sees all."""
    with b.part("attention"):
        x = b(Add(), x, attention(b, x, spec, bias=True, causal=False))
        x = b(LayerNorm(spec.norm_eps), x, name="attention_norm")
    with b.part("mlp"):
        x = b(Add(), x, mlp(b, x, spec, "gelu_tanh"))
        return b(LayerNorm(spec.norm_eps), x, name="mlp_norm")


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        h = b(Linear(b.settings.embedding_width, bias=True), x, name="narrow")
        h = b(LayerNorm(spec.norm_eps), b(Activation("gelu_tanh"), h), name="final_norm")
        bias = b(Vector(spec.vocab_size, "zeros"), h, name="head_bias")
        return b(Add(), b(TiedLinear("embedding", spec.vocab_size), h), bias)


KIND = LayerKind(embed, layer, head, causal=False, settings=AlbertSettings)
