"""Qwen2 and 2.5: biases on queries, keys and values, and windows in the upper layers, if any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config, layer_count
from rinsc.sources.llama import LLAMA, TRAINING
from rinsc.sources.mistral import window_of
from rinsc.sources.positions import (
    FULL,
    SLIDING,
    head_width,
    one_rotation,
    one_rotation_config,
    types_of,
    windows,
)
from rinsc.spec import ModelSpec

LETTERS = {FULL: "g", SLIDING: "l"}
DEFAULT_WINDOW, DEFAULT_FIRST = 4096, 28
WINDOW_KEYS = frozenset(
    ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
)


def upper_windows(config: Config) -> dict[str, Any]:
    """The windows of layers from some layer on, or those that the config lists."""
    window = config.get("sliding_window", DEFAULT_WINDOW)
    window = window if config.get("use_sliding_window", False) else None
    first = config.get("max_window_layers", DEFAULT_FIRST)
    first = DEFAULT_FIRST if first is None else first
    types = [
        FULL if window is None or index < first else SLIDING for index in range(layer_count(config))
    ]
    return windows({**config, "sliding_window": window}, types, LETTERS)


def window_config(spec: ModelSpec) -> dict[str, Any]:
    """The way back of `upper_windows`."""
    window = window_of(spec)
    return {
        "layer_types": types_of(spec),
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


def _more(config: Config) -> dict[str, Any]:
    values = one_rotation(config) | head_width(config)
    values["settings"] |= upper_windows(config)
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    own = {} if spec.head_dim is None else {"head_dim": spec.head_size}
    return one_rotation_config(spec) | window_config(spec) | own


QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    plain_kind=None,
    settings={"qkv_bias": True},
    options={"activation": "hidden_act"},
    defaults={
        **{"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
        "hidden_act": "silu",
    },
    ignored=frozenset(TRAINING),
    read_elsewhere=LLAMA.read_elsewhere | WINDOW_KEYS,
    more=_more,
    more_config=_more_config,
)
