"""Folders as transformers writes them, of small models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PretrainedConfig, SiglipConfig, SiglipModel

DIMENSIONS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 45,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 67,
    "max_position_embeddings": 40,
}


def saved(folder: Path, config: PretrainedConfig) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The config and the tensors of a folder that transformers writes, and the model."""
    torch.manual_seed(3)
    auto: Any = AutoModelForCausalLM
    model = auto.from_config(config)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms too, so that a swapped pair would show
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    return written, load_file(folder / "model.safetensors"), model


VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 21,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 12,
    "patch_size": 4,
}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 19,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 37,
    "max_position_embeddings": 7,
    "projection_size": 24,
    "bos_token_id": None,
    "eos_token_id": None,
}


def siglip(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, seed: int = 5
) -> Any:
    """A SigLIP of random weights; an argument replaces single dimensions."""
    config = SiglipConfig(vision_config=VISION | (vision or {}), text_config=TEXT | (text or {}))
    torch.manual_seed(seed)
    model: Any = SiglipModel(config)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms and biases too
            scale = 1.0 if name.startswith("logit") else 0.4
            parameter.copy_(scale * torch.randn(parameter.shape))
    return model


def pairs_of(model: Any, count: int = 3) -> dict[str, torch.Tensor]:
    """Random pictures and texts that a SigLIP takes."""
    vision, text = model.config.vision_config, model.config.text_config
    side = vision.image_size
    return {
        "pixel_values": torch.randn(count, vision.num_channels, side, side),
        "input_ids": torch.randint(text.vocab_size, (count + 1, text.max_position_embeddings)),
    }
