"""Hugging Face: a compiled model as a model of transformers, known to its Auto classes."""

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rinsc.backends.hf.adapters import merge_lora
from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.fresh import causal_lm
from rinsc.backends.hf.model import RinscForCausalLM

AutoConfig.register(RinscConfig.model_type, RinscConfig, exist_ok=True)
AutoModelForCausalLM.register(RinscConfig, RinscForCausalLM, exist_ok=True)
# A folder with a tokenizer.json needs nothing else.
AutoTokenizer.register(  # type: ignore[no-untyped-call]
    RinscConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
)

__all__ = ["RinscConfig", "RinscForCausalLM", "causal_lm", "merge_lora"]
