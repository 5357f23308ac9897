"""Hugging Face: a compiled model as a model of transformers, known to its Auto classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rinsc.backends.hf.adapters import merge_lora
from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.model import RinscForCausalLM, RinscModel
from rinsc.backends.torch.device import usable_device
from rinsc.errors import LoweringError
from rinsc.graph import BlockGraph, Rounds, build_graph, plain_rounds, require_graph
from rinsc.spec import ModelSpec
from rinsc.spec.model import spec_keys

if TYPE_CHECKING:
    from rinsc.backends.hf.drawn import RoundsCallback

AutoConfig.register(RinscConfig.model_type, RinscConfig, exist_ok=True)
AutoModel.register(RinscConfig, RinscModel, exist_ok=True)
AutoModelForCausalLM.register(RinscConfig, RinscForCausalLM, exist_ok=True)
# A folder with a tokenizer.json needs nothing else.
AutoTokenizer.register(  # type: ignore[no-untyped-call]
    RinscConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
)

__all__ = [
    "RinscConfig",
    "RinscForCausalLM",
    "RinscModel",
    "RoundsCallback",
    "causal_lm",
    "merge_lora",
]


def __getattr__(name: str) -> Any:
    """The callback, when it is first used: the Trainer's modules take half a second to import."""
    if name != "RoundsCallback":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from rinsc.backends.hf.drawn import RoundsCallback

    return RoundsCallback


def causal_lm(
    spec: ModelSpec | BlockGraph,
    *,
    rounds: Rounds = None,
    device: torch.device | str | None = None,
) -> RinscForCausalLM:
    """A model of a spec, freshly initialised: with equal seeds as `to_torch` makes it.

    Without ``device`` it is made where ``with torch.device(…)`` says.

    Raises `SpecError` for a spec that is no language model and `UsageError` for a device that
    PyTorch cannot use here.
    """
    graph = require_graph(spec)
    if graph != build_graph(graph.spec):
        message = "a graph that was unrolled or rewritten cannot be said in a config"
        hint = "give the spec, and the rounds when the model runs"
        raise LoweringError("rewritten-graph", message, hint=hint)
    config = RinscConfig(spec=spec_keys(graph.spec), rounds=plain_rounds(rounds))
    with usable_device(device):
        return RinscForCausalLM(config)
