"""Llama's layer with what other pretrained decoders add to it, each behind a setting.

Layers may differ along the stack: ``pattern`` has a letter for each layer, counted over the whole
stack, and starts over at its end. It belongs to the layer, not to the visit.

    ``g``  sees every position before it (global)
    ``l``  sees the last ``window`` positions (local)
    ``n``  is ``g`` without rotary positions
    ``m``  is ``l`` without rotary positions

``looped_decoder`` is the kind of stacks that run several times, as those of Ouro and Nanbeige do:
the norm that stands before the head ends every visit of a block.

Mistral is "l", SmolLM3 "gggn", and Gemma 3 "lllllg" with ``local_theta``. `rinsc.sources` has what
each family of pretrained models sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from rinsc.layers import llama
from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import Norm, attention, gated_mlp, logits, mlp, rotary_sides
from rinsc.layers.rope_scaling import read_scaling, small_scaling
from rinsc.ops import Activation, Add, LayerNorm, RMSNorm, Scale
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec

LETTERS = "glnm"
SAME = "same"
OWN, LOCAL = "own_", "local_"  # tables of the kind, and of its local layers
NORMS: dict[str, Norm] = {
    "rms": RMSNorm,
    "rms_from_one": partial(RMSNorm, offset=1),
    "layer": LayerNorm,
}


@dataclass(frozen=True)
class DecoderSettings:
    """Of positions: ``scaling`` is a line of `rinsc.layers.rope_scaling`, ``rotary_fraction`` how
    much of a head turns. ``local_theta`` and ``local_scaling`` are those of local layers, 0 and
    "same" for those of the model.

    Of attention: ``head_norm`` norms each head of queries and keys before it is rotated,
    ``width_norm`` all heads together. ``score_scale`` is what products are multiplied by, 0 for 1 /
    sqrt(head_dim); ``score_cap`` and ``logit_cap`` c make cap · tanh(x / cap) of scores and logits,
    where they are not 0.

    Of the rest: norms stand ``before`` each half, ``after`` it, before its sum with the state, or
    ``both``; the halves of ``parallel`` layers read one state. The feed-forward part is ``gated``
    or plain. ``scaled_embedding`` multiplies rows by sqrt(width).
    """

    pattern: str = "g"
    window: int = field(default=4096, metadata={"small": 3})
    local_theta: float = field(default=0.0, metadata={"least": 0})
    scaling: str = field(default="", metadata={"small": small_scaling})
    local_scaling: str = field(default=SAME, metadata={"small": small_scaling})
    rotary_fraction: float = 1.0
    head_norm: bool = False
    width_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    score_scale: float = field(default=0.0, metadata={"least": 0})
    score_cap: float = field(default=0.0, metadata={"least": 0})
    logit_cap: float = field(default=0.0, metadata={"least": 0})
    norm: Literal["rms", "rms_from_one", "layer"] = "rms"
    norms: Literal["before", "after", "both"] = "before"
    parallel: bool = False
    gated: bool = True
    activation: Literal["silu", "gelu_tanh", "gelu", "relu"] = "silu"
    scaled_embedding: bool = False

    def __post_init__(self) -> None:
        wrong = sorted(set(self.pattern) - set(LETTERS))
        if wrong or not self.pattern:
            letters = f"not {wrong[0]!r}" if wrong else "at least one"
            raise ValueError(f"a pattern is made of the letters {', '.join(LETTERS)}, {letters}")
        if self.rotary_fraction > 1:
            raise ValueError("the 'rotary_fraction' of a head is at most 1")
        if self.head_norm and self.width_norm:
            raise ValueError("queries and keys have a 'head_norm' or a 'width_norm', not both")
        for scaling in (self.scaling, self.local_scaling):
            if scaling not in ("", SAME):
                read_scaling(scaling)

    @property
    def has_plain_rotation(self) -> bool:
        return not self.scaling and self.rotary_fraction == 1

    @property
    def has_local_rotation(self) -> bool:
        differs = self.local_theta or self.local_scaling not in (SAME, self.scaling)
        return "l" in self.pattern and bool(differs)


def embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    x = llama.embed(b, input_ids, spec)
    if not b.settings.scaled_embedding:
        return x
    with b.part("embedding"):
        return b(Scale(math.sqrt(spec.width)), x)


def own_sides(b: Builder, input_ids: Value, x: Value, spec: ModelSpec) -> Sides:
    """The rotary tables that are not those of every kind, with a scaling or for a part of heads."""
    own = b.settings
    if not own.has_plain_rotation:
        return _tables(b, input_ids, x, spec, own.scaling, spec.rope_theta, OWN)
    return {}


def local_sides(b: Builder, input_ids: Value, x: Value, spec: ModelSpec) -> Sides:
    """Those of local layers, where they have a base or a scaling of their own."""
    own = b.settings
    if not own.has_local_rotation:
        return {}
    scaling = own.scaling if own.local_scaling == SAME else own.local_scaling
    return _tables(b, input_ids, x, spec, scaling, own.local_theta or spec.rope_theta, LOCAL)


def _tables(
    b: Builder, ids: Value, x: Value, spec: ModelSpec, scaling: str, theta: float, prefix: str
) -> Sides:
    options = {"scaling": scaling, "fraction": b.settings.rotary_fraction}
    return rotary_sides(b, ids, x, spec, theta=theta, prefix=prefix, **options)


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + swiglu(norm(x)), or as the settings say."""
    own = b.settings
    with b.part("attention"):
        mixed = _normed(
            b, _attention(b, _norm(b, x, spec, "attention"), sides, spec), spec, "attention"
        )
        if not own.parallel:
            x = b(Add(), x, mixed)
    with b.part("mlp"):
        h = _norm(b, x, spec, "mlp")
        function = gated_mlp if own.gated else mlp
        h = _normed(b, function(b, h, spec, own.activation, bias=own.mlp_bias), spec, "mlp")
        if own.parallel:
            h = b(Add(), h, mixed)
        return b(Add(), x, h)


def _attention(b: Builder, h: Value, sides: Sides, spec: ModelSpec) -> Value:
    own = b.settings
    letter = own.pattern[b.stack_index % len(own.pattern)]
    prefix = "" if own.has_plain_rotation else OWN
    if letter == "l" and own.has_local_rotation:
        prefix = LOCAL
    rotary = {name: sides[prefix + name] for name in ("cos", "sin")}
    return attention(
        b,
        h,
        spec,
        rotary=None if letter in "nm" else rotary,
        query_key_bias=own.qkv_bias,
        value_bias=own.qkv_bias,
        output_bias=own.output_bias,
        head_norm=own.head_norm,
        width_norm=own.width_norm,
        norm=NORMS[own.norm],
        window=own.window if letter in "lm" else None,
        scale=own.score_scale or None,
        cap=own.score_cap or None,
    )


def _norm(b: Builder, x: Value, spec: ModelSpec, half: str) -> Value:
    """What a half reads."""
    if b.settings.norms == "after":
        return x
    return b(NORMS[b.settings.norm](spec.norm_eps), x, name=f"{half}_norm")


def _normed(b: Builder, h: Value, spec: ModelSpec, half: str) -> Value:
    """What a half adds to the state."""
    if b.settings.norms == "before":
        return h
    return b(NORMS[b.settings.norm](spec.norm_eps), h, name=f"{half}_output_norm")


def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    own = b.settings
    with b.part("head"):
        x = b(NORMS[own.norm](spec.norm_eps), x, name="final_norm")
        return _capped(b, logits(b, x, spec))


def _capped(b: Builder, x: Value) -> Value:
    cap = b.settings.logit_cap
    return b(Scale(cap), b(Activation("tanh"), b(Scale(1 / cap), x))) if cap else x


def looped_leave(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    with b.part("norm"):
        return b(NORMS[b.settings.norm](spec.norm_eps), x, name="norm")


def looped_head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return _capped(b, logits(b, x, spec))


SIDES = (rotary_sides, own_sides, local_sides)
KIND = LayerKind(embed, layer, head, SIDES, settings=DecoderSettings)
LOOPED = replace(KIND, head=looped_head, leave=looped_leave)
