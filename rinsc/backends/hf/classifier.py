"""A compiled classifier of pictures as a model of transformers, and what makes its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.facts import cannot_run, wrong_value
from rinsc.backends.hf.starts import CheckedWeights, Recomputing, flag_made, make_missing
from rinsc.backends.torch.module import CompiledModule as Model
from rinsc.graph import Rounds, plain_rounds

# What the pipeline compares the name of a model's class with.
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.setdefault(
    RinscConfig.model_type, "RinscForImageClassification"
)


class RinscImageProcessor(BaseImageProcessor):
    """Pictures of any size and mode to ``pixel_values`` (batch, channels, height, width), as
    training had them: numbers from 0 to 1.

    Whole numbers are divided by 255; floats are taken as they are. Only a picture of another size
    is resized. Arrays have their channels first or last.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, size: Any = None, num_channels: int = 3, **named: Any) -> None:
        named.pop("auto_map", None)  # of a folder that brings its own code
        super().__init__(**named)
        self.size = dict(size or {})
        self.num_channels = num_channels

    def preprocess(self, images: Any, return_tensors: Any = None, **named: Any) -> BatchFeature:
        """``images`` is one picture or a list: of PIL, arrays, tensors, or names of files."""
        values = np.stack([self._values(picture) for picture in self._pictures(images)])
        return BatchFeature({"pixel_values": values}, tensor_type=return_tensors)

    def _pictures(self, images: Any) -> list[Any]:
        """One by one; an array of four axes is a batch."""
        if isinstance(images, str):
            return [self.fetch_images(images)]
        if isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4:
            return [picture for several in images for picture in self._pictures(several)]
        return [images]

    def _values(self, picture: Any) -> Any:
        """One picture as (channels, height, width)."""
        shape = self.num_channels, self.size["height"], self.size["width"]
        if hasattr(picture, "convert"):  # of PIL
            picture = picture.convert("L" if shape[0] == 1 else "RGB")
            picture = picture if picture.size == shape[:0:-1] else picture.resize(shape[:0:-1])
        array = np.asarray(picture)
        scale = 255 if np.issubdtype(array.dtype, np.integer) else 1
        array = (array / scale).astype(np.float32)
        array = array[None] if array.ndim == 2 else array
        if array.shape[0] not in (1, 3):
            array = array.transpose(2, 0, 1)
        if array.shape[0] == 3 and shape[0] == 1:  # as PIL weighs colours
            array = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), array, axes=1)[None]
        array = np.broadcast_to(array, (shape[0], *array.shape[1:]))
        if array.shape[1:] == shape[1:]:
            return array
        mode: Any = {"mode": "bilinear", "antialias": True, "align_corners": False}
        resized = nn.functional.interpolate(torch.tensor(array)[None], shape[1:], **mode)
        return resized[0].numpy()


class RinscForImageClassification(CheckedWeights, Recomputing, PreTrainedModel):  # type: ignore[no-untyped-call]
    """Pictures to the logits of their classes, over the emitted module ``model.model``.

    The config has ``image_size`` (height, width), ``num_channels`` and the labels' names.
    ``rounds`` is an argument of a forward pass.
    """

    config_class = RinscConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    config: Any  # a RinscConfig, with what it says of pictures
    model: Model

    def __init__(self, config: RinscConfig) -> None:
        super().__init__(config)
        self._side = _patch_side(config)
        if config.num_labels != config.vocab_size:  # other classes are to be learned
            config.vocab_size = config.num_labels
        self.model = config.new_plain_module()
        flag_made(self.model)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        rounds: Rounds = None,
        noise_seed: int | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Logits (batch, classes) of ``pixel_values`` (batch, channels, height, width).

        The loss is the mean over the pictures, or their sum over ``num_items_in_batch``.
        """
        if output_attentions or output_hidden_states:
            message = "a classifier gives its logits alone"
            hint = "leave output_attentions and output_hidden_states out"
            raise cannot_run("no-such-output", message, hint, "output_hidden_states")
        named: dict[str, Any] = {} if noise_seed is None else {"noise_seed": noise_seed}
        chosen = self.config.rounds if rounds is None else plain_rounds(rounds)
        logits = self.model(self._patches(pixel_values), rounds=chosen, **named)
        loss = None
        if labels is not None:
            count = len(labels) if num_items_in_batch is None else num_items_in_batch
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            make: Callable[[], Any] = getattr(self.model, "auxiliary_loss", lambda: 0.0)
            loss = losses / count + make() * (len(labels) / count)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        output = ImageClassifierOutput(loss=loss, logits=logits)
        return output if as_dict else output.to_tuple()

    @property
    def draws(self) -> Any:
        """Which step and seed training passes draw for; None where a model draws nothing."""
        return getattr(self.model, "draws", None)

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures cut into patches (batch, patches, side² · channels), row by row."""
        expected = (self.config.num_channels, *self.config.image_size)
        if pixels.shape[1:] != expected:
            message = f"pixel_values are {tuple(pixels.shape)}, not (batch, {expected})"
            message = message.replace(", (", ", ").replace("))", ")")
            hint = "make them with AutoImageProcessor.from_pretrained of the same folder"
            raise cannot_run("bad-picture", message, hint, "pixel_values")
        side = self._side
        batch, channels, height, width = pixels.shape
        cut = pixels.reshape(batch, channels, height // side, side, width // side, side)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side**2 * channels)

    def get_input_embeddings(self) -> nn.Module:
        """What each patch is multiplied with."""
        return self.model.get_submodule("embedding")

    def _init_weights(self, module: nn.Module) -> None:
        """What transformers asks of each module after loading whose weights no file had: as only
        the emitted module knows how they start, all are made at once."""
        make_missing(self.model, self.config.new_plain_module)


def _patch_side(config: Any) -> int:
    """The side of the patches that pictures are cut into; raises where they cannot be."""
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    numbers = [*size, channels] if isinstance(size, list | tuple) and len(size) == 2 else [0]
    if all(type(number) is int and number > 0 for number in numbers):
        side = math.isqrt(config.patch_width // numbers[2])
        if side**2 * numbers[2] == config.patch_width:
            rows, columns = numbers[0] / side, numbers[1] / side
            if rows * columns == int(rows) * int(columns) <= config.max_position_embeddings:
                return side
    message = f"pictures of {size} and {channels} channels cannot be cut into patches of "
    message += f"{config.patch_width} numbers, at most {config.max_position_embeddings}"
    hint = "image_size (height, width) and num_channels of the config say what they are"
    raise wrong_value("patch-mismatch", message, hint, "image_size")
