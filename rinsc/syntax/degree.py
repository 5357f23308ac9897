"""Degree: the pattern applied again inside each of its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rinsc.errors import Span
from rinsc.syntax.options import effective
from rinsc.syntax.problems import plural, signature_error
from rinsc.syntax.tree import BlockRef, Node, Repeat, Sequence, Signature


def substitute(sig: Signature) -> Signature:
    """The same model at degree 1: each block becomes a group, the pattern over its own parts.

    A part is named by its path, lower case after the first: ``AAB@2`` is
    ``(AaAaAb)(AaAaAb)(BaBaBb)``. u letters and n visits become u^d parts and n^d visits, so the
    limits are to be checked first. Raises SignatureError (``layers-do-not-split``) where a sized
    letter does not split over its parts, and (``not-supported-yet``) for options of blocks.
    """
    if sig.degree == 1:
        return sig
    items = tuple(_inside(item, sig, sig.degree, path="", size=None) for item in sig.body.items)
    return replace(sig, body=replace(sig.body, items=items), degree=1)


def _inside(node: Node, sig: Signature, degree: int, path: str, size: int | None) -> Node:
    """``node`` of the pattern over the parts of block ``path``, with ``degree`` levels to go."""
    match node:
        case Sequence(items):
            return replace(
                node, items=tuple(_inside(item, sig, degree, path, size) for item in items)
            )
        case Repeat(body):
            inner = _inside(body, sig, degree, path, size)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(node, body=inner)
        case BlockRef():
            return _block(node, sig, degree, path, size)


def _block(ref: BlockRef, sig: Signature, degree: int, path: str, size: int | None) -> Node:
    options = effective(ref.options)
    if options:
        raise signature_error(
            "not-supported-yet",
            "options of a block together with a degree cannot be compiled yet",
            sig.source,
            options[0].span,
            "remove the option, or write the degree out",
        )
    size = part_size(ref, sig) if path == "" else size
    name = part_name(path, ref.letter)
    if degree == 1:
        return BlockRef(name, size, (), ref.span)
    items = tuple(_inside(item, sig, degree - 1, name, size) for item in sig.body.items)
    return Sequence(items, ref.span)


def part_name(path: str, letter: str) -> str:
    """The name of part ``letter`` inside the block ``path``: ``A`` and ``B2`` give ``Ab2``."""
    return path + letter.lower() if path else letter


def parts_per_letter(sig: Signature) -> int:
    """How many parts share the layers of one letter: u^(d-1)."""
    distinct = len({ref.letter for ref in mentions(sig.body)})
    parts: int = distinct ** (sig.degree - 1)
    return parts


def part_size(ref: BlockRef, sig: Signature) -> int | None:
    """Layers of each part of a sized letter; None where no size is written.

    Raises SignatureError (``layers-do-not-split``) when they do not split evenly.
    """
    if ref.size is None:
        return None
    parts = parts_per_letter(sig)
    if ref.size % parts:
        above = (ref.size // parts + 1) * parts
        raise signature_error(
            "layers-do-not-split",
            f"cannot split the {plural(ref.size, 'layer')} of {ref.letter} evenly over its "
            f"{parts} parts at degree {sig.degree}",
            sig.source,
            ref.span,
            f"write a multiple of {parts}: {ref.letter}[{above}]",
        )
    return ref.size // parts


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


def degree_span(sig: Signature) -> Span:
    """Where ``@d`` is written; the body where the text has no degree."""
    start = sig.source.rfind("@")
    return Span(start, len(sig.source.rstrip())) if start >= 0 else sig.body.span
