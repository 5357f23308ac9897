"""Short digests that name models and files."""

from __future__ import annotations

import hashlib
from pathlib import Path

DIGITS = 16  # hexadecimal: 64 bits
SAMPLES, SAMPLE_BYTES = 64, 4096


def short_digest(text: str) -> str:
    """The first `DIGITS` hexadecimal digits of the SHA-256 of a text."""
    return text_digest(text)[:DIGITS]


def text_digest(text: str) -> str:
    """The whole SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_digest(path: Path) -> str:
    """The whole SHA-256 of a file; raises OSError for what is no regular file."""
    if not path.is_file():  # to open a pipe would wait
        raise OSError(None, "it is not a regular file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """A digest of a file's size and of samples from all over it, however large it is.

    It tells files apart that are not the same; of a few changed bytes it knows nothing.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode("ascii"))
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:DIGITS]
