"""The rolled tree of a signature. Spans point into its text and take no part in equality."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from rinsc.errors import Span

Scalar: TypeAlias = int | float | str


@dataclass(frozen=True)
class Call:
    """An option's value with arguments: ``lora(8)``, ``uniform(1, 4)``."""

    name: str
    args: tuple[Scalar, ...]


@dataclass(frozen=True)
class Option:
    """``name=value`` in braces; ``value`` is True for a bare flag such as ``reverse``."""

    name: str
    value: Scalar | Call | bool
    span: Span = field(compare=False)


@dataclass(frozen=True)
class BlockRef:
    """One mention of a block: its letter, its size in layers where one is written, its options."""

    letter: str
    size: int | None
    options: tuple[Option, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Repeat:
    """A body applied ``count`` times with shared weights; ``count`` is a name while it is free.

    ``owner`` tells apart the repeats that own weights, where `numbered_owners` has set it.
    """

    body: BlockRef | Sequence
    count: int | str
    options: tuple[Option, ...]
    span: Span = field(compare=False)
    owner: int = 0


@dataclass(frozen=True)
class Sequence:
    """Items in order. A sequence inside a sequence is a group that was written in parentheses."""

    items: tuple[Node, ...]
    span: Span = field(compare=False)


Node: TypeAlias = BlockRef | Repeat | Sequence


@dataclass(frozen=True)
class Signature:
    """A whole signature: its body, its degree and the text that the spans point into."""

    body: Sequence
    degree: int
    source: str = field(compare=False)


def mentions(node: Node) -> Iterator[BlockRef]:
    """Every mention of a block, in the order of the text."""
    match node:
        case BlockRef():
            yield node
        case Repeat(body):
            yield from mentions(body)
        case Sequence(items):
            for item in items:
                yield from mentions(item)


def repeats(node: Node) -> Iterator[Repeat]:
    """Every repeat of a tree, outer before inner."""
    if isinstance(node, Repeat):
        yield node
        yield from repeats(node.body)
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from repeats(item)


def with_repeat_options(sequence: Sequence, change: Callable[[Option], Option]) -> Sequence:
    """The tree with each option of a repeat changed."""
    return replace(sequence, items=tuple(_with_options(item, change) for item in sequence.items))


def _with_options(node: Node, change: Callable[[Option], Option]) -> Node:
    match node:
        case BlockRef():
            return node
        case Sequence():
            return with_repeat_options(node, change)
        case Repeat(body):
            inner = _with_options(body, change)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(node, body=inner, options=tuple(map(change, node.options)))
