"""Ouro's sandwich layer (arXiv 2510.25741): a norm before each half, and one before its sum with
the state; every trip through the stack ends in a norm.

Rotary positions, SwiGLU, no biases. The exit gate, which reads the state after each trip, is not
part of the model here.
"""

from __future__ import annotations

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.llama import embed
from rinsc.layers.mixing import attention, gated_mlp, logits, rotary_sides
from rinsc.ops import Add, RMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + norm(attention(norm(x))), then x + norm(swiglu(norm(x)))."""
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        h = attention(b, h, spec, rotary=sides)
        x = b(Add(), x, b(RMSNorm(spec.norm_eps), h, name="attention_output_norm"))
    with b.part("mlp"):
        h = gated_mlp(b, b(RMSNorm(spec.norm_eps), x, name="mlp_norm"), spec)
        return b(Add(), x, b(RMSNorm(spec.norm_eps), h, name="mlp_output_norm"))


def leave(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("norm"):
        return b(RMSNorm(spec.norm_eps), x, name="norm")


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, x, spec)


KIND = LayerKind(embed, layer, head, rotary_sides, leave=leave)
