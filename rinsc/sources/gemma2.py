"""Gemma 2: norms before and after each half, caps on scores and logits, and every other layer with
a window; what ``Gemma2ForCausalLM`` writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.errors import SpecError
from rinsc.sources.config_values import Config, checkpoint_problem, layer_count
from rinsc.sources.gemma import DEFAULT_HEAD, GEMMA, SETTINGS
from rinsc.sources.llama import BIASES, LLAMA, OUTPUT_NORMS, TRAINING, own_head
from rinsc.sources.mistral import window_of
from rinsc.sources.positions import (
    FULL,
    SLIDING,
    head_width,
    one_rotation,
    own_settings,
    types_of,
    windows,
)
from rinsc.sources.qwen2 import LETTERS
from rinsc.spec import ModelSpec

DEFAULT_WINDOW, DEFAULT_SCALAR = 4096, 256
SCORE_CAP, LOGIT_CAP = 50.0, 30.0


def every_other(config: Config, period: int) -> list[str]:
    """Windows in all layers but the last of every ``period``."""
    count = layer_count(config)
    return [SLIDING if (index + 1) % period else FULL for index in range(count)]


def scores(config: Config, head_dim: int | None) -> dict[str, Any]:
    """What products of queries and keys are multiplied by, 0 for what it is by default."""
    scalar = config.get("query_pre_attn_scalar", DEFAULT_SCALAR)
    if scalar is None:
        message = "the config does not say 'query_pre_attn_scalar'"
        raise SpecError.of(checkpoint_problem("missing-key", message, "query_pre_attn_scalar"))
    return {"score_scale": 0.0 if scalar == head_dim else float(scalar) ** -0.5}


def scores_config(spec: ModelSpec) -> dict[str, Any]:
    """The way back of `scores`."""
    scale = own_settings(spec).score_scale
    return {"query_pre_attn_scalar": round(scale**-2) if scale else spec.head_size}


def _more(config: Config) -> dict[str, Any]:
    values = one_rotation(config) | head_width(config, DEFAULT_HEAD)
    window = config.get("sliding_window", DEFAULT_WINDOW)
    values["settings"] |= windows(
        {**config, "sliding_window": window}, every_other(config, 2), LETTERS
    )
    values["settings"] |= scores(config, config.get("head_dim", DEFAULT_HEAD))
    return values


def caps(config: Config, score: float | None, logit: float | None) -> dict[str, float]:
    """Settings of the caps, which are by default as given, and none where a config says null."""
    own = {
        "score_cap": config.get("attn_logit_softcapping", score),
        "logit_cap": config.get("final_logit_softcapping", logit),
    }
    return {key: float(value or 0) for key, value in own.items()}


def _capped(config: Config) -> dict[str, Any]:
    values = _more(config)
    values["settings"] |= caps(config, SCORE_CAP, LOGIT_CAP)
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    own = own_settings(spec)
    return (
        own_head(spec)
        | scores_config(spec)
        | {
            "attn_logit_softcapping": own.score_cap or None,
        }
        | windows_config(spec)
    )


def windows_config(spec: ModelSpec) -> dict[str, Any]:
    """The cap of the logits, and which layers have a window of which size."""
    own = own_settings(spec)
    return {
        "final_logit_softcapping": own.logit_cap or None,
        "layer_types": types_of(spec),
        "sliding_window": window_of(spec) or own.window,
    }


GEMMA2 = replace(
    GEMMA,
    model_type="gemma2",
    settings={**SETTINGS, "norms": "both"},
    options={"activation": "hidden_activation", **BIASES},
    defaults={
        **{"rms_norm_eps": 1e-6, "tie_word_embeddings": True},
        **{"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
    },
    required={"use_bidirectional_attention": None},
    ignored=frozenset((*TRAINING, "hidden_act")),  # transformers reads hidden_activation
    read_elsewhere=LLAMA.read_elsewhere
    | {"layer_types", "sliding_window", "query_pre_attn_scalar"}
    | {"attn_logit_softcapping", "final_logit_softcapping"},
    more=_capped,
    more_config=_more_config,
    layer={
        **LLAMA.layer,
        **OUTPUT_NORMS,
        "mlp_norm.weight": "model.layers.{layer}.pre_feedforward_layernorm.weight",
    },
)
