"""Words of blocks as numbers: all of them, their degree, and the atoms that they are made of.

A word is a tuple of block numbers in order of first use: the first is 0, and none is skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

Word: TypeAlias = tuple[int, ...]


def words(visits: int, blocks: Sequence[int]) -> Iterator[Word]:
    """Every word of so many visits whose number of blocks is one of ``blocks``.

    Numbers stand in order of first use (restricted growth), so no two are renamings of each other.
    """
    return _grown((), 0, visits, blocks)


def _grown(word: Word, used: int, left: int, blocks: Sequence[int]) -> Iterator[Word]:
    if not any(used <= count <= used + left for count in blocks):
        return  # whatever is added, it ends with another number of blocks
    if not left:
        yield word
        return
    for number in range(used + 1):
        yield from _grown((*word, number), max(used, number + 1), left - 1, blocks)


def at_degree(word: Word, degree: int) -> Word:
    """The word applied again inside each of its blocks, ``degree`` times in all.

    Part x of block p is number p * u + x, which is again the order of first use.
    """
    blocks = max(word) + 1
    flat = word
    for _ in range(degree - 1):
        flat = tuple(path * blocks + inner for path in flat for inner in word)
    return flat


def atoms(flat: Word, sizes: tuple[int, ...]) -> tuple[Word, tuple[int, ...]]:
    """The same schedule of layers with as few blocks as possible: its word and their sizes.

    Blocks that always follow one another in the same order cannot be told from one block of all
    their layers. Two schedules are the same model exactly when word and sizes of atoms are equal.
    """
    links = always_follows(flat)
    if not links:
        return flat, sizes
    inside = set(links.values())
    heads = [number for number in range(len(sizes)) if number not in inside]
    numbers = {head: index for index, head in enumerate(heads)}
    word = tuple(numbers[number] for number in flat if number in numbers)
    return word, tuple(_chain_size(head, links, sizes) for head in heads)


def always_follows(flat: Word) -> dict[int, int]:
    """X to Y where Y always follows X, and X always precedes Y."""
    pairs = set(pairwise(flat))
    followers = Counter(left for left, _ in pairs)
    leaders = Counter(right for _, right in pairs)
    return {
        left: right
        for left, right in pairs
        if followers[left] == 1 and leaders[right] == 1 and left != flat[-1] and right != flat[0]
    }


def _chain_size(head: int, links: dict[int, int], sizes: tuple[int, ...]) -> int:
    total = sizes[head]
    while head in links:
        head = links[head]
        total += sizes[head]
    return total
