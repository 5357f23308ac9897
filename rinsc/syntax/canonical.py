"""One spelling for every way of writing the same word of visits."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import replace
from typing import TypeAlias

from rinsc.errors import Span
from rinsc.syntax.degree import mentions
from rinsc.syntax.expand import check_limits, flatten
from rinsc.syntax.options import effective
from rinsc.syntax.printer import to_text
from rinsc.syntax.tree import BlockRef, Node, Repeat, Sequence, Signature

_Atom: TypeAlias = BlockRef | Repeat

_NOWHERE = Span(0, 0)


def canonical(sig: Signature | str) -> str:
    """The canonical spelling: a function of the word of visits, its options and the degree.

    The word is folded into powers again, letters are renamed in order of first use, a size stands
    at the first mention, defaults are dropped and options sorted. Repeats with options of their
    own or a free exponent are kept as repeats. Raises SignatureError (``too-many-visits``,
    ``too-deep``), and for a text that is no signature.
    """
    if isinstance(sig, str):
        from rinsc.syntax.parser import parse  # here, since it takes its time to load

        sig = parse(sig)
    check_limits(sig)
    sizes = {ref.letter: ref.size for ref in mentions(sig.body) if ref.size is not None}
    body = Sequence(tuple(_fold(_word(sig.body))), _NOWHERE)
    return to_text(replace(sig, body=_rename(body, sizes)))


def _word(node: Node) -> list[_Atom]:
    """The flat word of a tree, each kept repeat with its body in canonical form."""
    word = flatten(node, keep=is_kept)
    # A repeat inside a repeat comes as one object many times; its body is worked out once.
    atoms = {id(item): _atom(item) for item in {id(item): item for item in word}.values()}
    return [atoms[id(item)] for item in word]


def is_kept(repeat: Repeat) -> bool:
    """Whether a repeat says more than its unfolded visits: it has options, or is still free."""
    return isinstance(repeat.count, str) or bool(effective(repeat.options))


def _atom(item: _Atom) -> _Atom:
    options = effective(item.options)
    if isinstance(item, BlockRef):
        return BlockRef(item.letter, None, options, _NOWHERE)
    body = _body(_fold(_word(item.body)))
    return Repeat(body, item.count, options, _NOWHERE)


def _body(items: Items[_Atom]) -> BlockRef | Sequence:
    """What a power is put on: one block, else a group."""
    if len(items) == 1 and isinstance(items[0], BlockRef):
        return items[0]
    return Sequence(tuple(items), _NOWHERE)


def _fold(word: Items[_Atom]) -> list[_Atom]:
    """The word with its repetitions as powers.

    From left to right, the repetition that saves most (period x (count - 1)) is folded, the
    shortest period where two save the same; the period is folded in turn.
    """
    numbers: dict[_Atom, int] = {}
    keys = [numbers.setdefault(atom, len(numbers)) for atom in word]
    folded: list[_Atom] = []
    start = 0
    while start < len(word):
        period, count = _best_repetition(keys[start:])
        if count > 1:
            body = _body(_fold(word[start : start + period]))
            folded.append(Repeat(body, count, (), _NOWHERE))
        else:
            folded.append(word[start])
        start += period * count
    return folded


def _best_repetition(keys: list[int]) -> tuple[int, int]:
    """(period, count) of the repetition at the start that saves most; (1, 1) when there is none."""
    best, best_saving = (1, 1), 0
    for period, match in enumerate(_z_function(keys)):
        # A match of m keys at distance p means that the first p + m keys have period p.
        if period and match >= period and match // period * period > best_saving:
            best, best_saving = (period, match // period + 1), match // period * period
    return best


def _z_function(keys: list[int]) -> list[int]:
    """z[i] is how many keys from position i on equal those from the start on; z[0] is unused."""
    length = len(keys)
    z = [0] * length
    left = right = 0
    for i in range(1, length):
        match = min(right - i, z[i - left]) if i < right else 0
        while i + match < length and keys[match] == keys[i + match]:
            match += 1
        if i + match > right:
            left, right = i, i + match
        z[i] = match
    return z


def _rename(body: Sequence, sizes: dict[str, int]) -> Sequence:
    """The same tree with letters A, B, ... in order of first use, sized at their first mention."""
    names: dict[str, str] = {}

    def renamed(node: _Atom | Sequence) -> Node:
        if isinstance(node, Sequence):
            return replace(node, items=tuple(renamed(item) for item in node.items))
        if isinstance(node, Repeat):
            inner = renamed(node.body)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(node, body=inner)
        size = None if node.letter in names else sizes.get(node.letter)
        name = names.setdefault(node.letter, letter_name(len(names)))
        return replace(node, letter=name, size=size)

    return Sequence(tuple(renamed(item) for item in body.items), _NOWHERE)


def letter_name(index: int) -> str:
    """A to Z, then A1 to Z1, A2 and so on."""
    round_number, place = divmod(index, 26)
    return chr(ord("A") + place) + (str(round_number) if round_number else "")
