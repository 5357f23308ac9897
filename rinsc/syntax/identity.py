"""When two signatures are the same model: the schedule of physical layers up to renaming.

In goes a signature, out comes a word of *atoms*: parts that always stand together, numbered
by first use. Behind the bar are the sizes of the atoms, for a stack of L layers:

    >>> from rinsc.syntax import parse
    >>> def text(signature):
    ...     return identity(parse(signature)).text
    >>> text("A^2"), text("ABAB")  # in ABAB, A and B together are one atom
    ('0 0|0+1L', '0 0|0+1L')
    >>> text("AAB"), text("(X^2)Y")  # names mean nothing
    ('0 0 1|0+1/2L 0+1/2L', '0 0 1|0+1/2L 0+1/2L')
    >>> text("A^2{skip=0.5}") == text("A^2")  # what a repeat does in training counts
    False

A block that is visited from last to first is taken apart into its layers:

    >>> text("A[2] A{reverse}"), text("ABBA")
    ('0 1 1 0|1+0L 1+0L', '0 1 1 0|0+1/2L 0+1/2L')
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from rinsc.errors import SignatureError, plural
from rinsc.storage.files import short_digest
from rinsc.syntax.canonical import numbered_owners
from rinsc.syntax.expand import (
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
from rinsc.syntax.normal import NormalForm, normal_form
from rinsc.syntax.settings import BlockOptions, RepeatOptions
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


def atoms_of(word: Word) -> Iterator[int]:
    """The atoms that a word visits, those of repeats as they are written."""
    for item in word:
        if isinstance(item, AtomRepeat):
            yield from atoms_of(item.word)
        else:
            yield item.atom


@dataclass(frozen=True)
class Identity:
    """The word of each tower over atoms, numbered by first use, and what each atom is.

    Equal: the same model. Towers are sorted by name; a plain signature is one tower without a name.
    """

    words: tuple[tuple[str, Word], ...]
    sizes: tuple[LinearForm, ...]
    blocks: tuple[BlockOptions, ...]

    @property
    def word(self) -> Word:
        """The word of a model of one tower."""
        ((_, word),) = self.words
        return word

    @property
    def text(self) -> str:
        """A text that is equal exactly when the identities are."""
        words = ", ".join(
            f"{name}: {_word_text(word)}" if name else _word_text(word) for name, word in self.words
        )
        sizes = " ".join(f"{size.constant}+{size.per_layer}L" for size in self.sizes)
        options = " ".join(f"{block.tie}/{block.kind}" for block in self.blocks)
        plain = all(block == BlockOptions() for block in self.blocks)
        return f"{words}|{sizes}" + ("" if plain else f"|{options}")


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
    options: BlockOptions
    stands_alone: bool
    layers: tuple[BlockOptions, ...] = ()  # what is said of each layer, where they differ


_Parts: TypeAlias = dict[str, _Part]
LayerKinds: TypeAlias = Mapping[str, Sequence[str]]


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

    Raises SignatureError as `normal_form`, and (``too-many-visits``) for more than
    `MAX_LAYER_VISITS` layers to be taken apart.
    """
    return identity_of_towers({"": normal_form(sig, layers)}, {"": default_kind}, whole_kinds)


def identity_of_towers(
    forms: Mapping[str, NormalForm],
    default_kinds: Mapping[str, str | None],
    whole_kinds: Container[str] = (),
    layer_kinds: Mapping[str, LayerKinds] | None = None,
) -> Identity:
    """`identity` of towers by name, whose equal letters are the same blocks; of one without a name.

    What is said of a letter must stand in the signature of each tower (`tower_signatures`). Raises
    SignatureError for a block that has another size in another tower. Where layers of a kind
    differ, ``layer_kinds`` has what each layer is in place of its kind, by tower and block.
    """
    parts: _Parts = {}
    lines: dict[str, Line] = {}
    for name, form in sorted(forms.items()):
        lines[name] = line_of(numbered_owners(form.tree.body))
        own = _parts(form, default_kinds.get(name), whole_kinds, named=len(forms) > 1)
        _require_equal_sizes(parts, own, name, form.signature)
        if layer_kinds is not None:
            own = {part: _of_layers(own[part], layer_kinds[name][part]) for part in own}
        parts |= own
    visits = [visit for line in lines.values() for visit in visits_in(line)]
    if layer_kinds or any(visit.reverse or visit.each > 1 for visit in visits):
        lines, parts = _taken_apart(lines, parts, forms)
        lines = _with_few_reversals(lines, parts)
    follower = _followers(lines, parts)
    numbers: dict[str, int] = {}
    inside = set(follower.values())
    words = tuple([(name, _atom_word(line, inside, numbers)) for name, line in lines.items()])
    forms_of_atoms = tuple([_chain_size(head, follower, parts) for head in numbers])
    return Identity(words, forms_of_atoms, tuple([parts[head].options for head in numbers]))


def _require_equal_sizes(known: _Parts, own: _Parts, name: str, sig: Signature) -> None:
    for part in known.keys() & own.keys():
        here, there = own[part].size, known[part].size
        if here != there and not (here.per_layer or there.per_layer):
            message = f"{part} has {plural(int(here.constant), 'layer')} in {name} "
            message += f"and {there.constant} in another tower"
            hint = f"write its size, as in {part}[{there.constant}], or other numbers of layers"
            span = sig.body.span
            raise SignatureError(
                "layers-mismatch", message, source=sig.source, span=span, hint=hint
            )


def schedule_fingerprint(sig: Signature, layers: int | None = None) -> str:
    """A short digest of `identity`, which see for the errors."""
    return short_digest(identity(sig, layers).text)


def _part_sizes(form: NormalForm) -> dict[str, LinearForm]:
    """The size of each part, exact; an even split where it depends on the stack."""
    written = sum(split.layers for split in form.splits)
    sizes = {name: LinearForm(n) for split in form.splits for name, n in split.sizes().items()}
    if form.layers is None and form.unsized:
        count = len(form.unsized)
        share = LinearForm(Fraction(-written, count), Fraction(1, count))
        sizes |= dict.fromkeys(form.unsized, share)
    return sizes


def _parts(
    form: NormalForm, default_kind: str | None, whole_kinds: Container[str], *, named: bool
) -> _Parts:
    """The parts of one tower; those of several are ``named``: each has its kind."""
    parts, sizes = {}, _part_sizes(form)
    for name, block in form.options.items():
        if block.tie and sizes[name] == LinearForm(1):
            block = replace(block, tie=None)  # a single layer shares with no other
        stands_alone = bool(block.tie) or (block.kind or default_kind or "") in whole_kinds
        if named:
            block = replace(block, kind=block.kind or default_kind)
        elif block.kind is not None and block.kind == default_kind:
            block = replace(block, kind=None)
        parts[name] = _Part(sizes[name], block, stands_alone)
    return parts


def _of_layers(part: _Part, kinds: Sequence[str]) -> _Part:
    """The part with the kinds of its layers in place of its own."""
    if len(set(kinds)) == 1:
        return replace(part, options=replace(part.options, kind=kinds[0]))
    if part.stands_alone:
        return replace(part, options=replace(part.options, kind=short_digest(" ".join(kinds))))
    return replace(part, layers=tuple([replace(part.options, kind=kind) for kind in kinds]))


def _taken_apart(
    lines: dict[str, Line], parts: _Parts, forms: Mapping[str, NormalForm]
) -> tuple[dict[str, Line], _Parts]:
    """The lines with parts of a known size as layers, where visits are not plain."""
    plain = {name for name, part in parts.items() if part.stands_alone or part.size.per_layer}
    chosen = {
        visit.part: int(parts[visit.part].size.constant)
        for line in lines.values()
        for visit in visits_in(line)
        if visit.part not in plain and (visit.reverse or visit.each > 1 or parts[visit.part].layers)
    }
    for name, line in lines.items():
        written_out = sum(visit.each * chosen.get(visit.part, 0) for visit in visits_in(line))
        if written_out > MAX_LAYER_VISITS:
            raise SignatureError(
                "too-many-visits",
                f"{written_out} visits of layers in blocks with 'each' or 'reverse'; at most "
                f"{MAX_LAYER_VISITS} can be compared",
                source=forms[name].signature.source,
                span=forms[name].signature.body.span,
                hint="lower the number of layers, or the powers",
            )
    layers: _Parts = {}
    for name, size in chosen.items():
        layer = replace(parts[name], size=LinearForm(1), layers=())
        own = parts[name].layers or (layer.options,) * size
        layers |= {
            layer_name(name, i): replace(layer, options=options) for i, options in enumerate(own)
        }
    return {name: with_layers(line, chosen) for name, line in lines.items()}, parts | layers


def _with_few_reversals(lines: dict[str, Line], parts: _Parts) -> dict[str, Line]:
    """The lines with each part's layers numbered from the end that its first visit begins at.

    A single layer has no direction.
    """
    first: dict[str, bool] = {}
    for line in lines.values():
        for visit in visits_in(line):
            first.setdefault(visit.part, visit.reverse)
    single = {name for name, part in parts.items() if part.size == LinearForm(1)}

    def is_reversed(visit: PartVisit) -> bool:
        return visit.part not in single and visit.reverse != first[visit.part]

    return {name: directed(line, is_reversed) for name, line in lines.items()}


def _followers(lines: Mapping[str, Line], parts: _Parts) -> dict[str, str]:
    """The links of the chains: X to Y where Y always follows X and X always precedes Y."""
    after: dict[str, set[str | None]] = {name: set() for name in parts}
    before: dict[str, set[str | None]] = {name: set() for name in parts}
    for inner in (inner_line for line in lines.values() for inner_line in lines_in(line)):
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
    if one.stands_alone or other.stands_alone or one.options != other.options:
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
