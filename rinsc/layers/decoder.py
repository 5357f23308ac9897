"""Llama's layer with what other pretrained decoders add to it, each behind a setting.

Layers may differ along the stack: ``pattern`` has a letter for each layer, counted over the whole
stack, and starts over at its end. It belongs to the layer, not to the visit.

    ``g``  sees every position before it (global)
    ``l``  sees the last ``window`` positions (local)
    ``n``  is ``g`` without rotary positions

Mistral is "l", SmolLM3 "gggn", and Gemma 3 "lllllg" with ``local_theta``. Qwen2 has ``qkv_bias``,
Qwen3 ``head_norm``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.llama import embed, head
from rinsc.layers.mixing import attention, gated_mlp, rotary_sides
from rinsc.ops import Add, RMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec

LETTERS = "gln"


@dataclass(frozen=True)
class DecoderSettings:
    """``local_theta`` is the rotary base of local layers, 0 for that of the model; ``head_norm``
    norms each head of queries and keys before it is rotated."""

    pattern: str = "g"
    window: int = field(default=4096, metadata={"small": 3})
    local_theta: float = field(default=0.0, metadata={"least": 0})
    head_norm: bool = False
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        wrong = sorted(set(self.pattern) - set(LETTERS))
        if wrong or not self.pattern:
            letters = f"not {wrong[0]!r}" if wrong else "at least one"
            raise ValueError(f"a pattern is made of the letters {', '.join(LETTERS)}, {letters}")


def local_sides(b: Builder, input_ids: Value, x: Value, spec: ModelSpec) -> Sides:
    """The rotary tables of local layers, where they have a base of their own."""
    theta = b.settings.local_theta
    if not theta or "l" not in b.settings.pattern:
        return {}
    return rotary_sides(b, input_ids, x, spec, theta=theta, prefix="local_")


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + swiglu(norm(x))."""
    own = b.settings
    letter = own.pattern[b.stack_index % len(own.pattern)]
    prefix = "local_" if letter == "l" and "local_cos" in sides else ""
    rotary = {name: sides[prefix + name] for name in ("cos", "sin")}
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        mixed = attention(
            b,
            h,
            spec,
            rotary=None if letter == "n" else rotary,
            query_key_bias=own.qkv_bias,
            value_bias=own.qkv_bias,
            head_norm=own.head_norm,
            window=own.window if letter == "l" else None,
        )
        x = b(Add(), x, mixed)
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        return b(Add(), x, gated_mlp(b, h, spec))


KIND = LayerKind(embed, layer, head, (rotary_sides, local_sides), settings=DecoderSettings)
