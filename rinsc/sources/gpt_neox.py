"""GPT-NeoX, so Pythia: parallel halves, LayerNorm, biases, and rotation of a part of each head."""

from __future__ import annotations

from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.family import Family
from rinsc.sources.llama import BIASES, TRAINING
from rinsc.sources.positions import (
    FRACTION,
    KEYS,
    one_rotation,
    one_rotation_config,
    own_settings,
)
from rinsc.spec import ModelSpec

DEFAULT_FRACTION = 0.25
QKV = "gpt_neox.layers.{layer}.attention.query_key_value"
DENSE = "gpt_neox.layers.{layer}.attention.dense"
UP = "gpt_neox.layers.{layer}.mlp.dense_h_to_4h"
DOWN = "gpt_neox.layers.{layer}.mlp.dense_4h_to_h"
HALVES = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def _more(config: Config) -> dict[str, Any]:
    own = dict(config)
    own.setdefault("rope_theta", config.get("rotary_emb_base"))
    own.setdefault(FRACTION, config.get("rotary_pct", DEFAULT_FRACTION))
    return one_rotation(own, in_part=True)


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    rotary = one_rotation_config(spec)["rope_parameters"]
    fraction = own_settings(spec).rotary_fraction
    own = {} if spec.head_dim is None else {"head_dim": spec.head_size}
    return {"rope_parameters": {**rotary, FRACTION: fraction}, **own}


GPT_NEOX = Family(
    model_type="gpt_neox",
    kind="decoder",
    dimensions={
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "mlp_width": "intermediate_size",
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "norm_eps": "layer_norm_eps",
        "tied_embedding": "tie_word_embeddings",
    },
    options={"activation": "hidden_act", "parallel": "use_parallel_residual", **BIASES},
    settings={"norm": "layer", "gated": False, "mlp_bias": True},
    defaults={
        **{"layer_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_bias": True},
        **{"hidden_act": "gelu", "use_parallel_residual": True},
    },
    ignored=frozenset((*TRAINING, "hidden_dropout", "classifier_dropout", "is_decoder")),
    read_elsewhere=KEYS | {FRACTION, "rotary_pct", "rotary_emb_base"},
    more=_more,
    more_config=_more_config,
    frame={
        "embedding.weight": "gpt_neox.embed_in.weight",
        "final_norm.weight": "gpt_neox.final_layer_norm.weight",
        "final_norm.bias": "gpt_neox.final_layer_norm.bias",
        "head.weight": "embed_out.weight",
    },
    layer={
        f"{ours}.{tensor}": f"{theirs}.{tensor}"
        for ours, theirs in {
            **{ours: f"gpt_neox.layers.{{layer}}.{theirs}" for ours, theirs in HALVES.items()},
            **dict.fromkeys(("query", "key", "value"), QKV),
            **{"output": DENSE, "up": UP, "down": DOWN},
        }.items()
        for tensor in ("weight", "bias")
    },
    by_head=frozenset((f"{QKV}.weight", f"{QKV}.bias")),
    computed=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    base="gpt_neox.",
)
