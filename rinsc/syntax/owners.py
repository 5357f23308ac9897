"""Which repeat owns which weights: those of a repeat belong to it as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from rinsc.syntax.settings import repeat_options
from rinsc.syntax.tree import BlockRef, Node, Repeat, Sequence, repeats


def numbered_owners(body: Sequence) -> Sequence:
    """The tree with the repeats that own weights numbered from 1, in the order of the text.

    So ``(A^2{adapter=scale})^2`` has one owner, and ``A^2{adapter=scale}A^2{adapter=scale}`` two
    that differ. Without any it is the tree itself.
    """
    if not any(_owns_weights(repeat) for repeat in repeats(body)):
        return body
    return _sequence(body, count(1))


def _owns_weights(repeat: Repeat) -> bool:
    return bool(repeat.options) and repeat_options(repeat.options).owns_weights


def _sequence(sequence: Sequence, numbers: Iterator[int]) -> Sequence:
    return replace(sequence, items=tuple(_node(item, numbers) for item in sequence.items))


def _node(node: Node, numbers: Iterator[int]) -> Node:
    match node:
        case BlockRef():
            return node
        case Sequence():
            return _sequence(node, numbers)
        case Repeat(body):
            owner = next(numbers) if _owns_weights(node) else 0
            inner = _node(body, numbers)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(node, body=inner, owner=owner)
