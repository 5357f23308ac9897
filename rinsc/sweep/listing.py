"""Long lists, shortened for people."""

from __future__ import annotations

from collections.abc import Sequence


def listed(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """The texts in a row, the first ``most`` of them where there are more."""
    more = len(texts) - most
    return between.join(texts[:most]) + (f"{between}… and {more} more" if more > 0 else "")
