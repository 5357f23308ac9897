"""Qwen3: norms of the heads of queries and keys; what ``Qwen3ForCausalLM`` writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.llama import BIASES, HEAD_NORMS, LLAMA, own_head
from rinsc.sources.positions import head_width, one_rotation
from rinsc.sources.qwen2 import QWEN2, upper_windows, window_config
from rinsc.spec import ModelSpec

DEFAULT_HEAD = 128  # what a config without a head_dim means


def _more(config: Config) -> dict[str, Any]:
    values = one_rotation(config) | head_width(config, DEFAULT_HEAD)
    values["settings"] |= upper_windows(config)
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    return own_head(spec) | window_config(spec)


QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    settings={"head_norm": True},
    options={"activation": "hidden_act", **BIASES},
    defaults={**QWEN2.defaults, "attention_bias": False},
    more=_more,
    more_config=_more_config,
    layer={**LLAMA.layer, **HEAD_NORMS},
)
