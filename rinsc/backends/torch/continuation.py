"""A module that continues sequences behind a cache, over the weights of one that trains."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import nn

from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.module import CompiledModule, load_source
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.graph import BlockGraph
from rinsc.spec import ModelSpec


class CachedModule(nn.Module):
    """What `cached_module` returns: the emitted ``Model``, and what it was made from."""

    source: ClassVar[str]
    spec: ClassVar[ModelSpec]
    graph: ClassVar[BlockGraph]
    takes_noise_seed: ClassVar[bool]


def cached_module(model: CompiledModule) -> CachedModule:
    """The module that continues sequences, with the very parameters of ``model``.

    ``module(input_ids, past=None, attention_mask=None, rounds=None)`` maps new token ids (batch,
    seq) and the cache of those before them to logits (batch, seq, vocab_size) and a cache, to be
    given back with the next tokens. ``attention_mask`` (batch, past + seq) is 0 for padding, on
    either side. The cache has keys and values (batch, kv_heads, past, head_dim) of every layer of
    every visit, as ``kv=`` says: rounds cannot change within a sequence. Raises `SpecError` for a
    model that predicts no next token, and `LoweringError` for a layer kind without a cache.
    """
    source = emit_source(model.graph, cached=True)
    origin = {
        "source": source,
        "spec": model.spec,
        "graph": model.graph,
        "takes_noise_seed": takes_noise_seed(model.graph),
    }
    emitted = load_source(source)["Model"]
    with torch.device("meta"):  # its own weights are never made
        made = cast(CachedModule, type("CachedModel", (emitted, CachedModule), origin)())
    made.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        made.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
    return made.train(model.training)
