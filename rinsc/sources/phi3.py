"""Phi-3 and Phi-4: one tensor of queries, keys and values, one of gate and up, and LongRoPE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.llama import LLAMA, TRAINING
from rinsc.sources.mistral import window_of, windowed
from rinsc.sources.positions import ORIGINAL, one_rotation_config
from rinsc.spec import ModelSpec

QKV = "model.layers.{layer}.self_attn.qkv_proj.weight"
GATE_UP = "model.layers.{layer}.mlp.gate_up_proj.weight"
LONG = ("su", "yarn")  # what old configs call LongRoPE, as transformers reads them
DEFAULT_ORIGINAL = 4096


def _more(config: Config) -> dict[str, Any]:
    original = config.get(ORIGINAL, DEFAULT_ORIGINAL)
    own = {**config, ORIGINAL: original}
    for key in ("rope_parameters", "rope_scaling"):
        table = own.get(key)
        name = table.get("rope_type", table.get("type")) if isinstance(table, dict) else None
        if isinstance(table, dict) and name in LONG:
            own[key] = {**table, "rope_type": "longrope"}
    return windowed(own, config.get("sliding_window"), in_part=True)


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    rotary = one_rotation_config(spec)
    own = {} if spec.head_dim is None else {"head_dim": spec.head_size}
    original = rotary["rope_parameters"].get(ORIGINAL, DEFAULT_ORIGINAL)
    return rotary | own | {"sliding_window": window_of(spec), ORIGINAL: original}


PHI3 = replace(
    LLAMA,
    model_type="phi3",
    plain_kind=None,
    options={"activation": "hidden_act"},
    required={"attention_bias": False},
    defaults={
        **{"num_key_value_heads": None, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
        "hidden_act": "silu",
    },
    ignored=frozenset(  # the last two stand in Phi-4 mini, and transformers reads neither
        (*TRAINING, "resid_pdrop", "embd_pdrop", "full_attn_mod", "interpolate_factor")
    ),
    read_elsewhere=LLAMA.read_elsewhere | {"sliding_window", ORIGINAL},
    more=_more,
    more_config=_more_config,
    layer={
        **LLAMA.layer,
        **{f"{name}.weight": QKV for name in ("query", "key", "value")},
        **{f"{name}.weight": GATE_UP for name in ("gate", "up")},
    },
)
