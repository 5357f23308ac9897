"""One spelling for every way of writing the same word of visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rinsc.errors import SignatureError
from rinsc.syntax.expand import check_limits, flatten
from rinsc.syntax.folding import NOWHERE, Atom, body_of, fold
from rinsc.syntax.letters import letter_options
from rinsc.syntax.limits import MAX_TEXT
from rinsc.syntax.options import OF_A_BLOCK, effective, effective_of
from rinsc.syntax.owners import numbered_owners
from rinsc.syntax.printer import to_text
from rinsc.syntax.tree import BlockRef, Node, Option, Repeat, Sequence, Signature, mentions


def canonical(sig: Signature | str) -> str:
    """The canonical spelling: a function of the word of visits, its options and the degree.

    The word is folded into powers again, letters are renamed in order of first use, what is said
    of a block (its size, ``tie``, ``kind``) stands at its first mention, defaults are dropped and
    options sorted. Repeats with options of their own or a free exponent are kept as repeats; one
    that owns weights is written once where it was, and two are not one that is written twice. With
    such a repeat and a degree, every mention of a block stands for weights of its own, so that
    powers stay as they are written. They stay, too, where the folded form would pass a limit of the
    notation; a signature that is at the limits however its blocks are called keeps its text.
    Raises SignatureError (``too-many-visits``, ``too-deep``, ``conflicting-options``), and for a
    text that is no signature.
    """
    if not isinstance(sig, Signature):
        from rinsc.syntax.parser import parse  # here, since it takes its time to load

        sig = parse(sig)
    check_limits(sig)
    tree = numbered_owners(sig.body)
    ways = (True,) if sig.degree > 1 and tree is not sig.body else (False, True)
    for as_written in ways:
        body = Sequence(tuple(_folded(tree, as_written)), NOWHERE)
        spelling = replace(sig, body=_Names(sig).sequence(body))
        text = to_text(spelling)
        if _is_within_limits(spelling, text):
            return text
    return to_text(sig)


def _is_within_limits(spelling: Signature, text: str) -> bool:
    """Whether the spelling can be read again."""
    if len(text) <= MAX_TEXT and "{" not in text:
        return True  # plain powers nest no deeper than the logarithm of the visits
    try:
        check_limits(spelling)
    except SignatureError:
        return False
    return True


def _folded(node: Node, as_written: bool) -> list[Atom]:
    """The items of a tree's canonical form; ``as_written`` keeps its powers."""
    if as_written:
        return _word(node, lambda repeat: repeat.count != 1 or is_kept(repeat), as_written)
    return fold(_word(node, is_kept, as_written))


def _word(node: Node, keep: Callable[[Repeat], bool], as_written: bool) -> list[Atom]:
    """The flat word of a tree, each kept repeat with its body in canonical form."""
    word = flatten(node, keep)
    # A repeat inside a repeat comes as one object many times; its body is worked out once.
    distinct = {id(item): item for item in word}
    atoms = {key: _atom(item, as_written) for key, item in distinct.items()}
    return [atoms[id(item)] for item in word]


def is_kept(repeat: Repeat) -> bool:
    """Whether a repeat says more than its unfolded visits: it has options, or is still free."""
    return isinstance(repeat.count, str) or bool(repeat.options and effective_of(repeat))


def _atom(item: Atom, as_written: bool) -> Atom:
    if isinstance(item, BlockRef):
        visit = tuple(o for o in effective(item.options) if o.name not in OF_A_BLOCK)
        return BlockRef(item.letter, None, visit, NOWHERE)
    body = body_of(_folded(item.body, as_written))
    return Repeat(body, item.count, effective_of(item), NOWHERE, item.owner)


class _Names:
    """Letters in order of first use, each with what is said of it at its first mention."""

    def __init__(self, sig: Signature) -> None:
        self.names: dict[str, str] = {}
        self.sizes = {ref.letter: ref.size for ref in mentions(sig.body) if ref.size is not None}
        self.options = {
            name: tuple(
                Option(key, value, NOWHERE)
                for key, value in (("tie", said.tie), ("kind", said.kind))
                if value is not None
            )
            for name, said in letter_options(sig).items()
        }

    def sequence(self, sequence: Sequence) -> Sequence:
        return replace(sequence, items=tuple(self.node(item) for item in sequence.items))

    def node(self, node: Node) -> Node:
        if isinstance(node, Sequence):
            return self.sequence(node)
        if isinstance(node, Repeat):
            inner = self.node(node.body)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(node, body=inner)
        if node.letter in self.names:
            return replace(node, letter=self.names[node.letter])
        name = self.names[node.letter] = letter_name(len(self.names))
        options = effective(node.options + self.options[node.letter])
        return BlockRef(name, self.sizes.get(node.letter), options, NOWHERE)


def letter_name(index: int) -> str:
    """A to Z, then A1 to Z1, A2 and so on."""
    round_number, place = divmod(index, 26)
    return chr(ord("A") + place) + (str(round_number) if round_number else "")
