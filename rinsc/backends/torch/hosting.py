"""A module whose caller gives positions, mask and cache: what larger libraries build upon."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias

import torch

from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.module import emitted_class
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.backends.torch.tables import TableKeeper
from rinsc.graph import BlockGraph, verified
from rinsc.layers.hosted import hosted_programs, looks_back_by_attention_alone
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

    def states(self, *given: Any, **named: Any) -> torch.Tensor:
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
