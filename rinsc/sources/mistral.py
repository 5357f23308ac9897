"""Mistral: Llama whose layers all have a window, if any has; ``MistralForCausalLM``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.llama import LLAMA, TRAINING, own_head
from rinsc.sources.positions import (
    head_width,
    letters_of,
    one_rotation,
    own_settings,
    pattern_of,
)
from rinsc.spec import ModelSpec

DEFAULT_WINDOW = 4096  # what a config means that does not say; none where it says null


def windowed(config: Config, window: object, *, in_part: bool = False) -> dict[str, Any]:
    """What llama reads too, with a window in every layer."""
    values = one_rotation(config, in_part=in_part) | head_width(config)
    values["settings"] |= pattern_of("g" if window is None else "l", window)
    return values


def window_of(spec: ModelSpec) -> int | None:
    """The window of layers, None where no layer has one."""
    window: int = own_settings(spec).window
    return window if set(letters_of(spec)) & set("lm") else None


def _more(config: Config) -> dict[str, Any]:
    return windowed(config, config.get("sliding_window", DEFAULT_WINDOW))


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    return own_head(spec) | {"sliding_window": window_of(spec)}


MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    plain_kind=None,
    options={"activation": "hidden_act"},
    defaults={
        **{"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
        "hidden_act": "silu",
    },
    ignored=frozenset(TRAINING),
    read_elsewhere=LLAMA.read_elsewhere | {"sliding_window"},
    more=_more,
    more_config=_more_config,
)
