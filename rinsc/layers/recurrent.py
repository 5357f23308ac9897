"""Layers of published models whose stacks run several times: Huginn, Ouro and HRM-Text.

All have rotary positions and SwiGLU.

``huginn`` is Huginn's sandwich layer (arXiv 2502.05171, section 3.2): a norm before each half, and
one after its sum with the state. Biases are on queries and keys alone, embeddings are multiplied by
sqrt(width). What comes out of the loop is normed before the coda, the kind ``huginn_coda`` of the
last block. The public code takes the final norm there too, while here the coda's norm has weights
of its own.

``ouro`` is Ouro's sandwich layer (arXiv 2510.25741): a norm before each half, and one before its
sum with the state; every trip through the stack ends in a norm. The exit gate, which reads the
state after each trip, is not part of the model here.

``hrm`` and ``hrm_high`` are the two stacks of HRM-Text (``hrm_text`` of transformers): fast L and
slow H. They are Llama's layer with norms that have no weights and with a sigmoid gate on attention;
a stack ends in a norm. Embeddings are divided by the deviation that they start with. The H stack
starts by adding the embeddings to its state: with one cycle of H the whole is
``L[n]^3{inject=add, init=zero} H[n]{kind=hrm_high}``.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rinsc.layers import llama
from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, gated_mlp, logits, rotary_sides
from rinsc.ops import Add, Embedding, RMSNorm, Scale, UnitRMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec

HRM_INIT_STD = 0.02


def huginn_embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return b(Scale(math.sqrt(spec.width)), x)


def huginn_layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """norm(x + attention(norm(x))), then norm(x + swiglu(norm(x)))."""
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, rotary=sides, query_key_bias=True))
        x = b(RMSNorm(spec.norm_eps), x, name="attention_sum_norm")
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        x = b(Add(), x, gated_mlp(b, h, spec))
        return b(RMSNorm(spec.norm_eps), x, name="mlp_sum_norm")


def huginn_head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(RMSNorm(spec.norm_eps), x, name="final_norm"), spec)


def huginn_enter_coda(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("norm"):
        return b(RMSNorm(spec.norm_eps), x, name="norm")


def ouro_layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + norm(attention(norm(x))), then x + norm(swiglu(norm(x)))."""
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        h = attention(b, h, spec, rotary=sides)
        x = b(Add(), x, b(RMSNorm(spec.norm_eps), h, name="attention_output_norm"))
    with b.part("mlp"):
        h = gated_mlp(b, b(RMSNorm(spec.norm_eps), x, name="mlp_norm"), spec)
        return b(Add(), x, b(RMSNorm(spec.norm_eps), h, name="mlp_output_norm"))


def ouro_leave(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("norm"):
        return b(RMSNorm(spec.norm_eps), x, name="norm")


def hrm_embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return b(Scale(1 / HRM_INIT_STD), x)


def hrm_layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + swiglu(norm(x))."""
    with b.part("attention"):
        h = b(UnitRMSNorm(spec.norm_eps), x)
        x = b(Add(), x, attention(b, h, spec, rotary=sides, gated=True))
    with b.part("mlp"):
        h = b(UnitRMSNorm(spec.norm_eps), x)
        return b(Add(), x, gated_mlp(b, h, spec))


def hrm_enter_high(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("inject"):
        return b(Add(), x, sides["embedded"])


def hrm_leave(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("norm"):
        return b(UnitRMSNorm(spec.norm_eps), x)


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, x, spec)


HUGINN = LayerKind(huginn_embed, huginn_layer, huginn_head, rotary_sides)
HUGINN_CODA = replace(HUGINN, enter=huginn_enter_coda)
OURO = LayerKind(llama.embed, ouro_layer, head, rotary_sides, leave=ouro_leave)
HRM = LayerKind(*(hrm_embed, hrm_layer, head, rotary_sides), leave=hrm_leave, init_std=HRM_INIT_STD)
HRM_HIGH = replace(HRM, enter=hrm_enter_high, sees_embedding=True)
