"""SmolLM3: no rotation in every fourth layer; what ``SmolLM3ForCausalLM`` writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.errors import SpecError
from rinsc.sources.config_values import Config, checkpoint_problem, layer_count
from rinsc.sources.llama import LLAMA, TRAINING
from rinsc.sources.mistral import window_of
from rinsc.sources.positions import (
    FULL,
    SLIDING,
    head_width,
    letters_of,
    one_rotation,
    one_rotation_config,
    pattern_of,
    types_of,
)
from rinsc.spec import ModelSpec

THETA = 2000000.0
INTERVAL = 4  # the layers from one without rotation to the next, where a config does not list them
LETTERS = {(True, FULL): "g", (True, SLIDING): "l", (False, FULL): "n", (False, SLIDING): "m"}


def _more(config: Config) -> dict[str, Any]:
    count = layer_count(config)
    interval = config.get("no_rope_layer_interval") or INTERVAL
    rotated = config.get("no_rope_layers")
    if rotated is None:
        rotated = [(index + 1) % interval != 0 for index in range(count)]
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    types = config.get("layer_types")
    if types is None:
        types = [FULL if window is None or turns else SLIDING for turns in rotated]
    keys = [(bool(turns), name) for turns, name in zip(rotated, types, strict=False)]
    if not len(rotated) == len(types) == count or any(key not in LETTERS for key in keys):
        message = f"'layer_types' and 'no_rope_layers' must say of {count} layers what each is"
        raise SpecError.of(checkpoint_problem("unsupported-value", message, "layer_types"))
    values = one_rotation(config, THETA) | head_width(config)
    values["settings"] |= pattern_of("".join(LETTERS[key] for key in keys), window)
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    window = window_of(spec)
    own = {} if spec.head_dim is None else {"head_dim": spec.head_size}
    return (
        one_rotation_config(spec)
        | own
        | {
            "no_rope_layers": [int(letter in "gl") for letter in letters_of(spec)],
            "layer_types": types_of(spec),
            "use_sliding_window": window is not None,
            "sliding_window": window,
        }
    )


SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    plain_kind=None,
    defaults={
        **{"rms_norm_eps": 1e-6, "tie_word_embeddings": True, "hidden_act": "silu"},
        **{"attention_bias": False, "mlp_bias": False},
    },
    ignored=frozenset((*TRAINING, "pretraining_tp", "max_window_layers")),
    read_elsewhere=LLAMA.read_elsewhere
    | {"no_rope_layers", "no_rope_layer_interval", "layer_types"}
    | {"use_sliding_window", "sliding_window"},
    more=_more,
    more_config=_more_config,
)
