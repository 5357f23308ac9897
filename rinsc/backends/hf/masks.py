"""Which keys each token sees: padding, what stands in the cache, and packed documents."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import cast

import torch
from transformers import Cache, PreTrainedConfig
from transformers.masking_utils import create_causal_mask, find_packed_sequence_indices


def has_documents(position_ids: torch.Tensor | None) -> bool:
    """Whether positions (batch or 1, seq) restart within a row."""
    return position_ids is not None and find_packed_sequence_indices(position_ids) is not None


def visible_keys(
    config: PreTrainedConfig,
    tokens: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    cache: Cache | None,
) -> torch.Tensor | None:
    """The mask (batch, 1, seq, total) of new tokens (batch, seq, …); None where causal says it all.

    ``attention_mask`` (batch, total) is 0 for padding; one of four dimensions is taken as it is.
    ``position_ids`` (batch or 1, seq) that restart within a row, where nothing is cached, are
    packed documents, which do not see each other, with padding or without.
    """
    if position_ids is None and attention_mask is None and cache is None:
        return None
    # Only the shape, the type and the device are read of it.
    state = torch.empty((*tokens.shape[:2], 0), device=tokens.device)
    make = cast(Callable[..., torch.Tensor], create_causal_mask)
    config = _of_booleans(config)
    padded = attention_mask is not None and attention_mask.ndim == 2
    if padded and cache is None and has_documents(position_ids):
        documents = make(config, state, None, None, position_ids=position_ids)
        return documents & cast(torch.Tensor, attention_mask).bool()[:, None, None, :]
    return make(config, state, attention_mask, cache, position_ids=position_ids)


def _of_booleans(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config for which masks say yes or no, which is what the emitted attention takes."""
    if config._attn_implementation in (None, "sdpa"):
        return config
    copied = copy(config)
    copied._attn_implementation = "sdpa"
    return copied
