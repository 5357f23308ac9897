"""GPT-2's layer: LayerNorm, learned positions, biases everywhere, GELU in its tanh form."""

from __future__ import annotations

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, logits, mlp
from rinsc.ops import Add, Embedding, LayerNorm, Positions
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return b(Add(), x, b(Positions(spec.context, spec.width), input_ids, name="positions"))


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    with b.part("attention"):
        h = b(LayerNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, bias=True))
    with b.part("mlp"):
        h = b(LayerNorm(spec.norm_eps), x, name="mlp_norm")
        return b(Add(), x, mlp(b, h, spec, "gelu_tanh"))


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(LayerNorm(spec.norm_eps), x, name="final_norm"), spec)


KIND = LayerKind(embed, layer, head)
