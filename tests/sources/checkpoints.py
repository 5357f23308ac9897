"""Folders as transformers writes them, of small models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PretrainedConfig

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
