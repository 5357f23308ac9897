"""What the tests of the Hugging Face model share: pairs of the same model in two forms."""

from __future__ import annotations

from typing import Any

import torch
from transformers import logging

from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import CompiledModule
from rinsc.layers import layer_kind
from rinsc.spec import ModelSpec
from tests.kinds import KINDS
from tests.onnx.models import lively_model, small_spec

logging.disable_progress_bar()  # type: ignore[no-untyped-call]

CAUSAL = [kind for kind in KINDS if layer_kind(kind).causal]
CLOSE = 5e-5


def pair(spec: ModelSpec | str, seed: int = 0) -> tuple[Any, Any]:
    """A `RinscForCausalLM` and the plain module with the same lively weights; neither trains."""
    spec = small_spec(spec) if isinstance(spec, str) else spec
    plain = lively_model(spec, seed)
    model: Any = causal_lm(spec)
    model.eval()
    model.model.load_state_dict(plain.state_dict())
    return model, plain


def ids(spec: ModelSpec, batch: int, seq: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(spec.vocab_size, (batch, seq), generator=generator)


def greedy_by_hand(
    plain: CompiledModule, input_ids: torch.Tensor, new: int, **given: Any
) -> torch.Tensor:
    """The whole sequence again for every token."""
    with torch.no_grad():
        for _ in range(new):
            best = plain(input_ids, **given)[:, -1].argmax(-1, keepdim=True)
            input_ids = torch.cat((input_ids, best), dim=1)
    return input_ids
