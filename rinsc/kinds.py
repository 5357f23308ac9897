"""The layer kinds that a spec may name, and where each is described. One line a kind."""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "llama": "rinsc.layers.llama",
    "gpt": "rinsc.layers.gpt",
}
