"""Streams of token ids from a model's logits: one prompt or many, behind a cache or without.

Needs numpy alone; each runtime brings the function from ids to logits.
"""

from rinsc.generation.request import (
    Prompt,
    Request,
    Settings,
    checked_request,
    continue_tokens,
    stream_ids,
    stream_tokens,
    window_moves,
)
from rinsc.generation.rows import RowLogits, cached_rows, whole_rows

__all__ = [
    "Prompt",
    "Request",
    "RowLogits",
    "Settings",
    "cached_rows",
    "checked_request",
    "continue_tokens",
    "stream_ids",
    "stream_tokens",
    "whole_rows",
    "window_moves",
]
