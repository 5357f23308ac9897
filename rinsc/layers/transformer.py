"""Layers with learned positions, LayerNorm and biases: of the Transformer, GPT-2 and SigLIP.

``transformer`` is the Transformer's (arXiv 1706.03762, section 3), causal: norms after each half,
ReLU. Universal Transformers and the sharing study of arXiv 2104.06022 build on it.

``gpt`` is GPT-2's: a norm before each half, GELU in its tanh form.

``vit`` is the vision transformer's (arXiv 2010.11929) as SigLIP has it: GPT-2's layer, where every
patch sees all, with mean pooling for classes. Patches (batch, seq, patch_width) in, class logits
(batch, vocab_size) out; ``context`` is the largest number of patches.
"""

from __future__ import annotations

import math
from functools import partial

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, logits, mlp
from rinsc.ops import Add, Embedding, LayerNorm, Linear, MeanPool, Positions, Scale
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    """Embeddings times sqrt(width) (section 3.4), plus positions."""
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        x = b(Scale(math.sqrt(spec.width)), x)
        return _add_positions(b, x, input_ids, spec)


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """norm(x + attention(x)), then norm(x + mlp(x))."""
    with b.part("attention"):
        x = b(Add(), x, attention(b, x, spec, bias=True))
        x = b(LayerNorm(spec.norm_eps), x, name="attention_norm")
    with b.part("mlp"):
        x = b(Add(), x, mlp(b, x, spec, "relu"))
        return b(LayerNorm(spec.norm_eps), x, name="mlp_norm")


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, x, spec)


def gpt_embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return _add_positions(b, x, input_ids, spec)


def norm_first_layer(
    b: Builder, x: Value, sides: Sides, spec: ModelSpec, *, causal: bool = True
) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    with b.part("attention"):
        h = b(LayerNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, bias=True, causal=causal))
    with b.part("mlp"):
        h = b(LayerNorm(spec.norm_eps), x, name="mlp_norm")
        return b(Add(), x, mlp(b, h, spec, "gelu_tanh"))


def gpt_head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(LayerNorm(spec.norm_eps), x, name="final_norm"), spec)


def patch_embed(b: Builder, patches: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Linear(spec.width, bias=True), patches, name="embedding")
        return _add_positions(b, x, patches, spec)


def class_head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        h = b(MeanPool(), b(LayerNorm(spec.norm_eps), x, name="final_norm"))
        return b(Linear(spec.vocab_size, bias=True), h, name="head")


def _add_positions(b: Builder, x: Value, inputs: Value, spec: ModelSpec) -> Value:
    return b(Add(), x, b(Positions(spec.context, spec.width), inputs, name="positions"))


KIND = LayerKind(embed, layer, head)
GPT = LayerKind(gpt_embed, norm_first_layer, gpt_head)
VIT = LayerKind(
    *(patch_embed, partial(norm_first_layer, causal=False), class_head),
    takes="patches",
    causal=False,
)
