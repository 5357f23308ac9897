"""Foreign checkpoints: their config as our spec, their tensors under our names, both ways.

A family is one file with one `Family`, and a line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.errors import SpecError, did_you_mean
from rinsc.sources.family import (
    Family,
    config_from_spec,
    spec_from_config,
    tensor_names,
    tensors_by_our_names,
    tensors_by_their_names,
)
from rinsc.sources.llama import LLAMA
from rinsc.sources.qwen3 import QWEN3

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (LLAMA, QWEN3)}

__all__ = [
    "FAMILIES",
    "Family",
    "config_from_spec",
    "family_of",
    "spec_from_config",
    "tensor_names",
    "tensors_by_our_names",
    "tensors_by_their_names",
]


def family_of(config: Mapping[str, object]) -> Family:
    """The family of a ``config.json``; raises `SpecError` for one that is not known."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    message = f"models of the type {model_type!r:.60} cannot be read"
    hint = did_you_mean(str(model_type)[:60], FAMILIES)
    raise SpecError("unknown-family", message, place="config.json: model_type", hint=hint)
