"""Llama 2, SmolLM2, TinyLlama: what ``LlamaForCausalLM`` of transformers writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rinsc.errors import SpecError
from rinsc.sources.family import Family
from rinsc.spec import ModelSpec

DEFAULT_BASE = 10000.0


def _rotary(config: Mapping[str, object]) -> dict[str, Any]:
    """The rotary base, wherever a version of transformers wrote it, and the head's width."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        scaling = {"rope_type": scaling}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        message = f"rotary positions are scaled by {kind!r:.40}, which is not computed"
        hint = "take a checkpoint without scaled positions"
        raise SpecError(
            "unsupported-value", message, place="config.json: rope_parameters", hint=hint
        )
    base = scaling.get("rope_theta", config.get("rope_theta", DEFAULT_BASE))
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    head_dim = config.get("head_dim")
    known = isinstance(width, int) and isinstance(heads, int) and heads > 0
    if known and head_dim == width // heads:  # type: ignore[operator]
        head_dim = None
    return {"rope_theta": base} | ({} if head_dim is None else {"head_dim": head_dim})


def _rotary_config(spec: ModelSpec) -> dict[str, Any]:
    rotary = {"rope_type": "default", "rope_theta": spec.rope_theta}
    return {"rope_parameters": rotary, "head_dim": spec.head_size}


LLAMA = Family(
    model_type="llama",
    kind="llama",
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
    defaults={"num_key_value_heads": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    required={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    ignored=frozenset(("initializer_range", "pretraining_tp", "attention_dropout")),
    read_elsewhere=frozenset(("rope_parameters", "rope_scaling", "rope_theta", "head_dim")),
    more=_rotary,
    more_config=_rotary_config,
    frame={
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    layer={
        "attention_norm.weight": "model.layers.{layer}.input_layernorm.weight",
        "query.weight": "model.layers.{layer}.self_attn.q_proj.weight",
        "key.weight": "model.layers.{layer}.self_attn.k_proj.weight",
        "value.weight": "model.layers.{layer}.self_attn.v_proj.weight",
        "output.weight": "model.layers.{layer}.self_attn.o_proj.weight",
        "mlp_norm.weight": "model.layers.{layer}.post_attention_layernorm.weight",
        "gate.weight": "model.layers.{layer}.mlp.gate_proj.weight",
        "up.weight": "model.layers.{layer}.mlp.up_proj.weight",
        "down.weight": "model.layers.{layer}.mlp.down_proj.weight",
    },
)
