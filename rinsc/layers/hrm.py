"""The two stacks of HRM-Text (``hrm_text`` of transformers): fast L and slow H.

Llama's layer with norms that have no weights and with a sigmoid gate on attention; a stack ends in
a norm. Embeddings are divided by the deviation that they start with. The H stack starts by adding
the embeddings to its state: with one cycle of H the whole is
``L[n]^3{inject=add, init=zero} H[n]{kind=hrm_high}``.
"""

from __future__ import annotations

from dataclasses import replace

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, gated_mlp, logits, rotary_sides
from rinsc.ops import Add, Embedding, Scale, UnitRMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec

INIT_STD = 0.02


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return b(Scale(1 / INIT_STD), x)


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + swiglu(norm(x))."""
    with b.part("attention"):
        h = b(UnitRMSNorm(spec.norm_eps), x)
        x = b(Add(), x, attention(b, h, spec, rotary=sides, gated=True))
    with b.part("mlp"):
        h = b(UnitRMSNorm(spec.norm_eps), x)
        return b(Add(), x, gated_mlp(b, h, spec))


def enter_high(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("inject"):
        return b(Add(), x, sides["embedded"])


def leave(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("norm"):
        return b(UnitRMSNorm(spec.norm_eps), x)


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, x, spec)


KIND = LayerKind(embed, layer, head, rotary_sides, leave=leave, init_std=INIT_STD)
HIGH = replace(KIND, enter=enter_high, sees_embedding=True)
