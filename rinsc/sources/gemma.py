"""Gemma: GeGLU, norms whose weights are distances from 1, and embeddings times sqrt(width)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.llama import BIASES, LLAMA, TRAINING, own_head
from rinsc.sources.positions import head_width, one_rotation
from rinsc.spec import ModelSpec

DEFAULT_HEAD = 256  # what a config without a head_dim means
SETTINGS = {"norm": "rms_from_one", "scaled_embedding": True}


def _more(config: Config) -> dict[str, Any]:
    """Old configs say "gelu" and mean its tanh form, as transformers reads them."""
    values = one_rotation(config) | head_width(config, DEFAULT_HEAD)
    if config.get("hidden_act") == "gelu":
        values["settings"]["activation"] = "gelu_tanh"
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    return own_head(spec)


GEMMA = replace(
    LLAMA,
    model_type="gemma",
    plain_kind=None,
    settings=SETTINGS,
    options={"activation": "hidden_act", **BIASES},
    defaults={
        **{"rms_norm_eps": 1e-6, "tie_word_embeddings": True},
        **{"hidden_act": "gelu_pytorch_tanh", "attention_bias": False},
    },
    ignored=frozenset((*TRAINING, "hidden_activation")),  # transformers reads hidden_act
    more=_more,
    more_config=_more_config,
)
