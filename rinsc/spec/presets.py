"""Named dimensions. Layer counts split over 1, 2, 3, 4, 6 or 12 blocks wherever size allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_PRESET = "tiny"  # of a signature without dimensions

PRESETS: Mapping[str, Mapping[str, int | bool]] = {
    "tiny": {
        "layers": 12,
        "width": 64,
        "heads": 4,
        "kv_heads": 2,
        "mlp_width": 176,
        "vocab_size": 512,
        "context": 128,
        "tied_embedding": True,
    },
    "small": {
        "layers": 8,
        "width": 512,
        "heads": 8,
        "mlp_width": 1408,
        "vocab_size": 8192,
        "context": 1024,
        "tied_embedding": True,
    },
    "300m": {
        "layers": 24,
        "width": 1024,
        "heads": 16,
        "kv_heads": 4,
        "mlp_width": 2816,
        "vocab_size": 32000,
        "context": 2048,
        "tied_embedding": True,
    },
    "600m": {
        "layers": 24,
        "width": 1536,
        "heads": 12,
        "kv_heads": 4,
        "mlp_width": 3584,
        "vocab_size": 32000,
        "context": 2048,
        "tied_embedding": True,
    },
    "1b": {
        "layers": 24,
        "width": 2048,
        "heads": 16,
        "kv_heads": 4,
        "mlp_width": 4608,
        "vocab_size": 32000,
        "context": 2048,
        "tied_embedding": True,
    },
}


def _siglip(
    layers: int,
    width: int,
    heads: int,
    mlp_width: int,
    picture: Mapping[str, int],
    vocab_size: int = 32000,
    context: int = 64,
) -> Mapping[str, Mapping[str, Any]]:
    """Both towers of SigLIP, by their kinds."""
    both = {"layers": layers, "width": width, "heads": heads, "mlp_width": mlp_width}
    return {
        "siglip_image": {**both, "kind": "siglip_image", "settings": {"siglip_image": picture}},
        "siglip_text": {
            **both,
            "kind": "siglip_text",
            "vocab_size": vocab_size,
            "context": context,
        },
    }


# Dimensions of two towers, by the kind of each; as published, but for the tiny one.
TOWER_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "siglip-tiny": _siglip(
        *(4, 128, 4, 384, {"image_size": 32, "patch_size": 4}), vocab_size=2048, context=16
    ),
    "siglip-b16": _siglip(12, 768, 12, 3072, {"image_size": 224, "patch_size": 16}),
    "siglip-l16": _siglip(24, 1024, 16, 4096, {"image_size": 256, "patch_size": 16}),
    "siglip-so400m": _siglip(27, 1152, 16, 4304, {"image_size": 224, "patch_size": 14}),
}
TOWER_KINDS: Mapping[str, str] = {"image": "siglip_image", "text": "siglip_text"}


def preset_of_kind(name: object, kind: object) -> Mapping[str, Any] | None:
    """What a preset of towers has for a tower of this kind; None for any other preset or kind."""
    if not isinstance(name, str) or not isinstance(kind, str):
        return None
    return TOWER_PRESETS.get(name, {}).get(kind)
