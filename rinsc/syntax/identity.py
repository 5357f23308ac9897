"""When two signatures are the same model: the schedule of physical layers up to renaming."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

from rinsc.digests import short_digest
from rinsc.syntax.canonical import is_kept
from rinsc.syntax.degree import parts_per_letter, substitute
from rinsc.syntax.expand import check_limits, flatten, require_bound
from rinsc.syntax.options import effective
from rinsc.syntax.printer import options_text
from rinsc.syntax.sizes import letter_sizes, part_names, part_sizes
from rinsc.syntax.tree import BlockRef, Node, Option, Repeat, Signature

_Line: TypeAlias = list[BlockRef | Repeat]

# Options that mean the same on two neighbours as on the block that holds the layers of both.
_JOINABLE = ("each", "kind")


@dataclass(frozen=True)
class LinearForm:
    """A size in layers, ``constant + per_layer * L`` for a stack of L layers."""

    constant: Fraction
    per_layer: Fraction

    def __add__(self, other: LinearForm) -> LinearForm:
        return LinearForm(self.constant + other.constant, self.per_layer + other.per_layer)


@dataclass(frozen=True)
class AtomVisit:
    """One visit of an atom: parts that always stand together in the same order."""

    atom: int
    options: tuple[Option, ...]


@dataclass(frozen=True)
class AtomRepeat:
    """A repeat with options, which its unfolded visits would not say."""

    word: tuple[AtomVisit | AtomRepeat, ...]
    count: int
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Identity:
    """The word over atoms, numbered by first use, and the size of each. Equal: the same model."""

    word: tuple[AtomVisit | AtomRepeat, ...]
    sizes: tuple[LinearForm, ...]


def identity(sig: Signature, layers: int | None = None) -> Identity:
    """What makes ``sig`` the model it is, for a stack of ``layers`` or for every stack.

    Layers that always follow one another in the same order cannot be told from one block of them,
    so parts are joined into maximal such chains. Two identities are equal exactly when the lists
    of physical layers visited, numbered by first use, are equal. Raises SignatureError: an
    exponent is free, a limit is passed, or the layers do not split.
    """
    require_bound(sig)
    check_limits(sig)
    sizes = _part_forms(sig, layers)
    line = _line(substitute(sig).body)
    follower = _followers(line)
    numbers: dict[str, int] = {}
    word = _atom_word(line, set(follower.values()), numbers)
    return Identity(word, tuple(_chain_size(head, follower, sizes) for head in numbers))


def schedule_fingerprint(sig: Signature, layers: int | None = None) -> str:
    """A short digest of `identity`, which see for the errors."""
    same = identity(sig, layers)
    sizes = " ".join(f"{size.constant}+{size.per_layer}L" for size in same.sizes)
    text = f"{_word_text(same.word)}|{sizes}"
    return short_digest(text)


def _part_forms(sig: Signature, layers: int | None) -> dict[str, LinearForm]:
    """The size of each part, exact."""
    if layers is not None:
        known = part_sizes(sig, layers)
        return {name: LinearForm(Fraction(size), Fraction(0)) for name, size in known.items()}
    sizes = letter_sizes(sig)
    parts = parts_per_letter(sig)
    written = parts * sum(size for size in sizes.values() if size is not None)
    shares = parts * sum(size is None for size in sizes.values())
    forms = {}
    for letter, size in sizes.items():
        constant = Fraction(-written, shares) if size is None else Fraction(size)
        form = LinearForm(constant, Fraction(1, shares) if size is None else Fraction(0))
        forms.update(dict.fromkeys(part_names(letter, list(sizes), sig.degree), form))
    return forms


def _line(node: Node) -> _Line:
    return flatten(node, keep=is_kept)


def _lines(line: _Line) -> Iterator[_Line]:
    """A line and, in turn, the lines inside its repeats."""
    yield line
    # A repeat inside a repeat comes as one object many times; once is enough.
    for item in {id(item): item for item in line}.values():
        if isinstance(item, Repeat):
            yield from _lines(_line(item.body))


def _followers(line: _Line) -> dict[str, str]:
    """The links of the chains: X to Y where Y always follows X and X always precedes Y."""
    after: dict[str, set[str | None]] = defaultdict(set)
    before: dict[str, set[str | None]] = defaultdict(set)
    for inner in _lines(line):
        for left, right in pairwise([None, *inner, None]):
            joined = _joinable(left, right)
            if isinstance(left, BlockRef):
                after[left.letter].add(joined[1] if joined else None)
            if isinstance(right, BlockRef):
                before[right.letter].add(joined[0] if joined else None)
    links = {}
    for part, following in after.items():
        (first, *others) = following
        if first is not None and not others and before[first] == {part}:
            links[part] = first
    return links


def _joinable(
    left: BlockRef | Repeat | None, right: BlockRef | Repeat | None
) -> tuple[str, str] | None:
    """The letters of two neighbours that one block could stand for at this place."""
    if not isinstance(left, BlockRef) or not isinstance(right, BlockRef):
        return None
    options = effective(left.options)
    if options != effective(right.options):
        return None
    if any(option.name not in _JOINABLE for option in options):
        return None
    return left.letter, right.letter


def _atom_word(
    line: _Line, inside: set[str], numbers: dict[str, int]
) -> tuple[AtomVisit | AtomRepeat, ...]:
    """The line over atoms; parts ``inside`` a chain go with its head, which gets a number."""
    word: list[AtomVisit | AtomRepeat] = []
    repeats: dict[int, AtomRepeat] = {}
    for item in line:
        options = effective(item.options)
        if isinstance(item, Repeat):
            if id(item) not in repeats:
                assert isinstance(item.count, int)
                body = _atom_word(_line(item.body), inside, numbers)
                repeats[id(item)] = AtomRepeat(body, item.count, options)
            word.append(repeats[id(item)])
        elif item.letter not in inside:
            number = numbers.setdefault(item.letter, len(numbers))
            word.append(AtomVisit(number, options))
    return tuple(word)


def _chain_size(head: str, follower: dict[str, str], sizes: dict[str, LinearForm]) -> LinearForm:
    total = sizes[head]
    while head in follower:
        head = follower[head]
        total += sizes[head]
    return total


def _word_text(word: tuple[AtomVisit | AtomRepeat, ...]) -> str:
    return " ".join(
        f"({_word_text(item.word)})^{item.count}{options_text(item.options)}"
        if isinstance(item, AtomRepeat)
        else f"{item.atom}{options_text(item.options)}"
        for item in word
    )
