"""OLMo 3: OLMo 2 with a window in three layers of four, and other rotary positions in those."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.gemma2 import DEFAULT_WINDOW, every_other
from rinsc.sources.mistral import window_of
from rinsc.sources.olmo2 import OLMO2
from rinsc.sources.positions import (
    head_width,
    own_settings,
    two_rotations,
    two_rotations_config,
    types_of,
    windows,
)
from rinsc.sources.qwen2 import LETTERS
from rinsc.spec import ModelSpec

THETA = 500000.0
PERIOD = 4


def _more(config: Config) -> dict[str, Any]:
    values = two_rotations(config, THETA, THETA, "") | head_width(config)
    window = config.get("sliding_window", DEFAULT_WINDOW)
    own = {**config, "sliding_window": window}
    values["settings"] |= windows(own, every_other(config, PERIOD), LETTERS)
    return values


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    own = {} if spec.head_dim is None else {"head_dim": spec.head_size}
    return (
        two_rotations_config(spec)
        | own
        | {
            "layer_types": types_of(spec),
            "sliding_window": window_of(spec) or own_settings(spec).window,
        }
    )


OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    read_elsewhere=OLMO2.read_elsewhere | {"layer_types", "sliding_window"},
    more=_more,
    more_config=_more_config,
)
