"""Caches of a model whose rounds may differ from pass to pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.facts import cannot_run
from rinsc.backends.hf.masks import has_documents
from rinsc.backends.torch.hosting import HostedModule as Model
from rinsc.graph import Rounds

OWN = ("rounds", "noise_seed")  # arguments of a pass that only models of ours have


class RoundsGenerationMixin(GenerationMixin):
    """Generation with caches that have a slot for each layer of each visit, at any rounds."""

    config: RinscConfig
    model: Model
    training: bool

    def _cache(
        self,
        given: Cache | None,
        use_cache: bool | None,
        rounds: Rounds,
        position_ids: torch.Tensor | None,
    ) -> Cache | None:
        """The cache that was given, else a new one where wanted; in training and in an export that
        must be said.

        It must also be said where rounds share slots: a cached pass then only approximates the
        whole one, token by token.
        A pass that makes its activations again would write every key twice, so that it has none;
        nor have packed documents, of which a cache could continue the last one alone.
        """
        checkpoints = self.model.checkpointing != "none"
        recomputes = self.training and checkpoints and torch.is_grad_enabled()
        if not self.config.keeps_cache or recomputes:
            if given is not None and given.get_seq_length() > 0:
                why = "activations are made again in the backward pass" if recomputes else ""
                message = "the cache that was given cannot be gone on with"
                message += f": {why or 'layers look back by a shift'}"
                hint = "turn gradient checkpointing off" if recomputes else "give whole sequences"
                raise cannot_run("no-cache", message, hint, "past_key_values")
            return None
        # In these a cache must be asked for.
        without = self.training or torch.compiler.is_exporting() or self.config.shares_slots
        wanted = self.config.use_cache and not without if use_cache is None else use_cache
        if given is not None or not wanted or has_documents(position_ids):
            return given
        return DynamicCache()  # which makes slots as they are written

    def _past_tokens(
        self,
        cache: Cache | None,
        new: int,
        rounds: Rounds,
        position_ids: torch.Tensor | None,
    ) -> int | torch.Tensor:
        """How many tokens are cached: of a static cache as a tensor, whose number nobody waits for.

        A cache of other rounds is refused, and so is what is beyond the context; packed documents
        may be longer than it together.
        """
        past = 0 if cache is None else cache.get_seq_length()
        if cache is not None:
            written = sum(getattr(layer, "is_initialized", False) for layer in cache.layers)
            slots = self.config.cache_slots(self.config.rounds_of(rounds))
            if written not in (0, slots):
                message = f"the cache has {written} slots in use, not {slots}"
                hint = "rounds cannot change within a sequence; start it anew with an empty cache"
                raise cannot_run("other-rounds", message, hint)
            grows = getattr(cache, "layer_class_to_replicate", None) is not None
            if not grows and len(cache.layers) < slots:
                message = f"the cache was made with {len(cache.layers)} slots, {slots} are needed"
                hint = "make it of model.config.at_rounds(rounds)"
                raise cannot_run("other-rounds", message, hint)
        if position_ids is not None and has_documents(position_ids):
            if torch.compiler.is_compiling():
                return past  # no program can wait for what positions hold
            self.config.require_sequence(int(position_ids.max()) + 1)
        elif not isinstance(past, torch.Tensor):
            self.config.require_sequence(past + new)
        return past

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """What a generation config says of our own arguments reaches every pass; those of a call
        to ``generate`` win."""
        given = {key: value for key, value in kwargs.items() if value is not None}
        kwargs = {key: value for key, value in kwargs.items() if key not in OWN} | given
        prepare: Callable[..., Any] = super()._prepare_generation_config  # type: ignore[misc]
        prepared, arguments = prepare(generation_config, **kwargs)
        for key in OWN:
            value = vars(prepared).pop(key, None)
            if value is not None:
                arguments.setdefault(key, value)
        return prepared, arguments

    def init_continuous_batching(self, *given: Any, **named: Any) -> Any:
        """Refused, also for ``generate_batch``: its paged attention is none of this model's."""
        message = "continuous batching needs paged attention, which this model does not have"
        hint = "call generate with the prompts as one batch, padded on the left"
        raise cannot_run("no-paged-attention", message, hint)

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """Caches are sized for the rounds that are asked; what is too long is refused at once."""
        self.config.require_sequence(max_cache_length)
        if not self.config.keeps_cache:
            if model_kwargs.get("inputs_embeds") is not None:
                message = "a model without a cache cannot generate from embeddings"
                hint = "give input_ids, or compute the logits of one token after the other"
                raise cannot_run("no-cache", message, hint, "inputs_embeds")
            generation_config.use_cache = False
        # A text is written at one number of rounds: nothing is drawn, whatever the mode.
        model_kwargs["rounds"] = self.config.rounds_of(model_kwargs.get("rounds"))
        if self.config.takes_noise_seed:
            model_kwargs["noise_seed"] = model_kwargs.get("noise_seed") or 0
        with self._config_at(model_kwargs["rounds"]):
            prepare: Callable[..., Any] = super()._prepare_cache_for_generation  # type: ignore[misc]
            sizes = (generation_mode, batch_size, max_cache_length)
            return prepare(generation_config, model_kwargs, *sizes)

    @contextmanager
    def _config_at(self, rounds: Rounds) -> Iterator[None]:
        config = self.config
        self.config = config.at_rounds(rounds)
        try:
            yield
        finally:
            self.config = config
