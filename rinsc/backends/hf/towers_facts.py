"""What follows from the spec of a model of pictures and texts, and the same as source."""

from __future__ import annotations

from typing import Any, get_args

from rinsc.backends.hf.facts_source import ERRORS, SPELLING, literal
from rinsc.backends.torch import to_torch
from rinsc.backends.torch.decoding import Checkpointing
from rinsc.errors import CheckpointError
from rinsc.spec import TowersSpec, spec_to_toml
from rinsc.spec.reading import towers_from_values
from rinsc.storage.files import parse_toml

_SOURCE = '''

def new_towers(config: Any) -> Model:
    """The module of this file's spec, freshly initialised."""
    if config.spec not in (None, SPEC):
        raise ValueError("the config is of another model than this code; export both anew")
    return Model()
'''


def new_towers(config: Any) -> Any:
    """The module of a config's spec, freshly initialised; raises `CheckpointError`."""
    if not isinstance(config.spec, dict):
        message, hint = "the config has no spec", "make the model of a config that rinsc wrote"
        raise CheckpointError("no-spec", message, place="config.json: spec", hint=hint)
    return to_torch(towers_from_values(config.spec, "config.json: spec"))


def towers_keys(spec: TowersSpec) -> dict[str, Any]:
    """The spec as plain keys and values, as `towers_from_values` reads them."""
    return parse_toml(spec_to_toml(spec))


def towers_facts_source(spec: dict[str, Any]) -> str:
    """The source of `new_towers` for one spec."""
    ways = ", ".join(f'"{way}"' for way in get_args(Checkpointing))
    lines = [f"Checkpointing: TypeAlias = Literal[{ways}]", *literal("SPEC", spec)]
    return "\n".join([*lines, "", "", *SPELLING, ""]) + ERRORS + _SOURCE
