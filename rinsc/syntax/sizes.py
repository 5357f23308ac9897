"""How many layers each part of a signature has, and the same schedule in small."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from rinsc.errors import SignatureError, Span, plural
from rinsc.syntax.degree import parts_per_letter, substitute
from rinsc.syntax.settings import BlockOptions, block_options, letter_options
from rinsc.syntax.tree import BlockRef, Call, Node, Option, Repeat, Sequence, Signature, mentions

MAX_SHOWN = 12  # parts that the words for an uneven split name


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


def part_sizes(sig: Signature, layers: int | None, *, strict: bool = False) -> dict[str, int]:
    """Layers of each part, in order of first use, at degree 1.

    ``layers`` is the whole stack's depth; it may be None only when every letter is sized. What the
    sizes leave over is spread over the parts of the letters without one, and a sized letter's
    layers over its own parts; ``strict`` refuses what does not divide. Raises SignatureError:
    ``conflicting-sizes``, ``layers-do-not-split`` (also for fewer layers than parts),
    ``layers-mismatch``, ``layers-missing``, ``bad-layers``.
    """
    splits = _splits(sig, layers)
    if strict:
        for split in splits:
            if not split.is_even:
                raise _not_even(sig, split, layers or 0)
    sizes: dict[str, int] = {}
    for split in splits:
        sizes |= split.sizes()
    if len(splits) > 1:
        return {name: sizes[name] for names in letter_parts(sig).values() for name in names}
    return sizes


def uneven_split(sig: Signature, layers: int | None) -> str | None:
    """Words for layers that do not divide: "10 layers over 4 blocks: A 3, B 3, C 2, D 2".

    None where all divide. Raises what `part_sizes` raises.
    """
    noun = "block" if sig.degree == 1 else "part"
    words = []
    for split in _splits(sig, layers):
        if split.is_even:
            continue
        sizes = [f"{name} {size}" for name, size in split.sizes().items()]
        if len(sizes) > MAX_SHOWN:
            sizes = [*sizes[: MAX_SHOWN - 1], "..."]
        of = "" if split.letter is None else f" of {split.letter}"
        over = f"{plural(split.layers, 'layer')}{of} over {plural(len(split.parts), noun)}"
        words.append(f"{over}: {', '.join(sizes)}")
    return "; ".join(words) or None


def even_sizes(sig: Signature, layers: int | None) -> dict[str, Fraction]:
    """Layers of each part were they shared out evenly, in fractions; raises as `part_sizes`."""
    return {
        name: Fraction(split.layers, len(split.parts))
        for split in _splits(sig, layers)
        for name in split.parts
    }


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


def letter_parts(sig: Signature) -> dict[str, tuple[str, ...]]:
    """The parts of each letter, in order of first use."""
    if sig.degree == 1:
        return {ref.letter: (ref.letter,) for ref in mentions(sig.body)}
    found: dict[str, list[str]] = {}
    for part in dict.fromkeys(ref.letter for ref in mentions(substitute(sig).body)):
        letter = re.match("[A-Z][0-9]*", part)  # what follows it in the path is lower case
        assert letter is not None
        found.setdefault(letter[0], []).append(part)
    return {letter: tuple(parts) for letter, parts in found.items()}


def splits_of_letters(sig: Signature) -> tuple[list[Split], tuple[str, ...]]:
    """The split of each sized letter, and the parts of all the others."""
    sizes, splits = letter_sizes(sig), []
    unsized: list[str] = []
    for letter, parts in letter_parts(sig).items():
        size = sizes[letter]
        if size is None:
            unsized += parts
        else:
            splits.append(Split(size, parts, letter))
    return splits, tuple(unsized)


def _splits(sig: Signature, layers: int | None) -> list[Split]:
    """How the whole stack is split."""
    if layers is not None and layers < 1:
        message, hint = "a model has at least 1 layer", "give a larger number"
        raise _stack_error(sig, "bad-layers", message, hint)
    splits, unsized = splits_of_letters(sig)
    written = sum(split.layers for split in splits)
    if not unsized:
        if layers not in (None, written):
            message = f"the sizes add up to {plural(written, 'layer')}, not to {layers}"
            hint = f"set layers to {written}, or change the sizes"
            raise _stack_error(sig, "layers-mismatch", message, hint)
        return splits
    if layers is None:
        hint = "set layers, or give every letter a size"
        raise _stack_error(sig, "layers-missing", "the number of layers is not set", hint)
    if layers - written < len(unsized):
        raise _too_few(sig, layers, written, len(unsized))
    return [*splits, Split(layers - written, unsized, None)]


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


def part_options(sig: Signature) -> dict[str, BlockOptions]:
    """The options of each part as a block, in order of first use, at degree 1.

    Raises SignatureError (``conflicting-options``).
    """
    if sig.degree == 1:
        return letter_options(sig)
    refs = mentions(substitute(sig).body)
    return {ref.letter: block_options(ref.options) for ref in refs}


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
