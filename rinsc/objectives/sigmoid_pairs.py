"""Pictures and their captions: SigLIP's loss of every pair of a batch, and retrieval.

A model has a tower of pictures and one of texts. Every caption of a batch is compared with every
picture of it; see `rinsc.objectives.pair_loss`. What is held out is measured by the loss of a pair
in groups of `GROUP`, and by how often the nearest text of a picture, or the nearest picture of a
text, is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from rinsc.backends.torch import CompiledTowers
from rinsc.backends.torch.device import autocast, evaluating
from rinsc.backends.torch.module import recomputing_towers
from rinsc.cost.memory import Checkpointing
from rinsc.data.pairs import (
    CaptionTokenizer,
    EncodedCaptions,
    HeldOutPairs,
    Pair,
    PicturePairs,
    TrainingPairs,
    caption_tokenizer_from_state,
    collate_pairs,
    learned_caption_tokenizer,
    load_caption_tokenizer,
    open_pairs,
)
from rinsc.errors import DataError, SpecError, plural, setting
from rinsc.formats import TrainingPrecision
from rinsc.graph import Rounds
from rinsc.objectives import OBJECTIVES, Observe, Part, Pieces, Request, Settings
from rinsc.objectives.pair_loss import pair_loss
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.spec.towers import paired_towers

GROUP = 64  # held-out pairs that are compared with each other in the loss
EVALUATION_BATCH = 64


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures with captions, and the tokenizer of the captions."""

    pairs: PicturePairs
    tokenizer: CaptionTokenizer

    @property
    def record(self) -> Mapping[str, object]:
        return {**self.pairs.record, "tokenizer": {"sha256": self.tokenizer.sha256}}


@dataclass(frozen=True)
class HeldOut:
    """`HeldOutPairs`, as what is measured."""

    pairs: HeldOutPairs

    def __len__(self) -> int:
        return len(self.pairs)

    def spread(self, count: int | None) -> HeldOut:
        return HeldOut(self.pairs.spread(count))

    def part(self, count: int | None) -> Part:
        return "whole" if count is None or count >= len(self) else "sample"


@dataclass(frozen=True)
class Retrieved:
    """The loss of each pair (pairs,), and how often pictures and texts found each other."""

    nats: npt.NDArray[np.float64]
    image_to_text: float
    text_to_image: float

    @property
    def figures(self) -> Mapping[str, float]:
        return {
            "nats_per_pair": float(self.nats.mean()),
            "image_to_text": self.image_to_text,
            "text_to_image": self.text_to_image,
        }

    @property
    def extent(self) -> Mapping[str, int]:
        return {"pairs": len(self.nats)}

    @property
    def pieces(self) -> Pieces | None:
        """The loss of each pair."""
        every = np.ones(len(self.nats), dtype=np.int64)
        return Pieces(self.nats, every, every.astype(np.bool_))


class PairModel(nn.Module):
    """The emitted module ``model`` with a loss, as the training loop takes it."""

    def __init__(self, model: CompiledTowers) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        rounds: Rounds = None,
        noise_seed: int | None = None,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Embeddings, and with ``labels`` the loss: a share of the mean over the pictures."""
        pair = self.model.spec.pairing
        assert pair is not None
        inputs: dict[str, Any] = {pair.image: pixel_values, pair.text: input_ids}
        inputs |= {} if noise_seed is None else {"noise_seed": noise_seed}
        found = self.model(**inputs, rounds=rounds, with_logits=False)
        outputs = {"image": found[pair.image], "text": found[pair.text]}
        if labels is not None:
            count = len(labels) if num_items_in_batch is None else num_items_in_batch
            scale: Any = self.model.logit_scale
            bias: Any = self.model.logit_bias
            loss = pair_loss(outputs["image"], outputs["text"], labels, scale, bias) / count
            loss = loss + self.model.auxiliary_loss() * (len(labels) / count)
            outputs["loss"] = loss
        return outputs

    def set_checkpointing(self, how: Checkpointing) -> None:
        """Keep activations, or make those of each visit or round again in the backward pass."""
        for name in self.model.graph.towers:
            getattr(self.model, name).checkpointing = how

    def save_pretrained(self, folder: Path) -> None:
        """The weights, under the names that a checkpoint has them; those of a block that towers
        share stand under each of them."""
        weights = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")


class SigmoidPairs:
    """The objective: pictures and texts in, embeddings out that are near where they belong."""

    name = "sigmoid_pairs"
    piece, too_few, noise = "pair", "too few pairs", "pairs"
    figures = OBJECTIVES["sigmoid_pairs"].figures

    def dimensions(self, data: str) -> Mapping[str, Any]:
        return {}

    def prepare(self, request: Request) -> str:
        pairs, (_, text) = _opened(request), paired_towers(request.spec)
        if request.tokenizer is not None:
            tokenizer = load_caption_tokenizer(request.tokenizer, text.context)
        else:
            tokenizer = learned_caption_tokenizer(pairs, text.vocab_size, text.context)
        if request.progress is not None:
            EncodedCaptions(pairs, pairs.train, tokenizer).tell_truncated(request.progress)
        return tokenizer.to_state()

    def open(self, request: Request, state: str) -> CaptionedPictures:
        return CaptionedPictures(_opened(request), caption_tokenizer_from_state(state))

    def save(self, state: str, folder: Path, spec: ModelSpec | TowersSpec) -> None:
        caption_tokenizer_from_state(state).save_folder(folder)

    def check_data(
        self, spec: ModelSpec | TowersSpec, data: CaptionedPictures, settings: Settings
    ) -> None:
        (_, text), tokenizer = paired_towers(spec), data.tokenizer
        if tokenizer.vocab_size > text.vocab_size:
            message = f"the tokenizer has {tokenizer.vocab_size} tokens, the text tower "
            message += f"{text.vocab_size}"
            count = tokenizer.vocab_size
            hint = f"give it {setting(f'vocab_size={count}', f'--vocab-size {count}')}"
            raise SpecError("vocabulary-mismatch", message, place="vocab_size", hint=hint)
        few = min(len(data.pairs.train), len(data.pairs.held_out))
        if few < 2:
            message = f"{plural(len(data.pairs), 'picture')} leave too few to compare"
            hint = "give more pictures, two or more to train on and two or more held out"
            raise DataError("too-few-pairs", message, place=data.pairs.name, hint=hint)

    def module(self, spec: ModelSpec | TowersSpec, device: torch.device) -> PairModel:
        assert isinstance(spec, TowersSpec)
        return PairModel(recomputing_towers(spec).to(device))

    def examples(self, data: CaptionedPictures, settings: Settings) -> TrainingPairs:
        return TrainingPairs(data.pairs, data.tokenizer, settings.seed)

    def collate(self, examples: Sequence[Pair]) -> dict[str, torch.Tensor]:
        """Pixels (batch, 3, side, side), ids (batch, context), and as ``labels`` (batch,) numbers
        that equal captions share."""
        batch = {name: torch.from_numpy(array) for name, array in collate_pairs(examples).items()}
        return {"labels" if name == "captions" else name: rows for name, rows in batch.items()}

    def targets(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.tensor(len(batch["labels"]))

    def held_out(self, data: CaptionedPictures, settings: Settings) -> HeldOut:
        return HeldOut(HeldOutPairs(data.pairs, data.tokenizer))

    def measure(
        self,
        model: nn.Module,
        held_out: HeldOut,
        *,
        rounds: Rounds,
        precision: TrainingPrecision,
        observe: Observe = lambda done, count: None,
    ) -> Retrieved:
        is_whole = isinstance(getattr(model, "module", model), PairModel)  # within DDP, too
        whole: Any = model if is_whole else PairModel(model)  # type: ignore[arg-type]
        device, count = next(model.parameters()).device, len(held_out)
        found: dict[str, list[torch.Tensor]] = {"image": [], "text": [], "labels": []}
        with evaluating(model), torch.no_grad(), autocast(device, precision):
            for start in range(0, count, EVALUATION_BATCH):
                end = min(start + EVALUATION_BATCH, count)
                pairs = [held_out.pairs.window(index) for index in range(start, end)]
                batch = {name: x.to(device) for name, x in self.collate(pairs).items()}
                labels = batch.pop("labels")
                outputs = whole(**batch, rounds=rounds)
                for name, rows in {**outputs, "labels": labels}.items():
                    found[name].append(rows)
                observe(end, count)
        image, text, labels = (torch.cat(found[name]) for name in ("image", "text", "labels"))
        emitted = getattr(whole, "module", whole).model
        scale, bias = (_whole(weight) for weight in (emitted.logit_scale, emitted.logit_bias))
        return retrieved(image.float(), text.float(), labels, scale, bias)

    def measured_on(self, examples: int, part: Part) -> str:
        """``all 359 held-out pairs``."""
        count = f"{examples:,} held-out pairs"
        return f"all {count}" if part == "whole" else f"a sample of {count}"


@torch.no_grad()
def retrieved(
    image: torch.Tensor,
    text: torch.Tensor,
    labels: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
) -> Retrieved:
    """What embeddings (pairs, width) come to; equal ``labels`` (pairs,) are equal captions.

    The loss of a pair is that of its picture with the texts of its group; groups are nearly equal.
    """
    image, text = (nn.functional.normalize(rows, dim=-1) for rows in (image, text))
    count = len(labels)
    groups = -(-count // GROUP)
    nats = np.zeros(count)
    for first in range(groups):
        rows = torch.arange(first, count, groups, device=image.device)
        logits = text[rows] @ image[rows].T * scale.exp() + bias
        belongs = labels[rows, None] == labels[rows][None]
        losses = nn.functional.softplus(torch.where(belongs, -logits, logits)).sum(0)
        nats[rows.cpu().numpy()] = losses.double().cpu().numpy()
    right = {"image": 0, "text": 0}
    for side, (own, others) in {"image": (image, text), "text": (text, image)}.items():
        for start in range(0, count, 1024):
            nearest = (own[start : start + 1024] @ others.T).argmax(-1)
            right[side] += int((labels[nearest] == labels[start : start + 1024]).sum())
    return Retrieved(nats, right["image"] / count, right["text"] / count)


def _whole(weight: torch.Tensor) -> torch.Tensor:
    """The numbers of a weight, gathered where processes have shares of it."""
    whole: Any = weight
    gathered: torch.Tensor = whole.full_tensor() if hasattr(whole, "full_tensor") else whole
    return gathered.detach().float()


def _opened(request: Request) -> PicturePairs:
    image, _ = paired_towers(request.spec)
    settings = image.settings_of(image.kind)
    if settings.channels != 3:
        message = f"pictures are read with 3 channels, and the tower takes {settings.channels}"
        raise SpecError("channel-mismatch", message, place="channels", hint="give it channels=3")
    return open_pairs(request.data, settings.image_size, progress=request.progress)


OBJECTIVE = SigmoidPairs()
