"""A layer kind whose layers differ, which the random specs of the tests draw too.

Its window goes by the number of the layer in its block, its positions by that in the stack, and
every third layer of the stack has a norm, and so weights, that the others lack.
"""

from __future__ import annotations

from rinsc.layers import LayerKind, register_kind
from rinsc.layers.kind import Sides
from rinsc.layers.llama import embed, head
from rinsc.layers.mixing import attention, gated_mlp, rotary_sides
from rinsc.ops import Add, RMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec
from rinsc.spec.kinds import KINDS as OUR_KINDS

VARIED = "varied"
KINDS = (*OUR_KINDS, VARIED)  # that random specs have


def local_sides(b: Builder, input_ids: Value, x: Value, spec: ModelSpec) -> Sides:
    """Rotary tables of another base."""
    return rotary_sides(b, input_ids, x, spec, theta=100.0, prefix="local_")


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """Llama's layer, with a window of 3, another rotary base, no rotation or one more norm."""
    positions = (
        {"cos": sides["cos"], "sin": sides["sin"]},
        {"cos": sides["local_cos"], "sin": sides["local_sin"]},
        None,
    )
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        rotary, window = positions[b.stack_index % 3], 3 if b.index % 2 == 0 else None
        x = b(Add(), x, attention(b, h, spec, rotary=rotary, window=window))
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        x = b(Add(), x, gated_mlp(b, h, spec))
    if b.stack_index % 3 == 2:
        with b.part("norm"):
            x = b(RMSNorm(spec.norm_eps), x, name="last_norm")
    return x


register_kind(VARIED, LayerKind(embed, layer, head, (rotary_sides, local_sides)))
