"""Hugging Face: a compiled model as a model of transformers, known to its Auto classes."""

from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rinsc.backends.hf.adapters import merge_lora
from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.fresh import causal_lm
from rinsc.backends.hf.model import RinscForCausalLM, RinscModel

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
