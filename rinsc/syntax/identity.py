"""When two signatures are the same model: the schedule of physical layers up to renaming."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from rinsc.errors import SignatureError
from rinsc.storage.digests import short_digest
from rinsc.syntax.canonical import numbered_owners
from rinsc.syntax.degree import substitute
from rinsc.syntax.expand import check_limits, require_bound
from rinsc.syntax.lines import (
    KeptRepeat,
    Line,
    PartVisit,
    directed,
    layer_name,
    line_of,
    lines_in,
    visits_in,
    with_layers,
)
from rinsc.syntax.settings import BlockOptions, RepeatOptions, letter_options
from rinsc.syntax.sizes import part_sizes, splits_of_letters
from rinsc.syntax.tree import MAX_LAYER_VISITS, Signature


@dataclass(frozen=True)
class LinearForm:
    """A size in layers, ``constant + per_layer * L`` for a stack of L layers."""

    constant: Fraction | int
    per_layer: Fraction | int = 0

    def __add__(self, other: LinearForm) -> LinearForm:
        return LinearForm(self.constant + other.constant, self.per_layer + other.per_layer)


@dataclass(frozen=True)
class AtomVisit:
    """One visit of an atom: parts that always stand together in the same order."""

    atom: int
    each: int = 1
    reverse: bool = False


@dataclass(frozen=True)
class AtomRepeat:
    """A repeat with options, which its unfolded visits would not say.

    ``owner`` is the number of the weights that it owns, 0 without any.
    """

    word: Word
    count: int
    options: RepeatOptions
    owner: int


Word: TypeAlias = tuple[AtomVisit | AtomRepeat, ...]


@dataclass(frozen=True)
class Identity:
    """The word over atoms, numbered by first use, and what each atom is. Equal: the same model."""

    word: Word
    sizes: tuple[LinearForm, ...]
    blocks: tuple[BlockOptions, ...]

    @property
    def text(self) -> str:
        """A text that is equal exactly when the identities are."""
        sizes = " ".join(f"{size.constant}+{size.per_layer}L" for size in self.sizes)
        said = " ".join(f"{block.tie}/{block.kind}" for block in self.blocks)
        plain = all(block == BlockOptions() for block in self.blocks)
        return f"{_word_text(self.word)}|{sizes}" + ("" if plain else f"|{said}")


def _word_text(word: Word) -> str:
    return " ".join(
        f"({_word_text(item.word)})^{item.count}{item.options}#{item.owner}"
        if isinstance(item, AtomRepeat)
        else f"{item.atom}" + f"*{item.each}" * (item.each > 1) + "r" * item.reverse
        for item in word
    )


@dataclass(frozen=True)
class _Part:
    """What a part is; one that ``stands_alone`` is more than its layers one after the other."""

    size: LinearForm
    said: BlockOptions
    stands_alone: bool


_Parts: TypeAlias = dict[str, _Part]


def identity(
    sig: Signature,
    layers: int | None = None,
    default_kind: str | None = None,
    whole_kinds: Container[str] = (),
) -> Identity:
    """What makes ``sig`` the model it is, for a stack of ``layers`` or for every stack.

    Layers that always follow one another in the same order cannot be told from one block of them,
    so parts are joined into maximal such chains; a part that is visited with ``each`` or
    ``reverse`` is taken apart into its layers first, where its size is known. Two identities are
    equal exactly when the lists of physical layers visited, numbered by first use, are equal, and
    the options of repeats that change what is run (`effective_of`). Among these ``grad=k`` counts
    even where no more than k rounds are written or drawn, as the depth dial can ask for more.
    "Every stack" means every one whose layers divide evenly.

    ``default_kind`` is the layer kind of blocks without one of their own. Blocks of
    ``whole_kinds`` do something once a visit, beside their layers, and are never joined.

    Raises SignatureError: an exponent is free, a limit is passed (``too-many-visits`` also for
    more than `MAX_LAYER_VISITS` layers to be taken apart), or the layers do not split.
    """
    require_bound(sig)
    check_limits(sig)
    tree = substitute(sig)
    parts = _parts(tree, _part_forms(sig, layers), default_kind, whole_kinds)
    line = line_of(numbered_owners(tree.body))
    if any(visit.reverse or visit.each > 1 for visit in visits_in(line)):
        line, parts = _taken_apart(line, parts, sig)
        line = _with_few_reversals(line, parts)
    follower = _followers(line, parts)
    numbers: dict[str, int] = {}
    word = _atom_word(line, set(follower.values()), numbers)
    sizes = tuple([_chain_size(head, follower, parts) for head in numbers])
    return Identity(word, sizes, tuple([parts[head].said for head in numbers]))


def schedule_fingerprint(sig: Signature, layers: int | None = None) -> str:
    """A short digest of `identity`, which see for the errors."""
    return short_digest(identity(sig, layers).text)


def _part_forms(sig: Signature, layers: int | None) -> dict[str, LinearForm]:
    """The size of each part, exact; an even split where it depends on the stack."""
    if layers is not None:
        return {name: LinearForm(size) for name, size in part_sizes(sig, layers).items()}
    splits, unsized = splits_of_letters(sig)
    forms = {name: LinearForm(size) for split in splits for name, size in split.sizes().items()}
    if unsized:
        written = sum(split.layers for split in splits)
        share = LinearForm(Fraction(-written, len(unsized)), Fraction(1, len(unsized)))
        forms |= dict.fromkeys(unsized, share)
    return forms


def _parts(
    tree: Signature,
    sizes: dict[str, LinearForm],
    default_kind: str | None,
    whole_kinds: Container[str],
) -> _Parts:
    parts = {}
    for name, said in letter_options(tree).items():
        if said.tie and sizes[name] == LinearForm(1):
            said = replace(said, tie=None)  # a single layer shares with no other
        stands_alone = bool(said.tie) or (said.kind or default_kind or "") in whole_kinds
        if said.kind is not None and said.kind == default_kind:
            said = replace(said, kind=None)
        parts[name] = _Part(sizes[name], said, stands_alone)
    return parts


def _taken_apart(line: Line, parts: _Parts, sig: Signature) -> tuple[Line, _Parts]:
    """The line with parts of a known size as layers, where visits are not plain."""
    plain = {name for name, part in parts.items() if part.stands_alone or part.size.per_layer}
    chosen = {
        visit.part: int(parts[visit.part].size.constant)
        for visit in visits_in(line)
        if visit.part not in plain and (visit.reverse or visit.each > 1)
    }
    written_out = sum(visit.each * chosen.get(visit.part, 0) for visit in visits_in(line))
    if written_out > MAX_LAYER_VISITS:
        raise SignatureError(
            "too-many-visits",
            f"{written_out} visits of layers in blocks with 'each' or 'reverse'; at most "
            f"{MAX_LAYER_VISITS} can be compared",
            source=sig.source,
            span=sig.body.span,
            hint="lower the number of layers, or the powers",
        )
    layers: _Parts = {}
    for name, size in chosen.items():
        layer = replace(parts[name], size=LinearForm(1))
        layers |= dict.fromkeys([layer_name(name, index) for index in range(size)], layer)
    return with_layers(line, chosen), parts | layers


def _with_few_reversals(line: Line, parts: _Parts) -> Line:
    """The line with each part's layers numbered from the end that its first visit begins at.

    A single layer has no direction.
    """
    first: dict[str, bool] = {}
    for visit in visits_in(line):
        first.setdefault(visit.part, visit.reverse)
    single = {name for name, part in parts.items() if part.size == LinearForm(1)}
    return directed(line, lambda v: v.part not in single and v.reverse != first[v.part])


def _followers(line: Line, parts: _Parts) -> dict[str, str]:
    """The links of the chains: X to Y where Y always follows X and X always precedes Y."""
    after: dict[str, set[str | None]] = {name: set() for name in parts}
    before: dict[str, set[str | None]] = {name: set() for name in parts}
    for inner in lines_in(line):
        left: PartVisit | KeptRepeat | None = None
        for right in (*inner, None):
            joined = _joined(left, right, parts)
            if isinstance(left, PartVisit):
                after[left.part].add(joined and joined[1])
            if isinstance(right, PartVisit):
                before[right.part].add(joined and joined[0])
            left = right
    links = {}
    for part, following in after.items():
        if len(following) == 1:
            (first,) = following
            if first is not None and before[first] == {part}:
                links[part] = first
    return links


def _joined(
    left: PartVisit | KeptRepeat | None, right: PartVisit | KeptRepeat | None, parts: _Parts
) -> tuple[str, str] | None:
    """The names of two neighbours that one block could stand for at this place."""
    if not isinstance(left, PartVisit) or not isinstance(right, PartVisit):
        return None
    if left.reverse or right.reverse or left.each != right.each:
        return None
    one, other = parts[left.part], parts[right.part]
    if one.stands_alone or other.stands_alone or one.said != other.said:
        return None
    return left.part, right.part


def _atom_word(line: Line, inside: set[str], numbers: dict[str, int]) -> Word:
    """The line over atoms; parts ``inside`` a chain go with its head, which gets a number."""
    word: list[AtomVisit | AtomRepeat] = []
    repeats: dict[int, AtomRepeat] = {}
    for step in line:
        if isinstance(step, KeptRepeat):
            if id(step) not in repeats:
                body = _atom_word(step.line, inside, numbers)
                repeats[id(step)] = AtomRepeat(body, step.rounds, step.options, step.owner)
            word.append(repeats[id(step)])
        elif step.part not in inside:
            number = numbers.setdefault(step.part, len(numbers))
            word.append(AtomVisit(number, step.each, step.reverse))
    return tuple(word)


def _chain_size(head: str, follower: dict[str, str], parts: _Parts) -> LinearForm:
    total = parts[head].size
    while head in follower:
        head = follower[head]
        total += parts[head].size
    return total
