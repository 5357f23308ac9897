"""The vision transformer (arXiv 2010.11929) as SigLIP has it, with mean pooling for classes.

Patches (batch, seq, patch_width) in, class logits (batch, vocab_size) out; ``context`` is the
largest number of patches. LayerNorm before each half, biases, GELU in its tanh form.
"""

from __future__ import annotations

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, mlp
from rinsc.ops import Add, LayerNorm, Linear, MeanPool, Positions
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, patches: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Linear(spec.width, bias=True), patches, name="embedding")
        return b(Add(), x, b(Positions(spec.context, spec.width), patches, name="positions"))


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x)); every patch sees all."""
    with b.part("attention"):
        h = b(LayerNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, bias=True, causal=False))
    with b.part("mlp"):
        h = b(LayerNorm(spec.norm_eps), x, name="mlp_norm")
        return b(Add(), x, mlp(b, h, spec, "gelu_tanh"))


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        h = b(MeanPool(), b(LayerNorm(spec.norm_eps), x, name="final_norm"))
        return b(Linear(spec.vocab_size, bias=True), h, name="head")


KIND = LayerKind(embed, layer, head, takes="patches", causal=False)
