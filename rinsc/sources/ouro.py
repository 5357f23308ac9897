"""Ouro (arXiv 2510.25741): a stack that runs ``total_ut_steps`` times, a norm after every trip.

Its code comes with the checkpoint. The exit gate is not read: it changes the logits only where
``early_exit_threshold`` lets a token stop before the last trip.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.graph import build_graph
from rinsc.sources.config_values import Config
from rinsc.sources.llama import LLAMA, TRAINING, own_head
from rinsc.sources.positions import head_width, one_rotation
from rinsc.sources.qwen2 import QWEN2, upper_windows, window_config
from rinsc.spec import ModelSpec

TRIPS = "total_ut_steps"
DEFAULT_TRIPS = 4
GATE = "model.early_exit_gate"


def looped(layers: object, trips: object) -> str:
    """A stack of so many layers that runs so often; what is no number is an error elsewhere."""
    size = layers if type(layers) is int and layers > 0 else 1
    rounds = trips if type(trips) is int and trips > 0 else 1
    return f"A[{size}]" if rounds == 1 else f"A[{size}]^{rounds}"


def trips_of(spec: ModelSpec) -> int:
    """How often the stack runs."""
    return build_graph(spec).visit_counts()["A"]


def _signature(config: Config) -> str:
    return looped(config.get("num_hidden_layers"), config.get(TRIPS, DEFAULT_TRIPS))


def _more(config: Config) -> dict[str, Any]:
    values = one_rotation(config) | head_width(config)
    values["settings"] |= upper_windows(config)
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    return own_head(spec) | window_config(spec) | {TRIPS: trips_of(spec)}


OURO = replace(
    QWEN2,
    model_type="ouro",
    kind="looped_decoder",
    signature=_signature,
    settings={"norms": "both"},
    required={"early_exit_threshold": 1.0},
    ignored=frozenset((*TRAINING, "early_exit_step")),
    read_elsewhere=QWEN2.read_elsewhere | {TRIPS},
    more=_more,
    more_config=_more_config,
    frame={
        "embedding.weight": "model.embed_tokens.weight",
        "A.norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    layer={
        **LLAMA.layer,
        "attention_output_norm.weight": "model.layers.{layer}.input_layernorm_2.weight",
        "mlp_output_norm.weight": "model.layers.{layer}.post_attention_layernorm_2.weight",
    },
    constants=frozenset((f"{GATE}.weight", f"{GATE}.bias")),
)
