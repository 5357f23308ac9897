"""The class of a picture: cross-entropy of one label a picture, accuracy on held-out pictures.

A picture is cut into square patches, row by row: of a picture of 8 x 8 numbers and patches of 4
numbers come 16 patches (batch, 16, 4). Every fifth picture is held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.device import autocast, evaluating
from rinsc.backends.torch.module import recomputing_module
from rinsc.cost.memory import Checkpointing
from rinsc.data.batches import evenly_spaced
from rinsc.data.pictures import Array, Pictures, load_pictures
from rinsc.errors import SpecError, plural, setting
from rinsc.formats import TrainingPrecision
from rinsc.graph import Rounds
from rinsc.layers import model_input
from rinsc.objectives import OBJECTIVES, Observe, Part, Pieces, Request, Settings, wilson_interval
from rinsc.spec import ModelSpec

MOST_PATCHES = 64  # that a picture is cut into where the model does not say how
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class PictureSet:
    """Pictures as patches (count, patches, patch width), and their labels (count,)."""

    patches: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, count: int | None) -> PictureSet:
        return PictureSet(evenly_spaced(self.patches, count), evenly_spaced(self.labels, count))

    def part(self, count: int | None) -> Part:
        return "whole" if count is None or count >= len(self) else "sample"


@dataclass(frozen=True)
class ShuffledPictures:
    """Pictures in an order of its own each epoch, which seed and epoch alone decide."""

    pictures: PictureSet
    seed: int

    def __len__(self) -> int:
        return len(self.pictures)

    def window(self, index: int) -> tuple[Array, int]:
        epoch, position = divmod(index, len(self))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        chosen = int(order[position])
        return self.pictures.patches[chosen], int(self.pictures.labels[chosen])


@dataclass(frozen=True)
class Classified:
    """How many pictures were told right, and the summed loss."""

    nats: float
    correct: int
    pictures: int
    is_right: npt.NDArray[np.bool_] | None = None

    @property
    def pieces(self) -> Pieces | None:
        """Each picture, told right or not."""
        if self.is_right is None:
            return None
        every = np.ones(self.pictures, dtype=np.int64)
        return Pieces(self.is_right.astype(np.float64), every, every.astype(np.bool_))

    @property
    def accuracy(self) -> float:
        return self.correct / self.pictures

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % around the accuracy: what another draw of pictures may give.

        >>> low, high = Classified(0.0, 90, 100).interval
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
        """
        return wilson_interval(self.correct, self.pictures)

    @property
    def figures(self) -> Mapping[str, float]:
        low, high = self.interval
        loss = self.nats / self.pictures
        return {"accuracy": self.accuracy, "low": low, "high": high, "loss": loss}

    @property
    def extent(self) -> Mapping[str, int]:
        return {"pictures": self.pictures}


class Classifier(nn.Module):
    """The emitted module ``model`` with a loss, as the training loop takes it."""

    def __init__(self, model: CompiledModule) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        patches: torch.Tensor,
        labels: torch.Tensor,
        rounds: Rounds = None,
        noise_seed: int | None = None,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The loss is the mean over the pictures, or their sum over ``num_items_in_batch``."""
        named = {} if noise_seed is None else {"noise_seed": noise_seed}
        logits = self.model(patches, rounds=rounds, **named).float()
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / count
        loss = loss + self.model.auxiliary_loss() * (len(labels) / count)
        return {"loss": loss, "logits": logits}

    def set_checkpointing(self, how: Checkpointing) -> None:
        """Keep activations, or make those of each visit or round again in the backward pass."""
        self.model.checkpointing = how

    def save_pretrained(self, folder: Path) -> None:
        """The weights, under the names that a checkpoint has them."""
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")


def patch_side(spec: ModelSpec, pictures: Pictures) -> int:
    """The side of the patches that the model takes; raises SpecError where they do not fit."""
    _, height, width, channels = pictures.images.shape
    numbers = int(model_input(spec).shape[-1])
    side = math.isqrt(numbers // channels)
    if side < 1 or side * side * channels != numbers or height % side or width % side:
        message = f"pictures of {height} x {width} x {channels} cannot be cut into patches of "
        message += plural(numbers, "number")
        best = side_for(height, width)
        width = best * best * channels
        hint = f"give the model {setting(f'patch_width={width}', f'--patch-width {width}')}"
        raise SpecError("patch-mismatch", message, place="patch_width", hint=hint)
    return side


def side_for(height: int, width: int) -> int:
    """The smallest patch of more than one number that gives at most `MOST_PATCHES`.

    >>> side_for(8, 8), side_for(28, 28)
    (2, 4)
    """
    common = math.gcd(height, width)
    sides = [side for side in range(2, common + 1) if common % side == 0]
    fitting = (side for side in sides if height * width // side**2 <= MOST_PATCHES)
    return next(fitting, common)


def as_patches(images: Array, side: int) -> npt.NDArray[np.float32]:
    """Pictures (count, height, width, channels) as patches (count, patches, side² · channels)."""
    count, height, width, channels = images.shape
    cut = images.reshape(count, height // side, side, width // side, side, channels)
    rows = cut.transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(rows.reshape(count, -1, side * side * channels), dtype=np.float32)


class Classify:
    """The objective: pictures in, logits of each class out."""

    name = "classify"
    piece, too_few, noise = "picture", "too few pictures", "pictures"
    figures = OBJECTIVES["classify"].figures

    def dimensions(self, data: str) -> Mapping[str, Any]:
        pictures = load_pictures(data)
        _, height, width, channels = pictures.images.shape
        side = side_for(height, width)
        return {
            "kind": "vit",
            "vocab_size": pictures.classes,
            "patch_width": side * side * channels,
            "context": height * width // side**2,
        }

    def prepare(self, request: Request) -> str:
        load_pictures(request.data)
        return ""

    def open(self, request: Request, state: str) -> Pictures:
        return load_pictures(request.data)

    def save(self, state: str, folder: Path, spec: ModelSpec) -> None:
        """A picture needs nothing beside the model."""

    def check_data(self, spec: ModelSpec, data: Pictures, settings: Settings) -> None:
        side, (_, height, width, _) = patch_side(spec, data), data.images.shape
        patches = height * width // side**2
        if settings.sequence_length != patches:
            message = f"a picture has {patches} patches, and "
            message += f"sequence_length is {settings.sequence_length}"
            length = setting(f"sequence_length={patches}", f"--seq {patches}")
            hint = f"give {length}, and a context of at least that"
            raise SpecError("patch-mismatch", message, place="sequence_length", hint=hint)
        if data.classes > spec.vocab_size:
            message = f"the pictures have {data.classes} classes, the model {spec.vocab_size}"
            size = setting(f"vocab_size={data.classes}", f"--vocab-size {data.classes}")
            hint = f"give the model {size}"
            raise SpecError("class-mismatch", message, place="vocab_size", hint=hint)

    def module(self, spec: ModelSpec, device: torch.device) -> Classifier:
        return Classifier(recomputing_module(spec).to(device))

    def examples(self, data: Pictures, settings: Settings) -> ShuffledPictures:
        return ShuffledPictures(self._set(data, ~data.is_held_out, settings), settings.seed)

    def collate(self, examples: Sequence[tuple[Array, int]]) -> dict[str, torch.Tensor]:
        """Patches (batch, patches, patch width) and labels (batch,)."""
        return {
            "patches": torch.from_numpy(np.stack([patches for patches, _ in examples])),
            "labels": torch.tensor([label for _, label in examples]),
        }

    def targets(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.tensor(len(batch["labels"]))

    def held_out(self, data: Pictures, settings: Settings) -> PictureSet:
        return self._set(data, data.is_held_out, settings)

    def measure(
        self,
        model: nn.Module,
        held_out: PictureSet,
        *,
        rounds: Rounds,
        precision: TrainingPrecision,
        observe: Observe = lambda done, count: None,
    ) -> Classified:
        is_whole = isinstance(getattr(model, "module", model), Classifier)  # within DDP, too
        device = next(model.parameters()).device
        nats, is_right = 0.0, np.zeros(len(held_out), dtype=np.bool_)
        with evaluating(model), torch.no_grad(), autocast(device, precision):
            for start in range(0, len(held_out), EVALUATION_BATCH):
                chosen = slice(start, start + EVALUATION_BATCH)
                labels = torch.from_numpy(held_out.labels[chosen]).to(device)
                patches = torch.from_numpy(held_out.patches[chosen]).to(device)
                if is_whole:
                    logits = model(patches, labels, rounds=rounds)["logits"]
                else:
                    logits = model(patches, rounds=rounds).float()
                nats += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                is_right[chosen] = (logits.argmax(-1) == labels).numpy(force=True)
                observe(min(start + EVALUATION_BATCH, len(held_out)), len(held_out))
        return Classified(nats, int(is_right.sum()), len(held_out), is_right)

    def measured_on(self, examples: int, part: Part) -> str:
        """``all 359 held-out pictures``."""
        count = f"{examples:,} held-out pictures"
        return f"all {count}" if part == "whole" else f"a sample of {count}"

    def _set(self, data: Pictures, chosen: npt.NDArray[np.bool_], settings: Settings) -> PictureSet:
        _, height, width, _ = data.images.shape
        side = math.isqrt(height * width // settings.sequence_length)
        return PictureSet(as_patches(data.images[chosen], side), data.labels[chosen])


OBJECTIVE = Classify()
