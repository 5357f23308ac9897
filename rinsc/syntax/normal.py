"""The normal form of a signature: at degree 1, with the layers of each of its parts.

``AAB@2`` with 8 layers becomes ``(AaAaAb)(AaAaAb)(BaBaBb)`` and 2 layers for each of Aa, Ab, Ba
and Bb. It is worked out once, kept by the spec, and read by every later stage:

    >>> from rinsc.syntax import parse, to_text
    >>> form = normal_form(parse("AAB@2"), 8)
    >>> to_text(form.tree)
    '(AaAaAb)(AaAaAb)(BaBaBb)'
    >>> form.sizes
    {'Aa': 2, 'Ab': 2, 'Ba': 2, 'Bb': 2}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from rinsc.errors import SignatureError, Span, plural
from rinsc.syntax.expand import check_limits, flatten, require_bound
from rinsc.syntax.settings import (
    BlockOptions,
    VisitOptions,
    block_options,
    letter_options,
    visit_options,
)
from rinsc.syntax.tree import BlockRef, Node, Option, Repeat, Sequence, Signature, mentions

MAX_SHOWN = 12  # parts that the message on an uneven split names


@dataclass(frozen=True)
class Split:
    """Layers over parts: those of a sized letter, or (``letter`` is None) the rest of the stack.

    What does not divide is spread so that sizes differ by at most one, earlier parts first.
    """

    layers: int
    parts: tuple[str, ...]
    letter: str | None

    @property
    def is_even(self) -> bool:
        return self.layers % len(self.parts) == 0

    def sizes(self) -> dict[str, int]:
        return dict(zip(self.parts, spread(self.layers, len(self.parts)), strict=True))


def spread(layers: int, parts: int) -> tuple[int, ...]:
    """Layers of each part: as equal as possible, earlier parts first."""
    share, more = divmod(layers, parts)
    return (share + 1,) * more + (share,) * (parts - more)


@dataclass(frozen=True)
class NormalForm:
    """A bound ``signature`` as its ``tree`` at degree 1, and how ``layers`` split over its parts.

    ``letters`` has the parts of each letter in order of first use, and ``splits`` a split for each
    letter of a written size, then one for the rest of the stack. Without ``layers`` it lacks that:
    the parts in ``unsized`` then have no size.
    """

    signature: Signature
    layers: int | None
    tree: Signature
    letters: Mapping[str, tuple[str, ...]]
    splits: tuple[Split, ...]
    unsized: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part, in order of first use of its letter."""
        return tuple(part for parts in self.letters.values() for part in parts)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Layers of each part; raises SignatureError (``layers-missing``) where some have none."""
        if self.layers is None and self.unsized:
            hint = "set layers, or give every letter a size"
            raise _stack_error(
                self.signature, "layers-missing", "the number of layers is not set", hint
            )
        sizes = {name: size for split in self.splits for name, size in split.sizes().items()}
        return {part: sizes[part] for part in self.parts}

    @cached_property
    def options(self) -> dict[str, BlockOptions]:
        """What is said of each part as a block, in order of first use.

        Raises SignatureError (``conflicting-options``).
        """
        if self.signature.degree == 1:
            return letter_options(self.signature)
        return {ref.letter: block_options(ref.options) for ref in mentions(self.tree.body)}

    @cached_property
    def visits(self) -> tuple[BlockRef, ...]:
        """The flat word of visits, in order."""
        word = flatten(self.tree.body, keep=lambda repeat: False)
        return tuple(item for item in word if isinstance(item, BlockRef))

    @property
    def even_sizes(self) -> dict[str, Fraction]:
        """Layers of each part were they shared out evenly, in fractions."""
        return {
            name: Fraction(split.layers, len(split.parts))
            for split in self.splits
            for name in split.parts
        }

    @property
    def uneven(self) -> str | None:
        """A message on layers that do not divide: "10 layers over 4 blocks: A 3, B 3, C 2, D 2".

        None where all divide.
        """
        noun = "block" if self.signature.degree == 1 else "part"
        messages = []
        for split in self.splits:
            if split.is_even:
                continue
            sizes = [f"{name} {size}" for name, size in split.sizes().items()]
            if len(sizes) > MAX_SHOWN:
                sizes = [*sizes[: MAX_SHOWN - 1], "..."]
            of = "" if split.letter is None else f" of {split.letter}"
            over = f"{plural(split.layers, 'layer')}{of} over {plural(len(split.parts), noun)}"
            messages.append(f"{over}: {', '.join(sizes)}")
        return "; ".join(messages) or None


def normal_form(sig: Signature, layers: int | None = None, *, strict: bool = False) -> NormalForm:
    """The normal form of a bound signature.

    ``layers`` is the whole stack's depth. What the sizes leave over is spread over the parts of
    the letters without one, and a sized letter's layers over its own parts; ``strict`` refuses
    what does not divide. Raises SignatureError: for a free exponent and what is over the limits,
    ``conflicting-sizes``, ``layers-do-not-split`` (also for fewer layers than parts),
    ``layers-mismatch``, ``bad-layers``.
    """
    require_bound(sig)
    check_limits(sig)
    if layers is not None and layers < 1:
        message, hint = "a model has at least 1 layer", "give a larger number"
        raise _stack_error(sig, "bad-layers", message, hint)
    tree = substitute(sig)
    letters = _letter_parts(sig, tree)
    sizes = letter_sizes(sig)
    splits = [Split(size, letters[name], name) for name, size in sizes.items() if size is not None]
    unsized = tuple(part for name in letters if sizes[name] is None for part in letters[name])
    written = sum(split.layers for split in splits)
    if not unsized and layers not in (None, written):
        message = f"the sizes add up to {plural(written, 'layer')}, not to {layers}"
        hint = f"set layers to {written}, or change the sizes"
        raise _stack_error(sig, "layers-mismatch", message, hint)
    if unsized and layers is not None:
        if layers - written < len(unsized):
            raise _too_few(sig, layers, written, len(unsized))
        splits.append(Split(layers - written, unsized, None))
    for split in splits if strict else ():
        if not split.is_even:
            raise _not_even(sig, split, layers or 0)
    return NormalForm(sig, layers, tree, letters, tuple(splits), unsized)


def part_sizes(sig: Signature, layers: int | None, *, strict: bool = False) -> dict[str, int]:
    """The sizes of `normal_form`, which see; ``layers`` may be None when every letter is sized."""
    return normal_form(sig, layers, strict=strict).sizes


def expand(sig: Signature) -> tuple[BlockRef, ...]:
    """The flat word of visits, in order, after degree substitution.

    Raises SignatureError (``unbound-exponent``, ``too-many-visits``, ``too-deep``) before any work.
    """
    return normal_form(sig).visits


def _letter_parts(sig: Signature, tree: Signature) -> dict[str, tuple[str, ...]]:
    """The parts of each letter, in order of first use."""
    names = dict.fromkeys(ref.letter for ref in mentions(tree.body))
    if sig.degree == 1:
        return {name: (name,) for name in names}
    letters: dict[str, list[str]] = {}
    for part in names:
        letter = re.match("[A-Z][0-9]*", part)  # what follows it in the path is lower case
        assert letter is not None
        letters.setdefault(letter[0], []).append(part)
    return {letter: tuple(parts) for letter, parts in letters.items()}


def stack_of(sig: Signature, each: int) -> int:
    """Layers of the whole stack when each part without a written size has ``each``."""
    parts = parts_per_letter(sig)
    return sum(each * parts if size is None else size for size in letter_sizes(sig).values())


def letter_sizes(sig: Signature) -> dict[str, int | None]:
    """Layers of each letter, None where none are written, in order of first mention.

    Raises SignatureError: ``conflicting-sizes``, ``layers-do-not-split`` for a letter that has
    fewer layers than parts.
    """
    sizes: dict[str, int | None] = {}
    first: dict[str, BlockRef] = {}
    for ref in mentions(sig.body):
        known = sizes.setdefault(ref.letter, ref.size)
        if ref.size is None:
            continue
        if known not in (None, ref.size):
            raise SignatureError(
                "conflicting-sizes",
                f"{ref.letter} has {plural(known or 0, 'layer')} "
                f"at its first size and {ref.size} here",
                source=sig.source,
                span=ref.span,
                hint="write the size of a letter once",
            )
        sizes[ref.letter] = ref.size
        first.setdefault(ref.letter, ref)
    if first and sig.degree > 1:
        _check_letters(sig, first)
    return sizes


def _check_letters(sig: Signature, sized: dict[str, BlockRef]) -> None:
    """No sized letter may have fewer layers than parts."""
    parts = parts_per_letter(sig)
    for letter, ref in sized.items():
        if ref.size is not None and ref.size < parts:
            message = f"{letter} has {plural(ref.size, 'layer')} for its {parts} parts "
            raise SignatureError(
                "layers-do-not-split",
                f"{message}at degree {sig.degree}",
                source=sig.source,
                span=ref.span,
                hint=f"write at least {letter}[{parts}], or lower the degree",
            )


def _too_few(sig: Signature, layers: int, written: int, parts: int) -> SignatureError:
    over = plural(parts, "block" if sig.degree == 1 else "part")
    if written:
        left = max(0, layers - written)
        message = f"the sizes leave {left} of {plural(layers, 'layer')}, too few for {over}"
    else:
        message = f"{plural(layers, 'layer')} cannot be split over {over}"
    enough = plural(written + parts, "layer")
    return _stack_error(sig, "layers-do-not-split", message, f"{enough} or more would work")


def _not_even(sig: Signature, split: Split, layers: int) -> SignatureError:
    """The error for a split that is to divide and does not."""
    parts = len(split.parts)
    if split.letter is not None:
        above = (split.layers // parts + 1) * parts
        return _stack_error(
            sig,
            "layers-do-not-split",
            f"cannot split the {plural(split.layers, 'layer')} of {split.letter} evenly over its "
            f"{parts} parts at degree {sig.degree}",
            f"write a multiple of {parts}: {split.letter}[{above}]",
            next(r.span for r in mentions(sig.body) if r.letter == split.letter and r.size),
        )
    over = plural(parts, "block" if sig.degree == 1 else "part")
    below = layers - split.layers % parts
    if split.layers < layers:
        message = f"the sizes leave {split.layers} of {plural(layers, 'layer')}, "
        message += f"which cannot be split evenly over {over}"
    else:
        message = f"cannot split {plural(layers, 'layer')} evenly over {over}"
    hint = f"{below} or {below + parts} layers would work"
    return _stack_error(sig, "layers-do-not-split", message, hint)


def _stack_error(
    sig: Signature, code: str, message: str, hint: str, span: Span | None = None
) -> SignatureError:
    at = sig.body.span if span is None else span
    return SignatureError(code, message, source=sig.source, span=at, hint=hint)


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
    items = _items(sig.body, pattern, _Position("", VisitOptions(), BlockOptions()), sig.degree)
    return replace(sig, body=replace(sig.body, items=items), degree=1)


@dataclass(frozen=True)
class _Pattern:
    body: Sequence
    letters: dict[str, BlockOptions]


@dataclass(frozen=True)
class _Position:
    """One visit of a block that the pattern is written into: its name, and what it passes on."""

    path: str
    visit: VisitOptions
    block: BlockOptions

    def inside(self, ref: BlockRef, own: BlockOptions) -> _Position:
        """The place of one mention of the pattern, inside this one."""
        visit = visit_options(ref.options)
        return _Position(
            part_name(self.path, ref.letter),
            VisitOptions(self.visit.each * visit.each, self.visit.reverse != visit.reverse),
            BlockOptions(own.tie or self.block.tie, own.kind or self.block.kind),
        )


def _items(
    sequence: Sequence, pattern: _Pattern, position: _Position, degree: int
) -> tuple[Node, ...]:
    items = reversed(sequence.items) if position.visit.reverse else sequence.items
    return tuple(_node(item, pattern, position, degree) for item in items)


def _node(node: Node, pattern: _Pattern, position: _Position, degree: int) -> Node:
    """``node`` of the pattern over the parts of ``position``, with ``degree`` levels to go."""
    match node:
        case Sequence():
            return replace(node, items=_items(node, pattern, position, degree))
        case Repeat(body):
            inner = _node(body, pattern, position, degree)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(node, body=inner)
        case BlockRef(letter):
            part = position.inside(node, pattern.letters[letter])
            if degree == 1:
                return BlockRef(part.path, None, _options(part, node.span), node.span)
            return Sequence(_items(pattern.body, pattern, part, degree - 1), node.span)


def _options(part: _Position, span: Span) -> tuple[Option, ...]:
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
