"""Degree: the pattern applied again inside each of its blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rinsc.errors import Span
from rinsc.syntax.settings import BlockOptions, VisitOptions, letter_options, visit_options
from rinsc.syntax.tree import BlockRef, Node, Option, Repeat, Sequence, Signature, mentions


def substitute(sig: Signature) -> Signature:
    """The same model at degree 1: each block becomes a group, the pattern over its own parts.

    A part is named by its path, lower case after the first: ``AAB@2`` is
    ``(AaAaAb)(AaAaAb)(BaBaBb)``. u letters and n visits become u^d parts and n^d visits, so the
    limits are to be checked first.

    Options of a block go to its parts: ``each`` multiplies along the path; ``reverse`` runs the
    group backwards; ``tie`` and ``kind`` are those of the innermost letter that has one. Parts
    have no sizes written, which are a matter of `part_sizes`. Raises SignatureError
    (``conflicting-options``).
    """
    if sig.degree == 1:
        return sig
    pattern = _Pattern(sig.body, letter_options(sig))
    items = _items(sig.body, pattern, _Place("", VisitOptions(), BlockOptions()), sig.degree)
    return replace(sig, body=replace(sig.body, items=items), degree=1)


@dataclass(frozen=True)
class _Pattern:
    body: Sequence
    letters: dict[str, BlockOptions]


@dataclass(frozen=True)
class _Place:
    """One visit of a block that the pattern is written into: its name, and what it passes on."""

    path: str
    visit: VisitOptions
    block: BlockOptions

    def inside(self, ref: BlockRef, own: BlockOptions) -> _Place:
        """The place of one mention of the pattern, inside this one."""
        visit = visit_options(ref.options)
        return _Place(
            part_name(self.path, ref.letter),
            VisitOptions(self.visit.each * visit.each, self.visit.reverse != visit.reverse),
            BlockOptions(own.tie or self.block.tie, own.kind or self.block.kind),
        )


def _items(sequence: Sequence, pattern: _Pattern, place: _Place, degree: int) -> tuple[Node, ...]:
    items = reversed(sequence.items) if place.visit.reverse else sequence.items
    return tuple(_node(item, pattern, place, degree) for item in items)


def _node(node: Node, pattern: _Pattern, place: _Place, degree: int) -> Node:
    """``node`` of the pattern over the parts of ``place``, with ``degree`` levels to go."""
    match node:
        case Sequence():
            return replace(node, items=_items(node, pattern, place, degree))
        case Repeat(body):
            inner = _node(body, pattern, place, degree)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(node, body=inner)
        case BlockRef(letter):
            part = place.inside(node, pattern.letters[letter])
            if degree == 1:
                return BlockRef(part.path, None, _options(part, node.span), node.span)
            return Sequence(_items(pattern.body, pattern, part, degree - 1), node.span)


def _options(part: _Place, span: Span) -> tuple[Option, ...]:
    """What a part's place says, as options."""
    values = {
        "each": part.visit.each if part.visit.each > 1 else None,
        "kind": part.block.kind,
        "reverse": part.visit.reverse or None,
        "tie": part.block.tie,
    }
    return tuple(Option(name, value, span) for name, value in values.items() if value is not None)


def part_name(path: str, letter: str) -> str:
    """The name of part ``letter`` inside the block ``path``: ``A`` and ``B2`` give ``Ab2``."""
    return path + letter.lower() if path else letter


def parts_per_letter(sig: Signature) -> int:
    """How many parts share the layers of one letter: u^(d-1)."""
    distinct = len({ref.letter for ref in mentions(sig.body)})
    parts: int = distinct ** (sig.degree - 1)
    return parts


def degree_span(sig: Signature) -> Span:
    """Where ``@d`` is written; the body where the text has no degree."""
    start = sig.source.rfind("@")
    return Span(start, len(sig.source.rstrip())) if start >= 0 else sig.body.span
