"""Qwen3: what ``Qwen3ForCausalLM`` of transformers writes, without windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rinsc.errors import SpecError
from rinsc.sources.llama import LLAMA

DEFAULT_HEAD = 128  # what a config without a head_dim means


def _more(config: Mapping[str, object]) -> dict[str, Any]:
    """What llama reads too; raises `SpecError` for layers with a window."""
    types = config.get("layer_types") or []
    if not isinstance(types, list) or any(name != "full_attention" for name in types):
        message = "layers of this checkpoint have a window, which is not read yet"
        hint = "take a checkpoint whose layers all see every position before"
        raise SpecError("unsupported-value", message, place="config.json: layer_types", hint=hint)
    return LLAMA.more({"head_dim": DEFAULT_HEAD, **config})


QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    kind="decoder",
    settings={"head_norm": True},
    defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    required={"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    ignored=frozenset(
        ("initializer_range", "attention_dropout", "max_window_layers", "sliding_window")
    ),
    read_elsewhere=LLAMA.read_elsewhere | {"layer_types"},
    more=_more,
    layer={
        **LLAMA.layer,
        "query_norm.weight": "model.layers.{layer}.self_attn.q_norm.weight",
        "key_norm.weight": "model.layers.{layer}.self_attn.k_norm.weight",
    },
)
