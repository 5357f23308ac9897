"""SigLIP's two towers (arXiv 2303.15343), as big_vision and transformers have them.

Both have one layer: norms before each half with biases, GELU in its tanh form, every position sees
all and nothing is masked. That layer alone is the kind ``siglip``; as a whole model it is an
encoder of tokens. Blocks of the towers are of this kind, so that towers can share them.

``siglip_image`` cuts pictures (batch, channels, image_size, image_size) into patches by a
convolution, adds learned positions, and ends with attention of a learned probe to all of them.
``siglip_text`` takes token ids (batch, context), padded and not masked, and ends with its last
position. Each gives an embedding (batch, width), which is not normalised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from rinsc.layers.kind import LayerKind, Sides
from rinsc.layers.mixing import attention, logits, mlp
from rinsc.ops import (
    Add,
    AtPosition,
    Embedding,
    LayerNorm,
    Linear,
    PatchConvolution,
    Positions,
    Probe,
)
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec

# How matrices and biases start.
mixed = partial(attention, bias=True, causal=False, init="xavier")
widened = partial(mlp, function="gelu_tanh", init="xavier", bias_init="specks")


@dataclass(frozen=True)
class ImageSettings:
    """``image_size`` and ``patch_size`` in pixels of a side, ``channels`` of a picture.

    Pixels at the lower and right edges that make no patch are not read, as published models do.
    """

    image_size: int = field(default=224, metadata={"small": 10})
    patch_size: int = field(default=16, metadata={"small": 2})
    channels: int = field(default=3, metadata={"small": 3})

    def __post_init__(self) -> None:
        if self.patch_size > self.image_size:
            message = f"patch_size {self.patch_size} is more than image_size {self.image_size}"
            raise ValueError(message)

    @property
    def context(self) -> int:
        """How many patches a picture has."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextSettings:
    """``projection_width`` of the embedding; 0 is the width of the tower."""

    projection_width: int = field(default=0, metadata={"least": 0, "small": 0})


def text_embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        table = Embedding(spec.vocab_size, spec.width, "rows")
        x = b(table, input_ids, name="embedding")
        return _with_positions(b, x, spec)


def layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x)); every position sees all."""
    with b.part("attention"):
        h = b(LayerNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, mixed(b, h, spec))
    with b.part("mlp"):
        h = b(LayerNorm(spec.norm_eps), x, name="mlp_norm")
        return b(Add(), x, widened(b, h, spec))


def token_head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    with b.part("head"):
        return logits(b, b(LayerNorm(spec.norm_eps), x, name="final_norm"), spec)


def text_head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    """The last position, projected."""
    width = b.settings.projection_width or spec.width
    with b.part("head"):
        last = b(AtPosition(-1), b(LayerNorm(spec.norm_eps), x, name="final_norm"))
        return b(Linear(width, bias=True, init="lecun"), last, name="head")


def image_embed(b: Builder, pixels: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        convolution = PatchConvolution(spec.width, b.settings.patch_size)
        return _with_positions(b, b(convolution, pixels, name="embedding"), spec)


def image_head(b: Builder, x: Value, spec: ModelSpec) -> Value:
    """What a probe sees in all positions, without a residual, and an MLP around it."""
    with b.part("head"):
        h = b(LayerNorm(spec.norm_eps), x, name="final_norm")
        probe = b(Probe(), h, name="probe")
        x = mixed(b, h, spec, queries=probe, prefix="pool_")
        h = b(LayerNorm(spec.norm_eps), x, name="pool_norm")
        return b(AtPosition(0), b(Add(), x, widened(b, h, spec, prefix="pool_")))


def _with_positions(b: Builder, x: Value, spec: ModelSpec) -> Value:
    return b(Add(), x, b(Positions(spec.context, spec.width, "rows"), x, name="positions"))


KIND = LayerKind(text_embed, layer, token_head, causal=False)
TEXT = LayerKind(
    *(text_embed, layer, text_head), gives="embedding", causal=False, settings=TextSettings
)
IMAGE = LayerKind(
    *(image_embed, layer, image_head),
    takes="pixels",
    gives="embedding",
    causal=False,
    settings=ImageSettings,
)
