"""The last step of every language model here: state to logits over the vocabulary."""

from __future__ import annotations

from rinsc.ops import Linear, TiedLinear
from rinsc.program import Builder, Value
from rinsc.spec import ModelSpec


def logits(b: Builder, h: Value, spec: ModelSpec) -> Value:
    """(batch, seq, width) to (batch, seq, vocab_size), by the embedding's table if tied."""
    if spec.tied_embedding:
        return b(TiedLinear("embedding", spec.vocab_size), h)
    return b(Linear(spec.vocab_size), h, name="head")
