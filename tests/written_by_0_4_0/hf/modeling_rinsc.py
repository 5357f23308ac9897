"""A recursive-depth language model for transformers, which rinsc compiled of:

    (A^2{adapter=scale})B

Load its folder with ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``;
``rounds``, an argument of a forward pass and of ``generate``, says how often repeats run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, cast, get_args

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.masking_utils import create_causal_mask, find_packed_sequence_indices
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

Rounds: TypeAlias = int | Mapping[str, int] | None
# Of each repeat, as written, and at most.
ROUNDS = {"A": 2}
MAX_ROUNDS = 1024


def resolve_rounds(rounds: Rounds) -> Mapping[str, int]:
    """Rounds of each repeat: those written, one number for all of them, or by name."""
    if rounds is None:
        return ROUNDS
    asked = {**ROUNDS, **rounds} if isinstance(rounds, Mapping) else dict.fromkeys(ROUNDS, rounds)
    whole = all(type(count) is int and 1 <= count <= MAX_ROUNDS for count in asked.values())
    if asked.keys() != ROUNDS.keys() or not whole:
        fit = f"do not fit the repeats {list(ROUNDS)}, from 1 to {MAX_ROUNDS} each"
        raise ValueError(f"rounds {rounds!r} {fit}")
    return asked


def rotary_angles(context: int, head_dim: int, theta: float) -> torch.Tensor:
    """Angle of each position and each pair of a head's dimensions: (context, head_dim / 2)."""
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return torch.outer(torch.arange(context, dtype=torch.float32), theta**-powers)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: x (batch, heads, seq, head_dim), cos and sin (seq, head_dim / 2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class Weight(nn.Module):
    """A trained tensor, read where it is used."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))


class Slots(Protocol):
    """Where keys and values (batch, heads, seq, head_dim) are kept, a pair for each attention."""

    def update(
        self, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...
    def enter(self, keep: str) -> None: ...
    def again(self) -> None: ...
    def leave(self) -> None: ...


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    slots: Slots | None,
    grouped: bool = False,
) -> torch.Tensor:
    """Attention behind what the slots hold; causal, or of what the mask lets through."""
    if slots is not None:
        key, value = slots.update(key, value)
    causal = mask is None and query.shape[2] > 1
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def recomputed(
    wanted: bool, function: Callable[..., torch.Tensor], *given: Any, **options: Any
) -> torch.Tensor:
    """What the function gives; its activations are made once more where that is wanted."""
    if wanted and torch.is_grad_enabled():
        # A visit is repeated by many: only this form of checkpoints counts each of them once.
        return checkpoint(function, *given, use_reentrant=False, **options)
    return function(*given, **options)


class LlamaLayer(nn.Module):
    """One layer: state to state."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(16, eps=1e-05)
        self.query = nn.Linear(16, 16, bias=False)
        self.key = nn.Linear(16, 8, bias=False)
        self.value = nn.Linear(16, 8, bias=False)
        self.output = nn.Linear(16, 16, bias=False)
        self.mlp_norm = nn.RMSNorm(16, eps=1e-05)
        self.gate = nn.Linear(16, 24, bias=False)
        self.up = nn.Linear(16, 24, bias=False)
        self.down = nn.Linear(24, 16, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        slots: Slots | None,
    ) -> torch.Tensor:
        # x (batch, seq, 16), cos (batch, seq, 4), sin (batch, seq, 4)
        h = self.attention_norm(x)  # (batch, seq, 16)
        query = self.query(h).unflatten(-1, (-1, 8)).transpose(1, 2)  # (batch, 2, seq, 8)
        key = self.key(h).unflatten(-1, (-1, 8)).transpose(1, 2)  # (batch, 1, seq, 8)
        query = rotate(query, cos.unsqueeze(1), sin.unsqueeze(1))  # (batch, 2, seq, 8)
        key = rotate(key, cos.unsqueeze(1), sin.unsqueeze(1))  # (batch, 1, seq, 8)
        value = self.value(h).unflatten(-1, (-1, 8)).transpose(1, 2)  # (batch, 1, seq, 8)
        # (batch, seq, 16)
        mixed = attend(query, key, value, mask, slots, grouped=True).transpose(1, 2).flatten(2)
        x = x + self.output(mixed)  # (batch, seq, 16)
        h = self.mlp_norm(x)  # (batch, seq, 16)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class LlamaBlock(nn.ModuleList):
    """Layers run one after the other; every visit uses the same weights."""

    def __init__(self, layers: int) -> None:
        super().__init__(LlamaLayer() for _ in range(layers))

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        slots: Slots | None,
    ) -> torch.Tensor:
        for layer in self:
            x = layer(x, cos, sin, mask, slots)
        return x


class Model(nn.Module):
    """Token ids (batch, seq ≤ 32) to logits (batch, seq, 288)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(288, 16)
        self.register_buffer("cos", rotary_angles(32, 8, 10000.0).cos(), persistent=False)
        self.register_buffer("sin", rotary_angles(32, 8, 10000.0).sin(), persistent=False)
        self.A = LlamaBlock(1)
        self.B = LlamaBlock(1)
        self.loop_A = nn.Module()
        self.loop_A.adapter = Weight(2, 16)
        self.final_norm = nn.RMSNorm(16, eps=1e-05)
        self.head = nn.Linear(16, 288, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal weights; residual ones scaled for 6 additions to the state."""
        residual = {"output.weight", "down.weight"}
        ones = {"attention_norm.weight", "mlp_norm.weight", "final_norm.weight"}
        zeros = {"loop_A.adapter.weight"}
        for path, parameter in self.named_parameters():
            name = path if path.startswith("loop_") else ".".join(path.split(".")[-2:])
            if name in residual:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(6))
            elif name in ones:
                nn.init.ones_(parameter)
            elif name in zeros:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.02)

    # "visit" or "round": activations of each are made again in the backward pass.
    checkpointing = "none"

    def reset_tables(self) -> None:
        """Make the tables that are computed, not trained."""
        self.register_buffer("cos", rotary_angles(32, 8, 10000.0).cos(), persistent=False)
        self.register_buffer("sin", rotary_angles(32, 8, 10000.0).sin(), persistent=False)

    def states(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        mask: torch.Tensor | None = None,
        slots: Slots | None = None,
        rounds: Rounds = None,
        keep: slice | torch.Tensor | None = None,
    ) -> torch.Tensor:
        counts = resolve_rounds(rounds)
        by_visit = self.training and slots is None and self.checkpointing == "visit"
        by_round = self.training and slots is None and self.checkpointing == "round"
        x = self.embedding(input_ids)  # (batch, seq, 16)
        cos = self.cos[position_ids].to(x.dtype)  # (batch, seq, 4)
        sin = self.sin[position_ids].to(x.dtype)  # (batch, seq, 4)

        def round_of_a(x: torch.Tensor, round_a: int) -> torch.Tensor:
            x = x + (x * self.loop_A.adapter.weight[min(round_a, 1)])
            return recomputed(by_visit, self.A, x, cos, sin, mask, slots)

        for round_a in range(counts["A"]):
            x = recomputed(by_round, round_of_a, x, round_a)
        x = recomputed(by_visit, self.B, x, cos, sin, mask, slots)
        if keep is not None:
            x = x[:, keep]
        return self.final_norm(x)  # (batch, seq, 16)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        mask: torch.Tensor | None = None,
        slots: Slots | None = None,
        rounds: Rounds = None,
        keep: slice | torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.states(input_ids, position_ids, mask, slots, rounds, keep)
        return self.head(x)  # (batch, seq, 288)


Checkpointing: TypeAlias = Literal["none", "visit", "round"]
FOREIGN_KEYS: tuple[str, ...] = ()
SPEC: dict[str, Any] = {
    "signature": "(A^2{adapter=scale})B",
    "layers": 2,
    "width": 16,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 24,
    "vocab_size": 288,
    "context": 32,
    "kind": "llama",
    "tied_embedding": False,
    "norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "embedding_width": 128,
    "patch_width": 768,
}
DIMENSIONS = {
    "vocab_size": 288,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
TP_PLAN = {
    "A.*.query": "colwise",
    "A.*.key": "colwise",
    "A.*.value": "colwise",
    "A.*.output": "rowwise",
    "A.*.gate": "colwise",
    "A.*.up": "colwise",
    "A.*.down": "rowwise",
    "B.*.query": "colwise",
    "B.*.key": "colwise",
    "B.*.value": "colwise",
    "B.*.output": "rowwise",
    "B.*.gate": "colwise",
    "B.*.up": "colwise",
    "B.*.down": "rowwise",
}
FSDP_PLAN = {"A.*": "free_full_weight", "B.*": "free_full_weight"}


def cannot_run(code: str, message: str, hint: str, place: str | None = None) -> ValueError:
    """The error for what a model cannot do."""
    return ValueError(f"{message}; {hint}")


def wrong_value(code: str, message: str, hint: str, place: str | None = None) -> ValueError:
    """The error for a value that nothing has."""
    return ValueError(f"{message}; {hint}")


class ModelFacts:
    """What follows from the spec of this model."""

    takes_noise_seed = False
    keeps_cache = True

    @staticmethod
    def checked_spec(spec: dict[str, Any]) -> dict[str, Any]:
        """The spec, which this file is the code of."""
        if spec != SPEC:
            raise ValueError("the config is of another model than this code; export both anew")
        return spec

    def dimensions(self) -> dict[str, Any]:
        """The spec in the words that tools know."""
        return dict(DIMENSIONS)

    def new_module(self) -> Model:
        """The module, freshly initialised."""
        return Model()

    def resolved(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of every repeat."""
        return dict(resolve_rounds(rounds))

    def executed_layers(self, counts: dict[str, int]) -> int:
        """Layers that a pass at these rounds runs."""
        layers_a = 1
        layers = 1
        layers += counts["A"] * layers_a
        return layers

    def cache_slots(self, counts: dict[str, int]) -> int:
        """Pairs of keys and values that a pass at these rounds keeps."""
        slots_a = 1
        slots = 1
        slots += counts["A"] * slots_a
        return slots

    def step_flops(self, batch: int, seq: int, counts: dict[str, int]) -> int:
        """FLOPs of a training step over (batch, seq) tokens: 2 for each multiply-add."""
        flops_a = 3840 * seq + 64 * seq**2
        flops = 3840 * seq + 64 * seq**2
        flops += counts["A"] * flops_a
        frame = 27648 * seq
        return batch * (frame + 3 * flops)

    def require_sequence(self, seq: int) -> None:
        """Refuse a sequence beyond the context."""
        if seq > 32:
            raise ValueError(f"{seq} tokens exceed the context of 32")

    def tp_plan(self) -> dict[str, str]:
        """How matrices are cut over devices."""
        return dict(TP_PLAN)

    def fsdp_plan(self) -> dict[str, str]:
        """What is gathered by itself where a model is sharded."""
        return dict(FSDP_PLAN)


class RinscConfig(ModelFacts, PreTrainedConfig):
    """What `RinscForCausalLM` is made from.

    ``spec`` has the keys of a model spec, the signature as text; ``rounds`` are those that the
    model runs where none are asked: of each repeat by name, one number for all, or None for those
    written. Everything else about the architecture follows from the two and cannot be set:
    ``num_hidden_layers`` counts the layers that run, every visit of them.
    """

    model_type = "rinsc"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    has_no_defaults_at_init = True

    spec: dict[str, Any] | None = None
    rounds: int | dict[str, int] | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for key in FOREIGN_KEYS:
            kwargs.pop(key, None)
        if self.spec is not None:
            self.spec = self.checked_spec(self.spec)
            kwargs |= self.dimensions()
            kwargs["num_hidden_layers"] = self.executed_layers(self.rounds_of())
            self.tie_word_embeddings = kwargs.pop("tie_word_embeddings")
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "rounds" and "num_hidden_layers" in vars(self):
            self.num_hidden_layers = self.executed_layers(self.resolved(value))
        super().__setattr__(name, value)

    def rounds_of(self, rounds: Rounds = None) -> dict[str, int]:
        """Rounds of every repeat: asked, else the config's, else written."""
        return self.resolved(self.rounds if rounds is None else rounds)

    def at_rounds(self, rounds: Rounds) -> RinscConfig:
        """A copy whose ``num_hidden_layers`` are the slots of a cache at these rounds."""
        copied = copy(self)
        copied.num_hidden_layers = self.cache_slots(self.rounds_of(rounds))
        return copied


def has_documents(position_ids: torch.Tensor | None) -> bool:
    """Whether positions (batch or 1, seq) restart within a row."""
    return position_ids is not None and find_packed_sequence_indices(position_ids) is not None


def visible_keys(
    config: PreTrainedConfig,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    cache: Cache | None,
) -> torch.Tensor | None:
    """The mask (batch, 1, seq, total) of new tokens (batch, seq); None where causal says it all.

    ``attention_mask`` (batch, total) is 0 for padding; one of four dimensions is taken as it is.
    ``position_ids`` (batch or 1, seq) that restart within a row, where nothing is cached, are
    packed documents, which do not see each other, with padding or without.
    """
    if position_ids is None and attention_mask is None and cache is None:
        return None
    # Only the shape, the type and the device are read of it.
    state = torch.empty((*input_ids.shape, 0), device=input_ids.device)
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
        kept = cast(DynamicLayer | StaticLayer, layer)
        keys, values = cast(torch.Tensor, kept.keys), cast(torch.Tensor, kept.values)
        made = _replaced(kept, keys, key), _replaced(kept, values, value)
        if any(each.keep == "first" and each.round > 0 for each in self._repeats):
            return made
        if isinstance(kept, StaticLayer):  # whose tensors must stay where they are
            return keys.copy_(made[0]), values.copy_(made[1])
        kept.keys, kept.values = made
        return made


def _replaced(
    layer: DynamicLayer | StaticLayer, kept: torch.Tensor, new: torch.Tensor
) -> torch.Tensor:
    """What is kept (batch, kv_heads, total, head_dim), its latest tokens those of ``new``."""
    seq = new.shape[2]
    if isinstance(layer, StaticLayer):
        places = layer.cumulative_length - seq + torch.arange(seq, device=new.device)
        return kept.index_copy(2, places, new)
    return torch.cat((kept[:, :, : kept.shape[2] - seq], new), dim=2)


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
        """The cache that was given, else a new one where wanted; in training that must be said.

        A pass that makes its activations again would write every key twice, so that it has none;
        nor have packed documents, of which a cache could continue the last one alone.
        """
        checkpoints = self.model.checkpointing != "none"
        recomputes = self.training and checkpoints and torch.is_grad_enabled()
        if not self.config.keeps_cache or recomputes:
            return None
        wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
        if given is not None or not wanted or has_documents(position_ids):
            return given
        return DynamicCache(config=self.config.at_rounds(rounds))

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
            self.config.require_sequence(int(position_ids.max()) + 1)
        elif not isinstance(past, torch.Tensor):
            self.config.require_sequence(past + new)
        return past

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
            generation_config.use_cache = False
        with self._config_at(model_kwargs.get("rounds")):
            prepare: Callable[..., Any] = super()._prepare_cache_for_generation
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


MADE = "_is_hf_initialized"  # the flag by which transformers knows a weight that has its value


def flag_made(module: Model) -> None:
    """The emitted module has made its weights, but on no device."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            setattr(parameter, MADE, True)


def make_missing(module: Model) -> None:
    """Give weights that a load has left empty their first values, and make the tables again."""
    device = next(module.parameters()).device
    with torch.device(device):
        module.reset_tables()
        parameters = module.named_parameters()
        missing = [name for name, parameter in parameters if not getattr(parameter, MADE, False)]
        fresh = dict(type(module)().named_parameters()) if missing else {}
    for name in missing:
        module.get_parameter(name).data.copy_(fresh[name])


def layer_classes(module: Model, stacks: dict[str, str]) -> list[str]:
    """Names of the classes of layers, which stand below the patterns ``A.*``."""
    found = (module.get_submodule(pattern.removesuffix(".*")) for pattern in stacks)
    return sorted({type(layer).__name__ for stack in found for layer in stack.children()})


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
        self, input_ids: torch.Tensor, *given: Any, **named: Any
    ) -> BaseModelOutputWithPast:
        """Arguments are those of the whole model, without labels."""
        cache, arguments = self._arranged(input_ids, *given, **named)
        state = self.model.states(**arguments)
        return BaseModelOutputWithPast(last_hidden_state=state, past_key_values=cache)


logger = logging.get_logger(__name__)
# The Trainer's compute_loss reads this list: smoothed targets of these are one token ahead.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(RinscConfig.model_type, "RinscForCausalLM")


class RinscForCausalLM(RoundsGenerationMixin, PreTrainedModel):
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
        self.model = config.new_module()
        if config.tie_word_embeddings:
            vars(self.get_input_embeddings())["bias"] = None  # a head, to tools that ask for one
        flag_made(self.model)
        plans = {"_tp_plan": config.tp_plan(), "_fsdp_plan": config.fsdp_plan()}
        vars(self.model).update(plans)  # where transformers gathers those of a model's parts
        # A residual state that is added to must not change devices inside of a layer.
        self._no_split_modules = layer_classes(self.model, plans["_fsdp_plan"])
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        rounds: Rounds = None,
        noise_seed: int = 0,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (batch, seq or those kept, vocab_size) of token ids (batch, seq).

        ``attention_mask`` (batch, total) is 0 for padding. ``position_ids`` (batch or 1, seq) that
        restart within a row are packed documents, which do not see each other. The loss is that of
        ``labels`` (batch, seq), each token predicting the next one's, or of ``shift_labels``,
        which are shifted already; -100 counts for nothing, and ``num_items_in_batch`` divides the
        sum in place of the number of targets.
        """
        for wish in ("output_hidden_states", "output_attentions"):
            if kwargs.get(wish, getattr(self.config, wish, False)):
                message = f"{wish} is asked for, and this model has none to give"
                raise cannot_run("no-such-output", message, "hook the blocks of model.model")
        cache, arguments = self._arranged(
            *(input_ids, attention_mask, position_ids, past_key_values),
            rounds=rounds,
            noise_seed=noise_seed,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )
        logits = self.model(**arguments)
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
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _arranged(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        rounds: Rounds = None,
        noise_seed: int = 0,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **ignored: Any,
    ) -> tuple[Cache | None, dict[str, Any]]:
        """The cache, and what the emitted module is given."""
        cache = self._cache(past_key_values, use_cache, rounds, position_ids)
        past = self._past_tokens(cache, input_ids.shape[1], rounds, position_ids)
        mask = visible_keys(self.config, input_ids, attention_mask, position_ids, cache)
        self._check_lookback(mask)
        if position_ids is None:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            position_ids = (places + past)[None]
        arguments: dict[str, Any] = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "mask": mask,
            "slots": None if cache is None else CacheSlots(cache),
            "rounds": self._run_rounds(rounds),
            "keep": _kept(logits_to_keep),
        }
        if self.config.takes_noise_seed:
            arguments["noise_seed"] = noise_seed
        return cache, arguments

    @property
    def base_model(self) -> nn.Module:
        """The model up to its head, for tools that compute a loss of their own."""
        return Backbone(self.model, self._arranged)

    def _run_rounds(self, rounds: Rounds) -> dict[str, int] | None:
        """What the emitted module is told; a model without a repeat is told nothing."""
        return self.config.rounds_of(rounds) or None

    def _check_lookback(self, mask: torch.Tensor | None) -> None:
        if mask is not None and not self.config.keeps_cache:
            message = "layers that look back by a shift cannot leave out padding or other documents"
            hint = "give whole sequences without padding, one document each"
            raise cannot_run("no-mask", message, hint)

    def set_checkpointing(self, how: Checkpointing) -> None:
        """Keep activations in training (``none``), or make those of each ``visit`` or ``round``
        again in the backward pass."""
        if how not in get_args(Checkpointing):
            message = f"checkpointing is {how!r:.40}; it must be one of {get_args(Checkpointing)}"
            hint = "'visit' keeps the state between visits, 'round' that between rounds"
            raise wrong_value("bad-checkpointing", message, hint, "checkpointing")
        self.model.checkpointing = how

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.model.checkpointing != "none"

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] | None = None,
        every_n_layers: int = 1,
    ) -> None:
        """What ``gradient_checkpointing_enable`` comes to: by visit, unless by round was chosen.

        Checkpoints are never reentrant, whatever is asked: that form counts the gradients of a
        block with several visits wrongly where they are reduced over processes.
        """
        asked = getattr(gradient_checkpointing_func, "keywords", {})
        if asked.get("use_reentrant"):
            logger.warning_once("use_reentrant=True is ignored: a block may have several visits")
        now = self.model.checkpointing
        self.model.checkpointing = (now if now != "none" else "visit") if enable else "none"

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.model.get_submodule("embedding")

    def get_output_embeddings(self) -> nn.Module | None:
        """The head: the embedding itself where it is tied."""
        return self.model.get_submodule("embedding" if self.config.tie_word_embeddings else "head")

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *given: Any, **named: Any
    ) -> nn.Embedding:
        """The embedding, where its size is right; the vocabulary is part of the model."""
        if new_num_tokens in (None, self.config.vocab_size):
            return cast(nn.Embedding, self.get_input_embeddings())
        message = f"the vocabulary has {self.config.vocab_size} tokens and cannot be resized"
        message += f" to {new_num_tokens}"
        hint = "compile the spec with another vocab_size, as the embedding belongs to the spec"
        raise cannot_run("fixed-vocabulary", message, hint, "vocab_size")

    def floating_point_ops(self, inputs: dict[str, Any], exclude_embeddings: bool = True) -> int:
        """FLOPs of a training step over ``inputs`` at the rounds that ran; every visit counts.

        By PyTorch's convention: a lookup is nothing, the head counts, recomputed activations do
        not. Of every parameter, also frozen ones.
        """
        batch, seq = inputs["input_ids"].shape
        return self.config.step_flops(batch, seq, self.config.rounds_of(inputs.get("rounds")))

    def _init_weights(self, module: nn.Module) -> None:
        """What transformers asks of each module after loading: weights that no file had.

        Only the emitted module as a whole knows how its weights start. Tables that are computed
        come out of a load empty, and are made again.
        """
        if module is self.model:
            make_missing(self.model)


def _kept(logits_to_keep: int | torch.Tensor) -> slice | torch.Tensor | None:
    """The places of a sequence: the last ones by their number, or by index; None for all."""
    if isinstance(logits_to_keep, torch.Tensor):
        return logits_to_keep
    return slice(-logits_to_keep, None) if logits_to_keep else None
