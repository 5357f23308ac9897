"""The layer of the Transformer (arXiv 1706.03762, section 3), causal: norms after each half, ReLU.

Universal Transformers and the sharing study of arXiv 2104.06022 build on it. Positions are learned
here, and linear maps have biases.
"""

from __future__ import annotations

import math

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, logits, mlp
from rinsc.ops import Add, Embedding, LayerNorm, Positions, Scale
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    """Embeddings times sqrt(width) (section 3.4), plus positions."""
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        x = b(Scale(math.sqrt(spec.width)), x)
        return b(Add(), x, b(Positions(spec.context, spec.width), input_ids, name="positions"))


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


KIND = LayerKind(embed, layer, head)
