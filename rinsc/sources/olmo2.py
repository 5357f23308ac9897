"""OLMo 2: norms after each half alone, and of queries and keys over all heads together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.llama import BIASES, HEAD_NORMS, LLAMA, OUTPUT_NORMS, TRAINING
from rinsc.sources.positions import head_width, one_rotation, one_rotation_config
from rinsc.spec import ModelSpec

BEFORE = ("attention_norm.weight", "mlp_norm.weight")


def _more(config: Config) -> dict[str, Any]:
    return one_rotation(config) | head_width(config)


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    own = {} if spec.head_dim is None else {"head_dim": spec.head_size}
    return one_rotation_config(spec) | own


OLMO2 = replace(
    LLAMA,
    model_type="olmo2",
    plain_kind=None,
    settings={"norms": "after", "width_norm": True},
    options={"activation": "hidden_act", **BIASES},
    defaults={
        **{"num_key_value_heads": None, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
        **{"hidden_act": "silu", "attention_bias": False},
    },
    ignored=frozenset(TRAINING),
    more=_more,
    more_config=_more_config,
    layer={k: v for k, v in LLAMA.layer.items() if k not in BEFORE} | HEAD_NORMS | OUTPUT_NORMS,
)
