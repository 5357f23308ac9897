"""Long things, shortened for people."""

from __future__ import annotations

from collections.abc import Sequence


def short_text(text: str, most: int) -> str:
    """The text, cut to ``most`` characters where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"


def short_list(names: Sequence[str], most: int) -> str:
    """The names in a row, the first ``most`` of them where there are more."""
    more = len(names) - most
    return " ".join(names[:most]) + (f" … and {more} more" if more > 0 else "")
