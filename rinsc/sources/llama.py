"""Llama 2 and 3, SmolLM2, TinyLlama: what ``LlamaForCausalLM`` of transformers writes."""

from __future__ import annotations

from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.family import Family
from rinsc.sources.positions import KEYS, head_width, one_rotation, one_rotation_config
from rinsc.spec import ModelSpec

TRAINING = ("initializer_range", "attention_dropout")  # keys that change no logits
BIASES = {"qkv_bias": "attention_bias", "output_bias": "attention_bias"}


def _more(config: Config) -> dict[str, Any]:
    return one_rotation(config) | head_width(config)


def own_head(spec: ModelSpec) -> dict[str, Any]:
    """Rotary positions and the width of a head, as configs of most families have them."""
    return one_rotation_config(spec) | {"head_dim": spec.head_size}


LLAMA = Family(
    model_type="llama",
    kind="decoder",
    plain_kind="llama",
    dimensions={
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "mlp_width": "intermediate_size",
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "norm_eps": "rms_norm_eps",
        "tied_embedding": "tie_word_embeddings",
    },
    options={"activation": "hidden_act", **BIASES, "mlp_bias": "mlp_bias"},
    defaults={
        "num_key_value_heads": None,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    },
    ignored=frozenset((*TRAINING, "pretraining_tp")),
    read_elsewhere=KEYS | {"head_dim", "partial_rotary_factor"},
    more=_more,
    more_config=own_head,
    frame={
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    layer={
        "attention_norm.weight": "model.layers.{layer}.input_layernorm.weight",
        "query.weight": "model.layers.{layer}.self_attn.q_proj.weight",
        "query.bias": "model.layers.{layer}.self_attn.q_proj.bias",
        "key.weight": "model.layers.{layer}.self_attn.k_proj.weight",
        "key.bias": "model.layers.{layer}.self_attn.k_proj.bias",
        "value.weight": "model.layers.{layer}.self_attn.v_proj.weight",
        "value.bias": "model.layers.{layer}.self_attn.v_proj.bias",
        "output.weight": "model.layers.{layer}.self_attn.o_proj.weight",
        "output.bias": "model.layers.{layer}.self_attn.o_proj.bias",
        "mlp_norm.weight": "model.layers.{layer}.post_attention_layernorm.weight",
        "gate.weight": "model.layers.{layer}.mlp.gate_proj.weight",
        "gate.bias": "model.layers.{layer}.mlp.gate_proj.bias",
        "up.weight": "model.layers.{layer}.mlp.up_proj.weight",
        "up.bias": "model.layers.{layer}.mlp.up_proj.bias",
        "down.weight": "model.layers.{layer}.mlp.down_proj.weight",
        "down.bias": "model.layers.{layer}.mlp.down_proj.bias",
    },
)
HEAD_NORMS = {
    "query_norm.weight": "model.layers.{layer}.self_attn.q_norm.weight",
    "key_norm.weight": "model.layers.{layer}.self_attn.k_norm.weight",
}
OUTPUT_NORMS = {
    "attention_output_norm.weight": "model.layers.{layer}.post_attention_layernorm.weight",
    "mlp_output_norm.weight": "model.layers.{layer}.post_feedforward_layernorm.weight",
}
