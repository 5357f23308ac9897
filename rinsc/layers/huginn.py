"""Huginn's sandwich layer (arXiv 2502.05171, section 3.2): a norm before each half, and one after
its sum with the state.

Rotary positions, SwiGLU, biases on queries and keys alone, embeddings times sqrt(width). What comes
out of the loop is normed before the coda, the kind ``huginn_coda`` of the last block; the public
code takes the final norm there too, while here the coda's norm has weights of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, gated_mlp, logits, rotary_sides
from rinsc.ops import Add, Embedding, RMSNorm, Scale
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return b(Scale(math.sqrt(spec.width)), x)


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """norm(x + attention(norm(x))), then norm(x + swiglu(norm(x)))."""
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, rotary=sides, query_key_bias=True))
        x = b(RMSNorm(spec.norm_eps), x, name="attention_sum_norm")
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        x = b(Add(), x, gated_mlp(b, h, spec))
        return b(RMSNorm(spec.norm_eps), x, name="mlp_sum_norm")


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(RMSNorm(spec.norm_eps), x, name="final_norm"), spec)


def enter_coda(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("norm"):
        return b(RMSNorm(spec.norm_eps), x, name="norm")


KIND = LayerKind(embed, layer, head, rotary_sides)
CODA = replace(KIND, enter=enter_coda)
