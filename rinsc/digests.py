"""Short digests that name models."""

from __future__ import annotations

import hashlib

DIGITS = 16  # hexadecimal: 64 bits


def short_digest(text: str) -> str:
    """The first `DIGITS` hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:DIGITS]
