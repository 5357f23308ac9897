"""Modules that continue sequences, over the weights of one that trains."""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import torch
from torch import nn

from rinsc.backends.torch.device import TableKeeper
from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.module import CompiledModule, emitted_class
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.errors import LoweringError
from rinsc.graph import BlockGraph, TowersGraph, verified
from rinsc.layers.cached import hosted_programs, looks_back_by_attention_alone
from rinsc.spec import ModelSpec

Checkpointing: TypeAlias = Literal["none", "visit", "round"]


class HostedModule(TableKeeper):
    """An instance of `hosted_class`: the emitted ``Model``, and what it was made from.

    ``module(input_ids, position_ids, mask=None, slots=None, rounds=None)`` maps token ids (batch,
    seq) at their positions (batch or 1, seq) to logits (batch, seq, vocab_size). ``mask`` (batch,
    1, seq, total) is true, or 0, where a token sees a key; without it attention is causal.
    ``slots`` keeps keys and values. ``inputs_embeds`` (batch, seq, width) stand in for rows of the
    embedding; the list ``visited`` gets the state before the first visit and after each one, the
    last as the head's matrix reads it; ``keep`` are the places in the sequence that logits are
    wanted of. With ``checkpointing`` by ``visit``, or by ``round`` of the outermost repeats,
    activations of each are made again in the backward pass of training; visits outside of repeats
    are no part of a round.
    """

    source: ClassVar[str]
    spec: ClassVar[ModelSpec]
    graph: ClassVar[BlockGraph]
    takes_noise_seed: ClassVar[bool]
    keeps_cache: ClassVar[bool]  # false where a layer looks back by more than attention
    checkpointing: Checkpointing
    draws: Any = None  # of a model that draws in training

    def auxiliary_loss(self) -> torch.Tensor | float:
        """What layers added to the loss in the last training pass; reading it ends it."""
        return 0.0

    def states(self, *inputs: Any, **named: Any) -> torch.Tensor:
        """What the head's matrix is multiplied with, (batch, seq, width); arguments as above but
        ``keep``."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Give every parameter its first value."""

    def reset_tables(self) -> None:
        """Make the tables that are computed, not trained."""


@lru_cache(maxsize=32)
def hosted_class(graph: BlockGraph) -> type[HostedModule]:
    """The emitted class, made once for a graph.

    Raises `SpecError` for a model that predicts no next token, and `GraphError` for a graph that
    nothing can run.
    """
    source = emit_source(verified(graph), hosted=True)
    origin = {
        "source": source,
        "spec": graph.spec,
        "graph": graph,
        "takes_noise_seed": takes_noise_seed(graph),
        "keeps_cache": looks_back_by_attention_alone(hosted_programs(graph.spec)),
    }
    return emitted_class("HostedModel", HostedModule, origin, hosted_class)


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
        cached = _cached_class(model.graph)()
    if dict(model.named_parameters()).keys() != dict(cached.named_parameters()).keys():
        message = "the parameters of the module are not those that it was made with"
        hint = "make the cached module before wrapping or changing it, or generate without a cache"
        raise LoweringError("changed-module", message, hint=hint)
    for name, module in cached.named_modules():
        # The very same tables, so that what is trained, frozen, moved or cast is so here as well.
        module._parameters = model.get_submodule(name)._parameters
        module._buffers = model.get_submodule(name)._buffers
    if model.draws is not None:
        cached.draws = copy(model.draws)  # which goes on by itself
    return cached.train(model.training)


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


Emitted = TypeVar("Emitted", CompiledModule, HostedModule)


def compile_blocks(model: Emitted) -> Emitted:
    """Compile every block of an emitted module in place, and return the module.

    The loop over rounds stays outside, so that rounds which change compile nothing new.
    """
    graph: BlockGraph | TowersGraph = model.graph
    owners = graph.owners() if isinstance(graph, TowersGraph) else dict.fromkeys(graph.blocks, "")
    for name, tower in owners.items():
        model.get_submodule(f"{tower}.{name}".lstrip(".")).compile()
    return model
