"""Many variants: every distinct model of short words, and families that are compared by cost.

Enumerated words are streamed with their costs; none of them is built.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import lcm
from typing import TypeAlias

from rinsc.errors import Problem, RinscError, Span, SpecError, did_you_mean, plural
from rinsc.fingerprints import fingerprint
from rinsc.scalars import whole
from rinsc.spec import ModelSpec, with_signature
from rinsc.spec.checks import shown
from rinsc.spec.model import require_spec
from rinsc.syntax import (
    MAX_VISITS,
    BlockRef,
    Signature,
    canonical,
    normal_form,
    parse,
    tree,
)
from rinsc.syntax.canonical import letter_name
from rinsc.syntax.normal import spread
from rinsc.variants.costed import EVERYTHING, Costed, Limits, Prices, costed, prices

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


def wanted_blocks(
    price: Prices, limits: Limits, letters: int, visits: int, degree: int, *, strict: bool
) -> list[int]:
    """How many blocks a word of so many visits may have, so that its variant can be admitted.

    What is left out here never is; ``strict`` leaves out what the layers do not divide over.
    """
    return [
        blocks
        for blocks in range(1, min(letters, visits) + 1)
        if _can_be_wanted(price, limits, visits**degree, blocks**degree, strict)
    ]


def _can_be_wanted(price: Prices, limits: Limits, visits: int, parts: int, strict: bool) -> bool:
    if visits > MAX_VISITS or parts > price.layers:
        return False
    share, more = divmod(price.layers, parts)
    if strict and more:
        return False
    # Each part runs once, and the visits beyond that run parts of `share` layers or of one more.
    least = price.layers + (visits - parts) * share
    most = least + (visits - parts if more else 0)
    executed = range(
        max(least, limits.min_layers_executed), int(min(most, limits.max_layers_executed)) + 1
    )
    # The cost grows with the layers executed, so the cheapest of those dear enough decides.
    first = bisect_left(
        executed,
        limits.min_cost_ratio,
        key=lambda layers: price.costs(parts, visits, layers).cost_ratio,
    )
    return first < len(executed) and limits.admit(price.costs(parts, visits, executed[first]))


MAX_LETTERS = 8
MAX_LENGTH = 16
MAX_ENUMERATED_DEGREE = 3
NOWHERE = Span(0, 0)


@dataclass(frozen=True)
class Variant:
    """A word of blocks at a degree, and its costs as in `Costed`."""

    word: Word
    degree: int
    parameters: int
    executed_layers: int
    training_flops_per_token: int
    cost_ratio: float
    layers_if_even: float | None = None

    @cached_property
    def signature(self) -> str:
        """Its canonical spelling."""
        letters = [letter_name(number) for number in self.word]
        # Put together here: parsing would take most of the time of a long enumeration.
        refs = tuple(BlockRef(letter, None, (), NOWHERE) for letter in letters)
        return canonical(Signature(tree.Sequence(refs, NOWHERE), self.degree, "".join(letters)))

    def costed(self) -> Costed:
        """Signature and costs alone."""
        return Costed(
            self.signature,
            self.parameters,
            self.executed_layers,
            self.training_flops_per_token,
            self.cost_ratio,
            self.layers_if_even,
        )

    def spec(self, base: ModelSpec) -> ModelSpec:
        """The variant at the dimensions of ``base``."""
        return replace(base, signature=parse(self.signature))


def variants(
    base: ModelSpec,
    letters: int,
    length: int,
    degree: int = 1,
    limits: Limits = EVERYTHING,
    *,
    strict: bool = False,
) -> Iterator[Variant]:
    """The distinct models of at most ``letters`` blocks, ``length`` visits and this degree.

    They have the dimensions of ``base``, whose own signature plays no part; words that leave a
    part without layers, and those of more than `MAX_VISITS` visits, are left out, under ``strict``
    also those over whose parts the layers do not divide evenly. Degrees come one after the other,
    shorter words first; of spellings of one model the first. Raises `SpecError` for bounds out of
    range.
    """
    letters, length, degree = _checked_bounds(
        letters=(letters, MAX_LETTERS),
        length=(length, MAX_LENGTH),
        degree=(degree, MAX_ENUMERATED_DEGREE),
    )
    return _variants(prices(require_spec(base)), letters, length, degree, limits, strict)


def _variants(
    price: Prices, letters: int, length: int, degree: int, limits: Limits, strict: bool
) -> Iterator[Variant]:
    earlier: set[bytes] = set()
    for level in range(1, degree + 1):
        for visits in range(1, length + 1):
            blocks = wanted_blocks(price, limits, letters, visits, level, strict=strict)
            for word in words(visits, blocks):
                flat = at_degree(word, level)
                sizes = spread(price.layers, max(flat) + 1)
                same = (flat, sizes) if price.visits_matter else atoms(flat, sizes)
                is_itself = level == 1 and same == (word, sizes)
                if is_itself or _is_new(same, price.layers, letters, length, strict, earlier):
                    variant = _variant(word, level, flat, sizes, price)
                    if limits.admit(variant):
                        yield variant


def _is_new(
    same: tuple[Word, tuple[int, ...]],
    layers: int,
    letters: int,
    length: int,
    strict: bool,
    earlier: set[bytes],
) -> bool:
    """Whether no variant before had these atoms.

    A word that is its own atoms is met once, at degree 1, and before any other spelling of it: a
    spelling has at least as many blocks and visits. So only the others need to be remembered.
    """
    word, sizes = same
    fits = len(sizes) <= letters and len(word) <= length
    is_left_out = strict and layers % len(sizes) != 0
    if fits and not is_left_out and sizes == spread(layers, len(sizes)):
        return False
    key = hashlib.blake2b(repr(same).encode(), digest_size=12).digest()
    if key in earlier:
        return False
    earlier.add(key)
    return True


def _variant(word: Word, degree: int, flat: Word, sizes: tuple[int, ...], price: Prices) -> Variant:
    visits = Counter(flat)
    executed = sum(times * sizes[number] for number, times in visits.items())
    even = None if price.layers % len(sizes) == 0 else len(flat) * price.layers / len(sizes)
    return Variant(word, degree, *price.costs(len(sizes), len(flat), executed), even)


def _checked_bounds(**bounds: tuple[int, int]) -> tuple[int, ...]:
    problems, numbers = [], []
    for name, (value, most) in bounds.items():
        number = whole(value)
        if number is not None and 1 <= number <= most:
            numbers.append(number)
        else:
            message = f"{name} must be a whole number from 1 to {most}, not {shown(value)}"
            hint = f"give {name} from 1 to {most}"
            problems.append(Problem("bad-bounds", message, place=name, hint=hint))
    if problems:
        raise SpecError.of(*problems)
    return tuple(numbers)


@dataclass(frozen=True)
class Member:
    """A variant of a family: its signature, and which idea it stands for."""

    signature: str
    idea: str


# Forms of recursion around A^rB: early, late, in the middle, of the whole, and mixed; powers 2 to
# 4, degrees 1 to 3. The choice is ours, made after the comparison of more than 55 variants in arXiv
# 2502.07503, whose text does not spell its own list out. ABAB, ABABAB and the like are missing
# because they are A^2, A^3: blocks that always stand together are one block.
RINS: Mapping[str, str] = {
    "no recursion": "A",
    "early: the first half (RINS)": "A^2B A^3B A^4B",
    "early: the first third": "A^2BC A^3BC A^4BC",
    "early: the first quarter": "A^2BCD A^3BCD A^4BCD",
    "early: all but the last third": "(AB)^2C (AB)^3C (AB)^4C",
    "late: the second half": "AB^2 AB^3 AB^4",
    "late: the last third": "ABC^2 ABC^3 ABC^4",
    "late: all but the first third": "A(BC)^2 A(BC)^3 A(BC)^4",
    "middle: the middle third (latent recurrent thinking)": "AB^2C AB^3C AB^4C",
    "middle: the middle half": "A(BC)^2D A(BC)^3D A(BC)^4D",
    "middle: the second quarter": "AB^2CD AB^3CD AB^4CD",
    "total: the whole stack (repeat-all-over)": "A^2 A^3 A^4",
    "in place: each half": "A^2B^2 A^3B^3 A^4B^4 A^2B^3 A^3B^2",
    "in place: each third": "A^2B^2C^2 A^3B^3C^3",
    "returning: the first block once more": "ABA ABCA A^2BA ABA^2",
    "returning: there and back": "AB^2A ABCBA ABC^2BA ABAC",
    "interleaved: one block between the others": "ABACA A^2BA^2C ABCAC",
    "nested: recursion inside recursion": "(A^2B)^2 (A^2B)^2C (AB^2)^2 (AB^2)^2C A(B^2C)^2D",
    "degree 2": "A^2B@2 A^3B@2 A^4B@2 AB^2@2 AB^3@2 ABA@2 A^2B^2@2 AB^2A@2",
    "degree 3": "A^2B@3 A^3B@3 AB^2@3 ABA@3 A^2B^2@3",
}

FAMILIES: Mapping[str, Mapping[str, str]] = {"rins": RINS}


def layers_for_all(members: Iterable[Member], least: int) -> int:
    """The fewest layers from ``least`` on that divide evenly over the blocks of every member."""
    forms = (normal_form(parse(member.signature)) for member in members)
    together = lcm(*(len(form.parts) for form in forms))
    return -(-least // together) * together


def family(name: str) -> tuple[Member, ...]:
    """The members of a family, no two of which are the same model. Raises `SpecError` for
    another name."""
    if name not in FAMILIES:
        message = f"'{name}' is not a family"
        raise SpecError("unknown-family", message, hint=did_you_mean(name, FAMILIES))
    return tuple(
        Member(signature, idea)
        for idea, signatures in FAMILIES[name].items()
        for signature in signatures.split()
    )


def costed_members(
    members: Iterable[Member], base: ModelSpec, note: Callable[[str], None], *, strict: bool
) -> Iterator[tuple[Costed, str]]:
    """Each member with its costs; those that do not fit the layers are left out, with a ``note``.

    At few layers two of them may be the same model.
    """
    known: dict[str, str] = {}
    left_out: list[str] = []
    for member in members:
        try:
            key = fingerprint(with_signature(base, member.signature, strict=strict))
        except RinscError as error:
            if error.code != "layers-do-not-split":
                raise
            left_out.append(member.signature)
            continue
        if key in known:
            same = f"{member.signature} is the same model as {known[key]}"
            note(f"at {plural(base.layers, 'layer')} {same}, and left out")
        else:
            known[key] = member.signature
            yield costed(base, member.signature, strict=strict), member.idea
    if left_out:
        why = "do not divide evenly over the blocks of" if strict else "are too few for"
        note(f"{plural(base.layers, 'layer')} {why} {', '.join(left_out)}, left out")
