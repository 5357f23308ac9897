"""Long things, shortened for people."""

from __future__ import annotations


def short_text(text: str, most: int) -> str:
    """The text, cut to ``most`` characters where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"
