"""Hugging Face: a compiled model as a model of transformers, known to its Auto classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils.import_utils import is_vision_available

from rinsc.backends.hf.adapters import merge_lora
from rinsc.backends.hf.classifier import RinscForImageClassification, RinscImageProcessor
from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.model import RinscForCausalLM, RinscModel
from rinsc.backends.torch.device import usable_device
from rinsc.errors import LoweringError, SpecError
from rinsc.graph import BlockGraph, Rounds, build_graph, plain_rounds, require_graph
from rinsc.layers import model_input
from rinsc.layers.kind import require_pictures
from rinsc.spec import ModelSpec
from rinsc.spec.model import spec_keys

if TYPE_CHECKING:
    from rinsc.backends.hf.drawn import RoundsCallback

AutoConfig.register(RinscConfig.model_type, RinscConfig, exist_ok=True)
AutoModel.register(RinscConfig, RinscModel, exist_ok=True)
AutoModelForCausalLM.register(RinscConfig, RinscForCausalLM, exist_ok=True)
AutoModelForImageClassification.register(RinscConfig, RinscForImageClassification, exist_ok=True)
if is_vision_available():  # else transformers has no class of that name to register with
    AutoImageProcessor.register(
        RinscConfig, image_processor_classes={"pil": RinscImageProcessor}, exist_ok=True
    )
# A folder with a tokenizer.json needs nothing else.
AutoTokenizer.register(  # type: ignore[no-untyped-call]
    RinscConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
)

__all__ = [
    "RinscConfig",
    "RinscForCausalLM",
    "RinscForImageClassification",
    "RinscImageProcessor",
    "RinscModel",
    "RoundsCallback",
    "causal_lm",
    "image_classifier",
    "merge_lora",
    "picture_config",
]


def __getattr__(name: str) -> Any:
    """The callback, when it is first used: the Trainer's modules take half a second to import."""
    if name != "RoundsCallback":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from rinsc.backends.hf.drawn import RoundsCallback

    return RoundsCallback


def causal_lm(
    spec: ModelSpec | BlockGraph,
    *,
    rounds: Rounds = None,
    device: torch.device | str | None = None,
) -> RinscForCausalLM:
    """A model of a spec, freshly initialised: with equal seeds as `to_torch` makes it.

    Without ``device`` it is made where ``with torch.device(…)`` says.

    Raises `SpecError` for a spec that is no language model and `UsageError` for a device that
    PyTorch cannot use here.
    """
    graph = _own_graph(spec)
    config = RinscConfig(spec=spec_keys(graph.spec), rounds=plain_rounds(rounds))
    with usable_device(device):
        return RinscForCausalLM(config)


def image_classifier(
    spec: ModelSpec | BlockGraph,
    shape: Sequence[int] | None = None,
    *,
    labels: Sequence[str] | None = None,
    rounds: Rounds = None,
    device: torch.device | str | None = None,
) -> RinscForImageClassification:
    """A classifier of pictures of a spec that takes patches, freshly initialised.

    ``shape`` is (height, width, channels) of the pictures; without it they are squares of colours,
    or of one channel. ``labels`` are names of the classes.

    Raises `SpecError` for a spec that takes no patches, or no pictures of this shape.
    """
    config = picture_config(_own_graph(spec).spec, shape, labels=labels, rounds=rounds)
    with usable_device(device):
        return RinscForImageClassification(config)


def picture_config(
    spec: ModelSpec,
    shape: Sequence[int] | None = None,
    *,
    labels: Sequence[str] | None = None,
    rounds: Rounds = None,
) -> RinscConfig:
    """What `image_classifier` makes its model of, and raises."""
    require_pictures(spec)
    height, width, channels = map(int, _square(spec) if shape is None else shape)
    names = list(map(str, range(spec.vocab_size))) if labels is None else labels
    pictures: dict[str, Any] = {
        "image_size": [height, width],
        "num_channels": channels,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    return RinscConfig(spec=spec_keys(spec), rounds=plain_rounds(rounds), **pictures)


def _square(spec: ModelSpec) -> tuple[int, int, int]:
    """The squares that fill the context; raises SpecError where there are none."""
    numbers, rows = int(model_input(spec).shape[-1]), math.isqrt(spec.context)
    for channels in (3, 1):
        side = math.isqrt(numbers // channels)
        if side**2 * channels == numbers and rows**2 == spec.context:
            return side * rows, side * rows, channels
    message = f"{spec.context} patches of {numbers} numbers make no square picture"
    hint = "export a trained run, which says what its pictures are, or give their shape in Python"
    raise SpecError("patch-mismatch", message, place="patch_width", hint=hint)


def _own_graph(spec: ModelSpec | BlockGraph) -> BlockGraph:
    """The graph of a spec; raises LoweringError for one that no config can say."""
    graph = require_graph(spec)
    if graph != build_graph(graph.spec):
        message = "a graph that was unrolled or rewritten cannot be said in a config"
        hint = "give the spec, and the rounds when the model runs"
        raise LoweringError("rewritten-graph", message, hint=hint)
    return graph
