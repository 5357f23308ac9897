"""Folders of models of pictures and texts, as training leaves them, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import rinsc
from rinsc.data.pairs.captions import train_caption_tokenizer
from rinsc.spec import spec_to_toml

CAPTIONS = [
    "A red circle!",
    "a blue square",
    "Green triangle, small",
    "the big yellow star's dance",
]
VOCABULARY, CONTEXT = 300, 16
TOWERS: dict[str, dict[str, Any]] = {
    "image": {
        "kind": "siglip_image",
        "layers": 2,
        "width": 24,
        "heads": 3,
        "mlp_width": 21,
        "settings": {"siglip_image": {"image_size": 12, "patch_size": 4}},
    },
    "text": {
        "kind": "siglip_text",
        "layers": 2,
        "width": 24,
        "heads": 3,
        "mlp_width": 21,
        "vocab_size": VOCABULARY,
        "context": CONTEXT,
    },
}


def paired_module(signature: str, towers: dict[str, dict[str, Any]] | None = None) -> Any:
    """A module whose every weight is random; an argument replaces dimensions of towers."""
    named = {name: own | (towers or {}).get(name, {}) for name, own in TOWERS.items()}
    torch.manual_seed(11)
    module: Any = rinsc.to_torch(rinsc.towers_spec(signature, towers=named)).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("logit"):
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return module


def paired_run(folder: Path, module: Any) -> Path:
    """What a run of this module leaves, with a tokenizer of captions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(spec_to_toml(module.spec))
    rinsc.save_weights(module, folder / "model.safetensors")
    train_caption_tokenizer(CAPTIONS * 9, VOCABULARY, CONTEXT).save_folder(folder)
    return folder


def inputs_of(module: Any, count: int = 3) -> dict[str, torch.Tensor]:
    """Random pictures and texts under the names of the towers."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(count, 3, 12, 12, generator=generator)
    return {"image": pixels, "text": torch.randint(VOCABULARY, (count + 1, CONTEXT))}


def save_pictures(folder: Path, count: int = 3, side: int = 12) -> list[Path]:
    """Pictures of noise."""
    rng = np.random.default_rng(7)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return paths
