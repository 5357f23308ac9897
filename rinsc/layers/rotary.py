"""Rotary positions as side values: made once from the token ids, given to every layer."""

from __future__ import annotations

from rinsc.layers.kind import Sides
from rinsc.ops import RotaryTable
from rinsc.program import Builder, Value
from rinsc.spec import ModelSpec


def rotary_sides(b: Builder, input_ids: Value, x: Value, spec: ModelSpec) -> Sides:
    """Cosines and sines of each position, (seq, head_dim / 2)."""
    with b.part("embedding"):
        angles = (spec.rope_theta, spec.head_dim, spec.context)
        cos = b(RotaryTable("cos", *angles), input_ids, name="cos")
        sin = b(RotaryTable("sin", *angles), input_ids, name="sin")
    return {"cos": cos, "sin": sin}
