"""Foreign checkpoints: their config as our spec, their tensors under our names, both ways.

A family is one file with one `Family`, and a line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from rinsc.errors import SpecError
from rinsc.sources.family import (
    Family,
    config_from_spec,
    executed_tensors,
    spec_from_config,
    tensor_names,
    tensors_by_our_names,
    tensors_by_their_names,
)
from rinsc.sources.gemma import GEMMA
from rinsc.sources.gemma2 import GEMMA2
from rinsc.sources.gemma3 import GEMMA3
from rinsc.sources.gpt2 import GPT2
from rinsc.sources.gpt_neox import GPT_NEOX
from rinsc.sources.llama import LLAMA
from rinsc.sources.mistral import MISTRAL
from rinsc.sources.nanbeige import NANBEIGE
from rinsc.sources.olmo2 import OLMO2
from rinsc.sources.olmo3 import OLMO3
from rinsc.sources.ouro import OURO
from rinsc.sources.phi3 import PHI3
from rinsc.sources.qwen2 import QWEN2
from rinsc.sources.qwen3 import QWEN3
from rinsc.sources.siglip import ALIKE, SIGLIP
from rinsc.sources.smollm3 import SMOLLM3
from rinsc.sources.stored import stacked
from rinsc.sources.towers import (
    TowersFamily,
    towers_config_from_graph,
    towers_names_from_graph,
    towers_spec_from_config,
    towers_tensors_by_our_names,
)

AnyFamily: TypeAlias = Family | TowersFamily
FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        *(LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, GEMMA, GEMMA2, GEMMA3, OLMO2, OLMO3),
        *(PHI3, GPT_NEOX, GPT2, OURO, NANBEIGE),
    )
}

TOWERS: Mapping[str, TowersFamily] = {SIGLIP.model_type: SIGLIP}

# Models that loop in a way that no signature says, or that predict no next token.
REFUSED: Mapping[str, str] = {
    "hrm_text": "it carries two states through its cycles, and blocks of ours have one",
    "albert": "it fills in masked tokens, and folders hold models that continue a text",
    "huginn_raven": "its loop starts from noise on every token, and turns neighbouring dimensions",
}

__all__ = [
    "FAMILIES",
    "SIGLIP",
    "TOWERS",
    "AnyFamily",
    "Family",
    "TowersFamily",
    "any_family_of",
    "config_from_spec",
    "executed_tensors",
    "family_of",
    "spec_from_config",
    "stacked",
    "tensor_names",
    "tensors_by_our_names",
    "tensors_by_their_names",
    "towers_config_from_graph",
    "towers_names_from_graph",
    "towers_spec_from_config",
    "towers_tensors_by_our_names",
]


def family_of(config: Mapping[str, object]) -> Family:
    """The family of a ``config.json``; raises `SpecError` for one that is not known, and for one
    of several towers."""
    family = any_family_of(config)
    if isinstance(family, TowersFamily):
        message = f"a {family.model_type} has several towers"
        hint = "read it with towers_spec_from_config and towers_tensors_by_our_names"
        raise SpecError("several-towers", message, place="config.json: model_type", hint=hint)
    return family


def any_family_of(config: Mapping[str, object]) -> AnyFamily:
    """The family of a ``config.json``, of one tower or several; raises `SpecError`."""
    model_type = config.get("model_type")
    known: Mapping[str, AnyFamily] = {**FAMILIES, **TOWERS}
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    message = f"models of the type {model_type!r:.60} cannot be read"
    hint = f"these are read: {', '.join(sorted(known))}"
    if isinstance(model_type, str) and model_type in REFUSED:
        message = f"{message}: {REFUSED[model_type]}"
    elif isinstance(model_type, str) and model_type in ALIKE:
        message = f"{message}: {ALIKE[model_type]}"
        hint = "name the folder of a SiglipModel, with both towers and a fixed resolution"
    raise SpecError("unknown-family", message, place="config.json: model_type", hint=hint)
