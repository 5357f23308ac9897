"""The config of a compiled model: its spec, and the numbers that tools look for."""

from __future__ import annotations

from copy import copy
from typing import Any

from transformers import PreTrainedConfig

from rinsc.backends.hf.facts import FOREIGN_KEYS, ModelFacts, wrong_value
from rinsc.graph import Rounds, plain_rounds

KERNEL_KEYS = (
    *("attn_implementation", "_attn_implementation"),
    *("experts_implementation", "_experts_implementation"),
)


class RinscConfig(ModelFacts, PreTrainedConfig):  # type: ignore[no-untyped-call]
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
    rounds: Rounds = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for key in FOREIGN_KEYS:
            kwargs.pop(key, None)
        for key in KERNEL_KEYS:  # with a "/" in it, it is code that the hub would send
            if "/" in str(kwargs.get(key, "")):
                del kwargs[key]
        if self.spec is not None:
            self.spec = self.checked_spec(self.spec)
            kwargs |= self.dimensions()
            kwargs["num_hidden_layers"] = self.executed_layers(self.rounds_of())
            self.tie_word_embeddings = kwargs.pop("tie_word_embeddings")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "rounds":
            value = plain_rounds(value)
            if "num_hidden_layers" in vars(self):
                self.num_hidden_layers = self.executed_layers(self.resolved(value))
        if name == "vocab_size" and self.spec is not None and value != self.spec[name]:
            self.spec = self.checked_spec({**self.spec, name: value})
        if name == "tie_word_embeddings" and "num_hidden_layers" in vars(self):
            self._require_tie(value)
        super().__setattr__(name, value)  # type: ignore[no-untyped-call]

    def _require_tie(self, value: object) -> None:
        """A head of its own is weights that the spec has or has not."""
        if self.spec is not None and bool(value) is not self.spec["tied_embedding"]:
            message = f"the spec says tied_embedding={self.spec['tied_embedding']}"
            hint = "make the model of a spec that says otherwise"
            raise wrong_value("fixed-tie", message, hint, "tie_word_embeddings")

    def rounds_of(self, rounds: Rounds = None) -> dict[str, int]:
        """Rounds of every repeat: asked, else the config's, else written."""
        return self.resolved(self.rounds if rounds is None else rounds)

    def at_rounds(self, rounds: Rounds) -> RinscConfig:
        """A copy whose ``num_hidden_layers`` are the slots of a cache at these rounds."""
        copied = copy(self)
        copied.num_hidden_layers = self.cache_slots(self.rounds_of(rounds))
        return copied
