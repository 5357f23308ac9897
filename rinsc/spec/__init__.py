"""The model spec: a signature with dimensions, from Python or TOML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rinsc.spec.model import ModelSpec, with_signature
    from rinsc.spec.reading import model_spec, spec_from_values, spec_to_toml, towers_spec
    from rinsc.spec.towers import TowersSpec, with_towers

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


def __getattr__(name: str) -> Any:
    """Names on first use: commands that need the names of kinds alone load nothing else."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rinsc.spec import model, reading, towers

    module = next(module for module in (model, towers, reading) if hasattr(module, name))
    globals()[name] = getattr(module, name)
    return globals()[name]
