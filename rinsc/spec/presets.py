"""Named dimensions. Layer counts split over 1, 2, 3, 4, 6 or 12 blocks wherever size allows."""

from __future__ import annotations

from collections.abc import Mapping

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
