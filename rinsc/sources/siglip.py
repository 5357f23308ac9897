"""SigLIP, and SigLIP 2 at a fixed resolution: what ``SiglipModel`` of transformers writes.

A key that a config leaves out is what the classes of transformers make of it: the published
configs say only what differs from B/16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rinsc.errors import SpecError
from rinsc.sources.family import Family
from rinsc.sources.towers import TowersFamily
from rinsc.spec import ModelSpec

DEFAULT_WIDTH, DEFAULT_IMAGE, DEFAULT_PATCH, DEFAULT_CHANNELS = 768, 224, 16, 3
DEFAULTS: Mapping[str, object] = {
    "hidden_size": DEFAULT_WIDTH,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-6,
}
DIMENSIONS: Mapping[str, str] = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "norm_eps": "layer_norm_eps",
}
IGNORED = frozenset(  # dropout and starts of training; how text is generated, of which none is here
    (
        *("attention_dropout", "initializer_factor", "initializer_range", "tie_word_embeddings"),
        *("max_length", "min_length", "early_stopping", "num_beams", "num_beam_groups"),
        *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "length_penalty"),
        *("repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        *("num_return_sequences", "tie_encoder_decoder", "tokenizer_class", "sep_token_id"),
    )
)
LAYER: Mapping[str, str] = {
    f"{ours}.{kind}": f"encoder.layers.{{layer}}.{theirs}.{kind}"
    for ours, theirs in {
        "attention_norm": "layer_norm1",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.out_proj",
        "mlp_norm": "layer_norm2",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
    }.items()
    for kind in ("weight", "bias")
}


def _below(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    return {ours: f"{prefix}.{theirs}" for ours, theirs in names.items()}


def _both(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


def _side(config: Mapping[str, object], key: str, default: int) -> object:
    """A size in pixels, which may be written for both sides; raises `SpecError` for two."""
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    if type(value) is not int:
        message = f"'{key}' is {value!r:.40}, and only squares are computed"
        hint = "take a checkpoint of square pictures"
        raise SpecError("unsupported-value", message, place=f"config.json: {key}", hint=hint)
    return value


def _picture(config: Mapping[str, object]) -> dict[str, Any]:
    channels = config.get("num_channels")
    settings = {
        "image_size": _side(config, "image_size", DEFAULT_IMAGE),
        "patch_size": _side(config, "patch_size", DEFAULT_PATCH),
        "channels": DEFAULT_CHANNELS if channels is None else channels,
    }
    return {"settings": settings}


def _picture_config(spec: ModelSpec) -> dict[str, Any]:
    own: Any = spec.settings_of(spec.kind)
    return {
        "image_size": own.image_size,
        "patch_size": own.patch_size,
        "num_channels": own.channels,
    }


def _projection(config: Mapping[str, object]) -> dict[str, Any]:
    """The width of the embedding, which is that of the tower where nobody says another."""
    projection = config.get("projection_size")
    width = config.get("hidden_size")
    if projection in (None, DEFAULT_WIDTH if width is None else width):
        return {}
    return {"settings": {"projection_width": projection}}


def _projection_config(spec: ModelSpec) -> dict[str, Any]:
    own: Any = spec.settings_of(spec.kind)
    size = own.projection_width or spec.width
    return {
        "projection_size": size,
        "pad_token_id": 1,
        "bos_token_id": None,
        "eos_token_id": None,
    }


IMAGE = Family(
    model_type="siglip_vision_model",
    kind="siglip_image",
    dimensions=DIMENSIONS,
    defaults=DEFAULTS,
    required={
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": True,
    },
    ignored=IGNORED,
    read_elsewhere=frozenset(("image_size", "patch_size", "num_channels")),
    more=_picture,
    more_config=_picture_config,
    frame={
        **_both("embedding", "vision_model.embeddings.patch_embedding"),
        "positions.weight": "vision_model.embeddings.position_embedding.weight",
        **_both("final_norm", "vision_model.post_layernorm"),
        "probe.weight": "vision_model.head.probe",
        **{
            f"pool_{name}.{kind}": f"vision_model.head.attention.in_proj_{kind}"
            for name in ("query", "key", "value")
            for kind in ("weight", "bias")
        },
        **_both("pool_output", "vision_model.head.attention.out_proj"),
        **_both("pool_norm", "vision_model.head.layernorm"),
        **_both("pool_up", "vision_model.head.mlp.fc1"),
        **_both("pool_down", "vision_model.head.mlp.fc2"),
    },
    layer=_below("vision_model", LAYER),
    constants=frozenset(("vision_model.embeddings.position_ids",)),
)
TEXT = Family(
    model_type="siglip_text_model",
    kind="siglip_text",
    dimensions={
        **DIMENSIONS,
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
    },
    defaults={**DEFAULTS, "vocab_size": 32000, "max_position_embeddings": 64},
    required={"model_type": "siglip_text_model", "hidden_act": "gelu_pytorch_tanh"},
    ignored=IGNORED,
    read_elsewhere=frozenset(("projection_size",)),
    more=_projection,
    more_config=_projection_config,
    frame={
        "embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positions.weight": "text_model.embeddings.position_embedding.weight",
        **_both("final_norm", "text_model.final_layer_norm"),
        **_both("head", "text_model.head"),
    },
    layer=_below("text_model", LAYER),
    constants=frozenset(("text_model.embeddings.position_ids",)),
)
# What single towers and wrappers of other versions write before their names.
FORMER = {"vision_model.vision_model.": "vision_model.", "text_model.text_model.": "text_model."}


def _renamed(name: str) -> str:
    name = name.removeprefix("siglip.").removeprefix("model.")
    for former, prefix in FORMER.items():
        name = prefix + name.removeprefix(former) if name.startswith(former) else name
    return name


SIGLIP = TowersFamily(
    model_type="siglip",
    signature="image: A, text: B",
    towers={"image": IMAGE, "text": TEXT},
    configs={"image": "vision_config", "text": "text_config"},
    renamed=_renamed,
    ignored=IGNORED | {"rinsc"},  # by which an export of ours says what it is of
)
# Models that look alike, and why they are not read.
ALIKE: Mapping[str, str] = {
    "siglip2": "it cuts pictures of any shape into patches (NaFlex), which no kind of ours does",
    "siglip_vision_model": "it is the tower of pictures alone",
    "siglip_text_model": "it is the tower of texts alone",
}
