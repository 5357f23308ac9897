"""A compiled model of pictures and texts as a model of transformers, as ``SiglipModel`` is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from rinsc.backends.hf.facts import cannot_run
from rinsc.backends.hf.starts import CheckedWeights, flag_made, make_missing
from rinsc.backends.hf.towers_facts import new_towers
from rinsc.graph import Rounds, plain_rounds


class RinscSiglipConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What `RinscSiglipModel` is made from.

    ``spec`` has the keys of a spec of towers, and ``rounds`` are those that run where none are
    asked: by name, as ``image.A``, one number for all, or None for those written. The rest says
    what the inputs are. The name of the type holds "siglip", by which pipelines know the padding.
    """

    model_type = "rinsc_siglip"
    has_no_defaults_at_init = True

    spec: dict[str, Any] | None = None
    rounds: Rounds = None
    image_tower: str = "image"
    text_tower: str = "text"
    image_size: int = 224
    num_channels: int = 3
    context: int = 64
    vocab_size: int = 32000
    projection_dim: int = 768
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, plain_rounds(value) if name == "rounds" else value)  # type: ignore[no-untyped-call]


@dataclass
class RinscSiglipOutput(ModelOutput):
    """What ``SiglipOutput`` of transformers has."""

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None


class RinscSiglipModel(CheckedWeights, PreTrainedModel):  # type: ignore[no-untyped-call]
    """Pictures and texts to the logits of every pair, over the emitted module ``model.model``.

    ``rounds`` is an argument of every pass: a number, or numbers by name, as ``{"image.A": 2}``.
    """

    config_class = RinscSiglipConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012
    _supports_sdpa = True

    config: Any  # a RinscSiglipConfig
    model: Any  # the emitted module

    def __init__(self, config: RinscSiglipConfig) -> None:
        super().__init__(config)
        self.model = new_towers(config)
        store_shared_once(self.model)
        flag_made(self.model)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_loss: bool | None = None,
        rounds: Rounds = None,
        noise_seed: int | None = None,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> RinscSiglipOutput | tuple[Any, ...]:
        """Logits (images, texts), and normalised embeddings.

        ``input_ids`` are filled up to the context, as in training. There is no mask.
        """
        if input_ids is None or pixel_values is None:
            message = "a pass needs input_ids and pixel_values"
            hint = "get_text_features and get_image_features take one of them"
            raise cannot_run("no-input", message, hint)
        image = self._pooled(self.config.image_tower, pixel_values, rounds, noise_seed)
        text = self._pooled(self.config.text_tower, self._filled(input_ids), rounds, noise_seed)
        logits = self.model.logits(image, text)
        loss = None
        if return_loss:
            pairs = 2.0 * torch.eye(len(text), len(image), device=logits.device) - 1.0
            loss = -nn.functional.logsigmoid(pairs * logits).sum(dim=-1).mean()
        output = RinscSiglipOutput(
            loss=loss,
            logits_per_image=logits.t(),
            logits_per_text=logits,
            text_embeds=nn.functional.normalize(text, dim=-1),
            image_embeds=nn.functional.normalize(image, dim=-1),
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def get_image_features(
        self, pixel_values: torch.Tensor, rounds: Rounds = None, **ignored: Any
    ) -> BaseModelOutputWithPooling:
        """``pooler_output`` are the embeddings (images, width), not normalised."""
        pooled = self._pooled(self.config.image_tower, pixel_values, rounds)
        return BaseModelOutputWithPooling(pooler_output=pooled)

    def get_text_features(
        self, input_ids: torch.Tensor, rounds: Rounds = None, **ignored: Any
    ) -> BaseModelOutputWithPooling:
        """``pooler_output`` are the embeddings (texts, width), not normalised."""
        pooled = self._pooled(self.config.text_tower, self._filled(input_ids), rounds)
        return BaseModelOutputWithPooling(pooler_output=pooled)

    def get_input_embeddings(self) -> nn.Module:
        """The table of tokens."""
        table: nn.Module = getattr(self.model, self.config.text_tower).embedding
        return table

    def _pooled(
        self, tower: str, inputs: torch.Tensor, rounds: Rounds, noise_seed: int | None = None
    ) -> torch.Tensor:
        chosen = self.config.rounds if rounds is None else plain_rounds(rounds)
        named: dict[str, Any] = {} if noise_seed is None else {"noise_seed": noise_seed}
        outputs = self.model(**{tower: inputs}, rounds=chosen, **named)
        pooled: torch.Tensor = outputs[tower]
        return pooled

    def _filled(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (texts, context): filled up on the right, and without padding beyond it."""
        context, padding = self.config.context, self.config.pad_token_id
        if ids.shape[-1] > context:
            if not bool((ids[:, context:] == padding).all()):
                message = f"{ids.shape[-1]} tokens exceed the context of {context}"
                hint = f"cut them: max_length={context}, truncation=True"
                raise cannot_run("context-exceeded", message, hint, "input_ids")
            return ids[:, :context]
        return nn.functional.pad(ids, (0, context - ids.shape[-1]), value=padding)

    def _init_weights(self, module: nn.Module) -> None:
        """What transformers asks of each module after loading whose weights no file had: as only
        the emitted module knows how they start, all are made at once."""
        make_missing(self.model, lambda: new_towers(self.config))


def store_shared_once(module: nn.Module) -> None:
    """Let the second tower that has a block use it without owning it: names are once in a file."""
    owned: set[nn.Module] = set()
    for tower in module.children():
        for name, block in list(tower.named_children()):
            if block in owned:
                del tower._modules[name]
                object.__setattr__(tower, name, block)
            owned.add(block)
