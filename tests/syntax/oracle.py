"""What a signature means, worked out on its text alone: nothing here uses the compiler's tree."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from tests.strategies import degree_of, letter_sizes

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"


class Visit(NamedTuple):
    """One visit: the letters on the path to the part, and how its layers are run."""

    path: tuple[str, ...]
    each: int
    reverse: bool

    @property
    def part(self) -> str:
        return self.path[0] + "".join(self.path[1:]).lower()


def word(text: str) -> list[str]:
    """The mentions that a signature without options of repeats visits, by rewriting its text.

    Degree plays no part. A mention is a letter with its options: ``A{each=2}``.
    """
    text = re.sub(r"\s|\[\d+\]|@\d+", "", text)
    text = re.sub(f"([{_SUPERSCRIPTS}]+)", r"^\1", text)
    text = re.sub(r"\^\{(\d+)\}", r"^\1", text)
    text = text.translate(str.maketrans(_SUPERSCRIPTS, "0123456789"))
    text = re.sub(r"([A-Z]\d*(?:\{[^}]*\})?)", r"(\1 )", text)
    while "(" in text:
        text = re.sub(
            r"\(([^()]*)\)(?:\^(\d+))?", lambda found: found[1] * int(found[2] or 1), text
        )
    return text.split()


@lru_cache(maxsize=64)
def visits(text: str) -> list[Visit]:
    """The visits in order, degree included: inside a reversed visit the word runs backwards."""
    pattern = [
        Visit((mention.partition("{")[0],), 2 if "each=2" in mention else 1, "reverse" in mention)
        for mention in word(text)
    ]
    found = pattern
    for _ in range(degree_of(text) - 1):
        found = [
            Visit(out.path + inner.path, out.each * inner.each, out.reverse != inner.reverse)
            for out in found
            for inner in (pattern[::-1] if out.reverse else pattern)
        ]
    return found


def parts(text: str) -> list[str]:
    """The parts that are visited, each named by its path, in order."""
    return [visit.part for visit in visits(text)]


def sizes(text: str, layers: int) -> dict[str, int] | None:
    """Layers of each part: handed out one after the other; None when a part would get none."""
    left = {letter: size for letter, size in letter_sizes(text).items() if size is not None}
    rest = layers - sum(left.values())
    members: dict[str, list[str]] = {}
    for visit in visits(text):
        group = members.setdefault(visit.path[0] if visit.path[0] in left else "", [])
        if visit.part not in group:
            group.append(visit.part)
    if rest < 0 or (rest > 0 and "" not in members):
        return None
    found: dict[str, int] = {}
    for letter, group in members.items():
        for turn in range(left.get(letter, rest)):
            part = group[turn % len(group)]
            found[part] = found.get(part, 0) + 1
    used = dict.fromkeys(parts(text))
    return {part: found[part] for part in used} if used.keys() == found.keys() else None


def divides(text: str, layers: int) -> bool:
    """Whether parts that share layers have equally many."""
    found = sizes(text, layers)
    groups: dict[str, set[int]] = {}
    for visit in visits(text) if found else []:
        assert found
        sized = letter_sizes(text)[visit.path[0]] is not None
        groups.setdefault(visit.path[0] if sized else "", set()).add(found[visit.part])
    return found is not None and all(len(group) == 1 for group in groups.values())


def said(text: str, path: tuple[str, ...], name: str) -> str | None:
    """The value of an option of a block: that of the innermost letter which has it."""
    for letter in reversed(path):
        found = re.search(rf"{letter}(?:\[\d+\])?\{{[^}}]*{name}=(\w+)", text)
        if found:
            return found[1]
    return None


def schedule(text: str, layers: int) -> list[tuple[int, int, str]] | None:
    """What each layer that is run owns: attention and feed-forward, numbered by first use; kind.

    None when the layers do not suffice.
    """
    count = sizes(text, layers)
    if count is None:
        return None
    attention: dict[tuple[str, int], int] = {}
    mlp: dict[tuple[str, int], int] = {}
    run = []
    for visit in visits(text):
        tie, kind = said(text, visit.path, "tie"), said(text, visit.path, "kind") or ""
        order = range(count[visit.part])
        for layer in reversed(order) if visit.reverse else order:
            first = attention.setdefault(
                (visit.part, 0 if tie == "attention" else layer), len(attention)
            )
            second = mlp.setdefault((visit.part, 0 if tie == "mlp" else layer), len(mlp))
            run += [(first, second, kind)] * visit.each
    return run
