"""A module that continues sequences behind a cache, over the weights of one that trains."""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import nn

from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.module import CompiledModule, emitted_class
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.errors import LoweringError, Problem
from rinsc.graph import BlockGraph
from rinsc.spec import ModelSpec


class CachedModule(nn.Module):
    """What `cached_module` returns: the emitted ``Model``, and what it was made from."""

    source: ClassVar[str]
    spec: ClassVar[ModelSpec]
    graph: ClassVar[BlockGraph]
    takes_noise_seed: ClassVar[bool]
    draws: Any = None  # of a model that draws in training


def cached_module(model: CompiledModule) -> CachedModule:
    """The module that continues sequences, with the very parameters of ``model``.

    ``module(input_ids, past=None, attention_mask=None, rounds=None)`` maps new token ids (batch,
    seq) and the cache of those before them to logits (batch, seq, vocab_size) and a cache, to be
    given back with the next tokens. ``attention_mask`` (batch, past + seq) is 0 for padding, on
    either side. The cache has keys and values (batch, kv_heads, past, head_dim) of every layer of
    every visit, as ``kv=`` says: rounds cannot change within a sequence (of which the number of
    slots is checked). Raises `SpecError` for a model that predicts no next token, and
    `LoweringError` for a layer kind without a cache and for a module that has been wrapped.
    """
    with torch.device("meta"):  # its own weights are never made
        made = _cached_class(model.graph)()
    if dict(model.named_parameters()).keys() != dict(made.named_parameters()).keys():
        message = "the parameters of the module are not those that it was made with"
        hint = "make the cached module before wrapping or changing it, or generate without a cache"
        raise LoweringError(Problem("changed-module", message, hint=hint))
    for name, module in made.named_modules():
        # The very same tables, so that what is trained, frozen, moved or cast is so here as well.
        module._parameters = model.get_submodule(name)._parameters
        module._buffers = model.get_submodule(name)._buffers
    if model.draws is not None:
        made.draws = copy(model.draws)  # which goes on by itself
    return made.train(model.training)


@lru_cache(maxsize=32)
def _cached_class(graph: BlockGraph) -> type[CachedModule]:
    """The emitted class, made once for a graph."""
    source = emit_source(graph, cached=True)
    origin = {
        "source": source,
        "spec": graph.spec,
        "graph": graph,
        "takes_noise_seed": takes_noise_seed(graph),
    }
    return emitted_class("CachedModel", CachedModule, origin, _cached_class)
