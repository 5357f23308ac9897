"""The model spec: a signature with dimensions, from Python or TOML."""

from rinsc.spec.model import ModelSpec
from rinsc.spec.reading import model_spec, spec_from_values, spec_to_toml, with_signature

__all__ = ["ModelSpec", "model_spec", "spec_from_values", "spec_to_toml", "with_signature"]
