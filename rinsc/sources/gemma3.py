"""Gemma 3, its text model: norms of heads, a window in five layers of six, and two rotary bases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.gemma import DEFAULT_HEAD
from rinsc.sources.gemma2 import (
    DEFAULT_WINDOW,
    GEMMA2,
    caps,
    every_other,
    scores,
    scores_config,
    windows_config,
)
from rinsc.sources.llama import HEAD_NORMS
from rinsc.sources.positions import (
    head_width,
    two_rotations,
    two_rotations_config,
    windows,
)
from rinsc.sources.qwen2 import LETTERS
from rinsc.spec import ModelSpec

THETA, LOCAL_THETA = 1000000.0, 10000.0
PERIOD = 6


def _more(config: Config) -> dict[str, Any]:
    values = two_rotations(config, THETA, LOCAL_THETA, "rope_local_base_freq")
    values |= head_width(config, DEFAULT_HEAD)
    types = every_other(config, config.get("sliding_window_pattern", PERIOD))
    window = config.get("sliding_window", DEFAULT_WINDOW)
    values["settings"] |= windows({**config, "sliding_window": window}, types, LETTERS)
    values["settings"] |= scores(config, config.get("head_dim", DEFAULT_HEAD))
    values["settings"]["logit_cap"] = caps(config, None, None)["logit_cap"]
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    head = {"head_dim": spec.head_size}
    return two_rotations_config(spec) | scores_config(spec) | head | windows_config(spec)


GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    settings={**GEMMA2.settings, "head_norm": True},
    required={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    ignored=GEMMA2.ignored | {"_sliding_window_pattern"},  # what layer_types were made of
    read_elsewhere=GEMMA2.read_elsewhere | {"sliding_window_pattern", "rope_local_base_freq"},
    more=_more,
    more_config=_more_config,
    layer={**GEMMA2.layer, **HEAD_NORMS},
)
