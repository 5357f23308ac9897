"""The same schedule in small, for copies that are compared rather than trained."""

from __future__ import annotations

from dataclasses import replace

from rinsc.syntax.degree import parts_per_letter
from rinsc.syntax.tree import BlockRef, Call, Node, Option, Repeat, Sequence, Signature


def shrunk(sig: Signature, *, part_layers: int, rank: int) -> Signature:
    """The signature with no written size above ``part_layers`` for each of a letter's parts, and
    no rank of an adapter above ``rank``. Letters, rounds and all other options stay."""
    return replace(sig, body=_sequence(sig.body, part_layers * parts_per_letter(sig), rank))


def _sequence(sequence: Sequence, size: int, rank: int) -> Sequence:
    return replace(sequence, items=tuple(_node(item, size, rank) for item in sequence.items))


def _node(node: Node, size: int, rank: int) -> Node:
    match node:
        case BlockRef():
            return node if node.size is None else replace(node, size=min(node.size, size))
        case Sequence():
            return _sequence(node, size, rank)
        case Repeat(body):
            inner = _node(body, size, rank)
            assert isinstance(inner, BlockRef | Sequence)
            options = tuple(_option(option, rank) for option in node.options)
            return replace(node, body=inner, options=options)


def _option(option: Option, rank: int) -> Option:
    match option.value:
        case Call("lora" | "shared" as name, (int(written),)):
            return replace(option, value=Call(name, (min(written, rank),)))
    return option
