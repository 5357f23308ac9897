"""What a signature means, worked out on its text alone: nothing here uses the compiler's tree."""

from __future__ import annotations

import re

from tests.strategies import degree_of, letter_sizes

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"


def word(text: str) -> list[str]:
    """The letters that a signature without options visits, by rewriting its text; no degree."""
    text = re.sub(r"\s|\[\d+\]|@\d+", "", text)
    text = re.sub(f"([{_SUPERSCRIPTS}]+)", r"^\1", text).replace("^{", "^").replace("}", "")
    text = text.translate(str.maketrans(_SUPERSCRIPTS, "0123456789"))
    text = re.sub(r"([A-Z]\d*)", r"(\1 )", text)
    while "(" in text:
        text = re.sub(
            r"\(([^()]*)\)(?:\^(\d+))?", lambda found: found[1] * int(found[2] or 1), text
        )
    return text.split()


def visits(text: str) -> list[str]:
    """The parts that are visited, each named by its path, degree included."""
    pattern = word(text)
    paths = [[letter] for letter in pattern]
    for _ in range(degree_of(text) - 1):
        paths = [[*path, letter] for path in paths for letter in pattern]
    return [path[0] + "".join(path[1:]).lower() for path in paths]


def schedule(text: str, layers: int) -> list[int] | None:
    """The physical layers that are run, numbered by first use; None when they do not split."""
    sizes, degree = letter_sizes(text), degree_of(text)
    left = layers - sum(size or 0 for size in sizes.values())
    unsized = [letter for letter, size in sizes.items() if size is None]
    parts = len(sizes) ** (degree - 1)
    share, rest = divmod(left, len(unsized)) if unsized else (1, left)
    if rest or share < 1:
        return None
    schedule: list[tuple[str, int]] = []
    for part in visits(text):
        letter = next(name for name in sorted(sizes, reverse=True) if part.startswith(name))
        size, odd = divmod(sizes[letter] or share, parts)
        if odd:
            return None
        schedule += [(part, layer) for layer in range(size)]
    numbers: dict[tuple[str, int], int] = {}
    return [numbers.setdefault(layer, len(numbers)) for layer in schedule]
