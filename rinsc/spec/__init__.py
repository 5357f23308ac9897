"""The model spec: a signature with dimensions, from Python or TOML."""

from rinsc.spec.model import ModelSpec
from rinsc.spec.reading import (
    model_spec,
    spec_from_values,
    spec_to_toml,
    towers_spec,
    with_signature,
    with_towers,
)
from rinsc.spec.towers import TowersSpec

__all__ = [
    "ModelSpec",
    "TowersSpec",
    "model_spec",
    "spec_from_values",
    "spec_to_toml",
    "towers_spec",
    "with_signature",
    "with_towers",
]
