"""Caches of transformers for a model whose rounds may differ: masks, slots, generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.masking_utils import create_causal_mask, find_packed_sequence_indices
from transformers.utils.import_utils import is_tracing

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.facts import cannot_run, wrong_value
from rinsc.backends.torch.decoding import HostedModule as Model
from rinsc.graph import Rounds


@dataclass
class _Repeat:
    """A repeat whose rounds share slots, while it runs."""

    first_slot: int
    keep: str
    round: int = -1


class CacheSlots:
    """Counts up through the cache while one pass runs.

    A layer that runs several times has as many slots, so its own index is of no use. Where the
    rounds of a repeat share slots (``kv=first``, ``kv=last``), each round sees what earlier passes
    kept and its own new tokens, and those of the first or the last round are kept.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.slot = 0
        self._written = 0  # slots of this pass that have been written
        self._repeats: list[_Repeat] = []

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (batch, kv_heads, total, head_dim) behind which the new ones stand."""
        slot, self.slot = self.slot, self.slot + 1
        if slot >= self._written:
            self._written = self.slot
            return self.cache.update(key, value, slot)
        return self._instead(key, value, slot)

    def one_by_one(
        self, position_ids: torch.Tensor, mask: torch.Tensor | None
    ) -> Iterator[tuple[slice, torch.Tensor | None]]:
        """Where each token of a pass is, and the keys it sees; slots are counted anew for each."""
        seq, device = position_ids.shape[1], position_ids.device
        is_static = self.cache.is_compileable  # its keys are all its room
        if mask is None and is_static:
            ends = self.cache.get_seq_length() + torch.arange(seq, device=device)
            room = torch.arange(self.cache.get_max_length(), device=device)
            mask = (room <= ends[:, None])[None, None]
        for index in range(seq):
            self.slot = self._written = 0
            one = slice(index, index + 1)
            visible = mask
            if mask is not None:
                keys = mask.shape[3] if is_static else mask.shape[3] - seq + index + 1
                visible = mask[:, :, one, :keys]
            yield one, visible

    def enter(self, keep: str) -> None:
        """A repeat starts whose rounds share slots."""
        self._repeats.append(_Repeat(self.slot, keep))

    def again(self) -> None:
        """Its next round starts."""
        repeat = self._repeats[-1]
        repeat.round += 1
        self.slot = repeat.first_slot

    def leave(self) -> None:
        """It is over."""
        self._repeats.pop()

    def _instead(
        self, key: torch.Tensor, value: torch.Tensor, slot: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New keys and values in the place of those that an earlier round of this pass wrote."""
        layer = self.cache.layers[slot]
        if type(layer) not in (DynamicLayer, StaticLayer) or self.cache.offloading:
            name = "an offloaded cache" if self.cache.offloading else type(layer).__name__
            message = f"rounds that share slots cannot be kept by {name}"
            hint = "take the dynamic or the static cache, or kv=own"
            raise cannot_run("no-cache", message, hint)
        slot_layer = cast(DynamicLayer | StaticLayer, layer)
        keys, values = cast(torch.Tensor, slot_layer.keys), cast(torch.Tensor, slot_layer.values)
        replaced = _replaced(slot_layer, keys, key), _replaced(slot_layer, values, value)
        if any(repeat.keep == "first" and repeat.round > 0 for repeat in self._repeats):
            return replaced
        if isinstance(slot_layer, StaticLayer):  # whose tensors must stay where they are
            return keys.copy_(replaced[0]), values.copy_(replaced[1])
        slot_layer.keys, slot_layer.values = replaced
        return replaced


def _replaced(
    layer: DynamicLayer | StaticLayer, cached: torch.Tensor, new: torch.Tensor
) -> torch.Tensor:
    """What is kept (batch, kv_heads, total, head_dim), its latest tokens those of ``new``."""
    seq = new.shape[2]
    if isinstance(layer, StaticLayer):
        positions = layer.cumulative_length - seq + torch.arange(seq, device=new.device)
        return cached.index_copy(2, positions, new)
    return torch.cat((cached[:, :, : cached.shape[2] - seq], new), dim=2)


def tokens_of(
    input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, width: int
) -> torch.Tensor:
    """What a pass is over: ids (batch, seq) or embeddings (batch, seq, width), one of the two."""
    if input_ids is None and inputs_embeds is None:
        hint = "give input_ids, or inputs_embeds in their place"
        raise wrong_value("bad-inputs", "there is nothing to run over", hint, "input_ids")
    if input_ids is not None and inputs_embeds is not None:
        message = "input_ids and inputs_embeds are given, and both say what the tokens are"
        raise wrong_value("bad-inputs", message, "leave one of them out", "inputs_embeds")
    if input_ids is not None:
        if input_ids.ndim != 2:
            message = f"input_ids have the shape {tuple(input_ids.shape)}, not (batch, seq)"
            hint = "add the batch: input_ids[None]"
            raise wrong_value("bad-inputs", message, hint, "input_ids")
        return input_ids
    embeds = cast(torch.Tensor, inputs_embeds)
    if embeds.ndim != 3 or embeds.shape[-1] != width:
        message = f"inputs_embeds have the shape {tuple(embeds.shape)}, not (batch, seq, {width})"
        hint = "make them as model.get_input_embeddings()(input_ids) does"
        raise wrong_value("bad-inputs", message, hint, "inputs_embeds")
    return embeds


def documents_of(
    position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """The number of each new token's document (batch, seq); None where every row is one document.

    A document starts where positions (batch or 1, seq) restart. Tokens that ``attention_mask``
    (batch, total) leaves out start none. What follows them goes on after the last that counts,
    whether or not its position counts those between, or after their own positions: ``generate``
    goes on so after a prompt that ends with padding.
    """
    documents = None if position_ids is None else find_packed_sequence_indices(position_ids)
    if documents is None or attention_mask is None or attention_mask.ndim != 2:
        return documents
    positions = cast(torch.Tensor, position_ids)
    counts = attention_mask[:, -positions.shape[1] :].bool()
    positions = positions.expand(counts.shape)
    index = torch.arange(counts.shape[1], device=counts.device).expand(counts.shape)
    latest = torch.where(counts, index, -1).cummax(dim=1).values
    before = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)
    ahead = positions - positions.gather(1, before.clamp(min=0))
    follows = (positions > 0) & (positions.diff(dim=1, prepend=positions[:, :1]) == 1)
    goes_on = (before < 0) | (ahead == 1) | (ahead == index - before) | follows
    starts = counts & ~goes_on
    documents = starts.cumsum(dim=1)
    return documents if is_tracing(documents) or starts.any() else None


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
    packed documents, which do not see each other, with padding or without; see `documents_of`.
    """
    if position_ids is None and attention_mask is None and cache is None:
        return None
    # Only the shape, the type and the device are read of it.
    state = torch.empty((*tokens.shape[:2], 0), device=tokens.device)
    make = cast(Callable[..., torch.Tensor], create_causal_mask)
    config = _of_booleans(config)
    padded = attention_mask is not None and attention_mask.ndim == 2
    documents = documents_of(position_ids, attention_mask) if padded and cache is None else None
    if documents is not None:
        together = documents[:, None, :, None] == documents[:, None, None, :]
        counts = cast(torch.Tensor, attention_mask).bool()[:, None, None, :]
        return together.tril() & counts
    return make(config, state, attention_mask, cache, position_ids=position_ids)


def _of_booleans(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config for which masks say yes or no, which is what the emitted attention takes."""
    if config._attn_implementation in (None, "sdpa"):
        return config
    copied = copy(config)
    copied._attn_implementation = "sdpa"
    return copied


OWN = ("rounds", "noise_seed")  # arguments of a pass that only models of ours have


class RoundsGenerationMixin(GenerationMixin):
    """Generation with caches that have a slot for each layer of each visit, at any rounds."""

    config: RinscConfig
    model: Model
    training: bool

    def _cache(
        self,
        cache: Cache | None,
        use_cache: bool | None,
        rounds: Rounds,
        position_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
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
            if cache is not None and cache.get_seq_length() > 0:
                why = "activations are made again in the backward pass" if recomputes else ""
                message = "the cache that was given cannot be gone on with"
                message += f": {why or 'layers look back by a shift'}"
                hint = "turn gradient checkpointing off" if recomputes else "give whole sequences"
                raise cannot_run("no-cache", message, hint, "past_key_values")
            return None
        # In these a cache must be asked for.
        without = self.training or torch.compiler.is_exporting() or self.config.shares_slots
        caches = self.config.use_cache and not without if use_cache is None else use_cache
        if cache is not None or not caches:
            return cache
        if documents_of(position_ids, attention_mask) is not None:
            return None
        return DynamicCache()  # which makes slots as they are written

    def _past_tokens(
        self,
        cache: Cache | None,
        new: int,
        rounds: Rounds,
        position_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
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
        if position_ids is not None and documents_of(position_ids, attention_mask) is not None:
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
        settings = {key: value for key, value in kwargs.items() if value is not None}
        kwargs = {key: value for key, value in kwargs.items() if key not in OWN} | settings
        prepare: Callable[..., Any] = super()._prepare_generation_config  # type: ignore[misc]
        prepared, arguments = prepare(generation_config, **kwargs)
        for key in OWN:
            value = vars(prepared).pop(key, None)
            if value is not None:
                arguments.setdefault(key, value)
        return prepared, arguments

    def init_continuous_batching(self, *positional: Any, **named: Any) -> Any:
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
