"""Every distinct model of short words, streamed with its costs; none of them is built."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from rinsc.errors import Problem, Span, SpecError
from rinsc.scalars import whole
from rinsc.spec import ModelSpec
from rinsc.spec.checks import shown
from rinsc.spec.model import require_spec
from rinsc.sweep.costed import Costed
from rinsc.sweep.limits import EVERYTHING, Limits
from rinsc.sweep.shapes import wanted_blocks
from rinsc.sweep.sizing import Prices, prices
from rinsc.sweep.words import Word, at_degree, atoms, words
from rinsc.syntax import BlockRef, Sequence, Signature, canonical, parse
from rinsc.syntax.canonical import letter_name
from rinsc.syntax.sizes import spread

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
        return canonical(Signature(Sequence(refs, NOWHERE), self.degree, "".join(letters)))

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
    seen: set[bytes] = set()
    for level in range(1, degree + 1):
        for visits in range(1, length + 1):
            blocks = wanted_blocks(price, limits, letters, visits, level, strict=strict)
            for word in words(visits, blocks):
                flat = at_degree(word, level)
                sizes = spread(price.layers, max(flat) + 1)
                same = (flat, sizes) if price.visits_matter else atoms(flat, sizes)
                is_itself = level == 1 and same == (word, sizes)
                if is_itself or _is_new(same, price.layers, letters, length, strict, seen):
                    variant = _variant(word, level, flat, sizes, price)
                    if limits.admit(variant):
                        yield variant


def _is_new(
    same: tuple[Word, tuple[int, ...]],
    layers: int,
    letters: int,
    length: int,
    strict: bool,
    seen: set[bytes],
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
    if key in seen:
        return False
    seen.add(key)
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
        raise SpecError(*problems)
    return tuple(numbers)
