"""A compiled model as one of transformers: trained, generated with and saved by its tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rinsc.backends.hf.caching import (
    CacheSlots,
    RoundsGenerationMixin,
    tokens_of,
    visible_keys,
)
from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.facts import cannot_run, wrong_value
from rinsc.backends.hf.starts import (
    CheckedWeights,
    Recomputing,
    flag_made,
    is_made,
    layer_classes,
    make_missing,
)
from rinsc.backends.torch.decoding import HostedModule as Model
from rinsc.graph import Rounds, plain_rounds

Arranged = Callable[..., tuple[Cache | None, dict[str, Any]]]


class Backbone(nn.Module):
    """Token ids to the state that the head's matrix is multiplied with; a view, with no weights of
    its own.

    ``arranged`` makes the emitted module's arguments, and the cache, from those of transformers.
    """

    def __init__(self, model: Model, arranged: Arranged) -> None:
        super().__init__()
        self.model = model
        self._arranged = arranged
        self._tp_plan, self._pp_plan = vars(model)["_tp_plan"], None

    def forward(
        self, input_ids: torch.Tensor | None = None, *positional: Any, **named: Any
    ) -> BaseModelOutputWithPast:
        """Arguments are those of the whole model, without labels."""
        cache, arguments = self._arranged(input_ids, *positional, **named)
        state = self.model.states(**arguments)
        visited = arguments["visited"]
        return BaseModelOutputWithPast(
            last_hidden_state=state,
            past_key_values=cache,
            hidden_states=None if visited is None else tuple(visited),
        )


def _with_auxiliary(
    loss: torch.Tensor,
    model: nn.Module,
    labels: torch.Tensor | None,
    shift_labels: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None,
) -> torch.Tensor:
    """The loss and what layers add to it: whole, or as the targets' share of those of the step."""
    make: Callable[[], torch.Tensor | float] = getattr(model, "auxiliary_loss", lambda: 0.0)
    auxiliary = make()
    if not isinstance(auxiliary, torch.Tensor):
        return loss
    if num_items_in_batch is not None:
        targets = shift_labels if shift_labels is not None else labels[:, 1:]  # type: ignore[index]
        auxiliary = auxiliary * (targets != IGNORED).sum() / num_items_in_batch
    return loss + auxiliary.to(loss.dtype)


IGNORED = -100  # the label of what counts for nothing
# The Trainer's compute_loss reads this list: smoothed targets of these are one token ahead.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(RinscConfig.model_type, "RinscForCausalLM")


class RinscForCausalLM(CheckedWeights, Recomputing, RoundsGenerationMixin, PreTrainedModel):  # type: ignore[no-untyped-call]
    """Token ids to logits and a loss, over the emitted module ``model.model``.

    Blocks are stored once, whatever the number of visits, and so is a tied embedding: the head
    reads its table. ``rounds`` is an argument of a forward pass and of ``generate``: one number
    for all repeats, or by the repeat's name; it cannot change within a sequence that has a cache.
    """

    config_class = RinscConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True

    config: RinscConfig
    model: Model

    def __init__(self, config: RinscConfig) -> None:
        super().__init__(config)
        if self.generation_config is not None:  # else what is set there of our own is not saved
            self.generation_config._from_model_config = False
        self.model = config.new_module()
        self._embedding_width = cast(nn.Embedding, self.get_input_embeddings()).embedding_dim
        if config.tie_word_embeddings:
            vars(self.get_input_embeddings())["bias"] = None  # a head, to tools that ask for one
        flag_made(self.model)
        plans = {"_tp_plan": config.tp_plan(), "_fsdp_plan": config.fsdp_plan()}
        vars(self.model).update(plans)  # where transformers gathers those of a model's parts
        # A residual state that is added to must not change devices inside of a layer.
        self._no_split_modules = layer_classes(self.model, plans["_fsdp_plan"])
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rounds: Rounds = None,
        noise_seed: int | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (batch, seq or those kept, vocab_size) of token ids (batch, seq).

        In place of the ids, ``inputs_embeds`` (batch, seq, width) are rows as the embedding gives
        them. With ``output_hidden_states`` the output has the state before the first visit of a
        block and after each visit, the last one as the head's matrix reads it.

        ``attention_mask`` (batch, total) is 0 for padding. ``position_ids`` (batch or 1, seq) that
        restart within a row are packed documents, which do not see each other. The loss is that of
        ``labels`` (batch, seq), each token predicting the next one's, or of ``shift_labels``,
        which are shifted already; -100 counts for nothing, and ``num_items_in_batch`` divides the
        sum in place of the number of targets.
        """
        cache, arguments = self._arranged(
            *(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds),
            rounds=rounds,
            noise_seed=noise_seed,
            use_cache=use_cache,
            output_attentions=kwargs.pop("output_attentions", None),
            output_hidden_states=kwargs.pop("output_hidden_states", None),
            head_mask=kwargs.pop("head_mask", None),
        )
        logits = self.model(**arguments, keep=_positions_to_keep(logits_to_keep))
        # No parameter of its own: the Trainer would take it for a label that every batch has.
        shift_labels: torch.Tensor | None = kwargs.pop("shift_labels", None)
        loss = None
        if labels is not None or shift_labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                shift_labels=None if shift_labels is None else shift_labels.contiguous(),
                **kwargs,
            )
            loss = _with_auxiliary(loss, self.model, labels, shift_labels, num_items_in_batch)
        visited = arguments["visited"]
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=cache,
            hidden_states=None if visited is None else tuple(visited),
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _arranged(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        *,
        use_cache: bool | None = None,
        rounds: Rounds = None,
        noise_seed: int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        head_mask: torch.Tensor | None = None,
        **ignored: Any,
    ) -> tuple[Cache | None, dict[str, Any]]:
        """The cache, and what the emitted module is given."""
        tokens = tokens_of(input_ids, inputs_embeds, self._embedding_width)
        if past_key_values is None:  # a sequence that goes on keeps its rounds
            rounds, noise_seed = self._drawn(rounds, noise_seed, tokens.shape[0])
        seq = tokens.shape[1]
        cache = self._cache(past_key_values, use_cache, rounds, position_ids, attention_mask)
        past = self._past_tokens(cache, seq, rounds, position_ids, attention_mask)
        mask = visible_keys(self.config, tokens, attention_mask, position_ids, cache)
        self._check_lookback(mask)
        if position_ids is None:
            position_ids = (torch.arange(seq, device=tokens.device) + past)[None]
        if _either(output_attentions, self.config.output_attentions):
            message = "attention is one fused operation here, which keeps no weights to give out"
            hint = "leave output_attentions out; output_hidden_states has the state of each visit"
            raise cannot_run("no-such-output", message, hint, "output_attentions")
        if head_mask is not None:
            message = "attention is one fused operation here, which cannot leave out single heads"
            hint = "leave head_mask out"
            raise cannot_run("no-head-mask", message, hint, "head_mask")
        shows_states = _either(output_hidden_states, self.config.output_hidden_states)
        arguments: dict[str, Any] = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "mask": mask,
            "slots": None if cache is None else CacheSlots(cache),
            "rounds": self._run_rounds(rounds),
            "inputs_embeds": inputs_embeds,
            "visited": [] if shows_states else None,
        }
        if self.config.takes_noise_seed:
            arguments["noise_seed"] = noise_seed or 0
        return cache, arguments

    def save_pretrained(self, *positional: Any, **named: Any) -> None:
        """As transformers has it; our part of the generation config in Python's own numbers."""
        generation: Any = self.generation_config
        if getattr(generation, "rounds", None) is not None:
            generation.rounds = plain_rounds(generation.rounds)
        if getattr(generation, "noise_seed", None) is not None:
            generation.noise_seed = int(generation.noise_seed)
        super().save_pretrained(*positional, **named)

    @property
    def base_model(self) -> nn.Module:
        """The model up to its head, for tools that compute a loss of their own."""
        return Backbone(self.model, self._arranged)

    @property
    def draws(self) -> Any:
        """Which step and seed training passes draw for; None where a model draws nothing."""
        return getattr(self.model, "draws", None)

    def _drawn(
        self, rounds: Rounds, noise_seed: int | None, rows: int
    ) -> tuple[Rounds, int | None]:
        """In training, what neither the caller nor the config sets is drawn."""
        chosen = self.config.rounds if rounds is None else plain_rounds(rounds)
        if self.training and self.draws is not None and self.draws.lacks(chosen, noise_seed):
            drawn: tuple[Rounds, int | None] = self.draws.fill(chosen, noise_seed, rows)
            return drawn
        return rounds, noise_seed

    def _run_rounds(self, rounds: Rounds) -> Rounds:
        """What the emitted module is told; a model without a repeat is told nothing."""
        if torch.compiler.is_compiling():  # the emitted module looks at them itself
            return self.config.rounds if rounds is None else rounds
        return self.config.rounds_of(rounds) or None

    def _check_lookback(self, mask: torch.Tensor | None) -> None:
        if mask is not None and not self.config.keeps_cache:
            message = "layers that look back by a shift cannot leave out padding or other documents"
            hint = "give whole sequences without padding, one document each"
            raise cannot_run("no-mask", message, hint)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.model.get_submodule("embedding")

    def get_output_embeddings(self) -> nn.Module | None:
        """The head: the embedding itself where it is tied.

        No `nn.Linear` of the same weight, as peft looks for this module among those of the model.
        """
        return self.model.get_submodule("embedding" if self.config.tie_word_embeddings else "head")

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in the place of the model's."""
        self.model.set_submodule("embedding", value)
        if self.config.tie_word_embeddings:
            vars(value)["bias"] = None  # a head, to tools that ask for one

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another head in the place of the model's: where it is tied, another embedding."""
        if self.config.tie_word_embeddings:
            self.set_input_embeddings(new_embeddings)
        else:
            self.model.set_submodule("head", new_embeddings)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """The embedding, at another number of tokens; config and spec follow.

        New rows start as transformers makes them: near the mean of those there are, or without
        ``mean_resizing`` as those of a fresh model.
        """
        for name, number in (
            ("new_num_tokens", new_num_tokens),
            ("pad_to_multiple_of", pad_to_multiple_of),
        ):
            if number is not None and (isinstance(number, bool) or number < 1):
                message = f"{name} is {number!r:.40}; it must be a whole number from 1"
                raise wrong_value("bad-count", message, "give the size of the tokenizer", name)
        embedding: nn.Embedding = super().resize_token_embeddings(
            *(new_num_tokens, pad_to_multiple_of, mean_resizing)
        )
        self.config.adopt(self.model)
        return embedding

    def floating_point_ops(self, inputs: dict[str, Any], exclude_embeddings: bool = True) -> int:
        """FLOPs of a training step over ``inputs`` at the rounds that ran; every visit counts.

        By PyTorch's convention: a lookup is nothing, the head counts, recomputed activations do
        not. Of every parameter, also frozen ones.
        """
        batch, seq = inputs["input_ids"].shape
        rounds: Rounds = inputs.get("rounds")
        if rounds is None and self.training and self.draws is not None:
            rounds = self.draws.rounds or None
        return self.config.step_flops(batch, seq, self.config.rounds_of(rounds))

    def _init_weights(self, module: nn.Module) -> None:
        """What transformers asks of each module after loading: weights that no file had.

        Only the emitted module as a whole knows how its weights start. Tables that are computed
        come out of a load empty, and are made again.
        """
        if module is self.model:
            make_missing(self.model, self.config.new_module)
        elif isinstance(module, nn.Embedding | nn.Linear) and not is_made(module.weight):
            # A table or a head of another size, before it takes the place of the old one.
            nn.init.normal_(module.weight, std=self.config.initializer_range)


class RinscModel(RinscForCausalLM):  # type: ignore[no-untyped-call]
    """Token ids to states, for tools that extract features; the weights are those of the whole
    model, its head among them."""

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        rounds: Rounds = None,
        noise_seed: int | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """The state (batch, seq, width) that the head's matrix is multiplied with."""
        output: BaseModelOutputWithPast = self.base_model(
            *(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds),
            rounds=rounds,
            noise_seed=noise_seed,
            use_cache=use_cache,
            **kwargs,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


def _either(argument: bool | None, default: bool | None) -> bool:
    """An output that a pass asks for, else one that the config does."""
    return bool(default if argument is None else argument)


def _positions_to_keep(logits_to_keep: int | torch.Tensor) -> slice | torch.Tensor | None:
    """The places of a sequence: the last ones by their number, or by index; None for all."""
    if isinstance(logits_to_keep, torch.Tensor):
        return logits_to_keep
    return slice(-logits_to_keep, None) if logits_to_keep else None
