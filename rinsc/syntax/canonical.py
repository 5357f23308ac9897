"""One spelling for every way of writing the same word of visits, as powers again.

>>> [canonical(text) for text in ("AAAB", "(A^3)B", "XXXY", "A^2(AB)")]
['A^3B', 'A^3B', 'A^3B', 'A^3B']
>>> canonical("ABABC"), canonical("AABAAB")  # groups are found
('(AB)^2C', '(A^2B)^2')
>>> canonical("B[4] A B")  # letters in order of first use, sizes at the first mention
'A[4]BA'
>>> canonical("A^2{skip=0.5}A")  # a repeat that has options stays as it is
'A^2{skip=0.5}A'
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import replace
from itertools import count
from typing import NamedTuple, TypeAlias

from rinsc.errors import SignatureError, Span
from rinsc.syntax.expand import check_limits, flatten
from rinsc.syntax.options import OF_A_BLOCK, effective, effective_of, is_kept
from rinsc.syntax.settings import letter_options, repeat_options
from rinsc.syntax.towers import tower_signatures
from rinsc.syntax.tree import (
    MAX_TEXT,
    BlockRef,
    Node,
    Option,
    Repeat,
    Sequence,
    Signature,
    Towers,
    mentions,
    repeats,
    rewritten,
    to_text,
)


def numbered_owners(body: Sequence) -> Sequence:
    """The tree with the repeats that own weights numbered from 1, in the order of the text.

    So ``(A^2{adapter=scale})^2`` has one owner, and ``A^2{adapter=scale}A^2{adapter=scale}`` two
    that differ. Without any it is the tree itself.
    """
    if not any(_repeat_owns_weights(repeat) for repeat in repeats(body)):
        return body
    numbers = count(1)

    def numbered(repeat: Repeat) -> Repeat:
        return replace(repeat, owner=next(numbers) if _repeat_owns_weights(repeat) else 0)

    return rewritten(body, repeat=numbered)


def _repeat_owns_weights(repeat: Repeat) -> bool:
    return bool(repeat.options) and repeat_options(repeat.options).owns_weights


Atom: TypeAlias = BlockRef | Repeat

NOWHERE = Span(0, 0)


class _Power(NamedTuple):
    """Where a power stands in a word: ``rounds`` times the ``period`` atoms from ``start`` on."""

    start: int
    period: int
    rounds: int

    @property
    def end(self) -> int:
        return self.start + self.period * self.rounds


def fold(word: Items[Atom]) -> list[Atom]:
    """The word with its repetitions as powers.

    A repeat with weights of its own is written once, however often it runs: the power around it
    comes first, the highest one and, of those, the leftmost whose inside can be written too. In
    what is left, from left to right, the repetition that saves most (period x (rounds - 1)) is
    folded, the shortest period where two save the same. The period is folded in turn.

    A word that no tree with each owner once could have written is an AssertionError.
    """
    numbers: dict[Atom, int] = {}
    keys = [numbers.setdefault(atom, len(numbers)) for atom in word]
    folded = _Folding(list(numbers)).fold(keys)
    assert folded is not None, "the runs of an owner lie in no power"
    return folded


def body_of(items: Items[Atom]) -> BlockRef | Sequence:
    """What a power is put on: one block, else a group."""
    if len(items) == 1 and isinstance(items[0], BlockRef):
        return items[0]
    return Sequence(tuple(items), NOWHERE)


def _owns_weights(atom: Atom) -> bool:
    """Whether some repeat of the atom has an owner, so that the atom is to be written once."""
    return any(repeat.owner for repeat in repeats(atom))


class _Folding:
    """The search for powers in words over ``atoms``, which keys stand for.

    Where the power around an owner can begin at several places, some leave no way to write what
    is inside it: in ``A B O A O A B O A O A`` the power ``(A B O A O)^2`` does, ``(B O A O A)^2``
    does not. So a choice is taken back when it leads nowhere.
    """

    def __init__(self, atoms: list[Atom]) -> None:
        self._atoms = atoms
        self._owning = {key for key, atom in enumerate(atoms) if _owns_weights(atom)}
        self._hopeless: set[tuple[int, ...]] = set()

    def fold(self, keys: list[int]) -> list[Atom] | None:
        """The items of the word; None where an owner would have to be written twice."""
        runs = Counter(key for key in keys if key in self._owning)
        owner = next((key for key in keys if runs[key] > 1), None)
        if owner is None:
            return self._fold_freely(keys)
        word = tuple(keys)
        if word not in self._hopeless:
            for power in _powers_around(owner, keys, runs):
                body = self.fold(keys[power.start :][: power.period])
                rest = None if body is None else self.fold(keys[power.end :])
                if body is not None and rest is not None:
                    before = self._fold_freely(keys[: power.start])
                    return [*before, _repeat(body, power), *rest]
            self._hopeless.add(word)
        return None

    def _fold_freely(self, keys: list[int]) -> list[Atom]:
        """The items of a word in which each owner runs at most once."""
        folded: list[Atom] = []
        while keys:
            power = _first_power(keys)
            if power.rounds > 1:
                folded.append(_repeat(self._fold_freely(keys[: power.period]), power))
            else:
                folded.append(self._atoms[keys[0]])
            keys = keys[power.end :]
        return folded


def _repeat(body: Items[Atom], power: _Power) -> Repeat:
    return Repeat(body_of(body), power.rounds, (), NOWHERE)


def _powers_around(owner: int, keys: list[int], runs: Counter[int]) -> Iterator[_Power]:
    """The powers that hold all runs of ``owner``, the highest first, of these the leftmost.

    Each round has equally many runs, so that the first runs of two rounds are a period apart; a
    power that cuts another owner's runs in two is none.
    """
    positions = [position for position, key in enumerate(keys) if key == owner]
    for rounds in range(len(positions), 1, -1):
        if len(positions) % rounds:
            continue
        period = positions[len(positions) // rounds] - positions[0]
        earliest = max(0, positions[-1] + 1 - period * rounds)
        for start in range(earliest, min(positions[0], len(keys) - period * rounds) + 1):
            power = _Power(start, period, rounds)
            if _is_power(keys, power) and _is_whole(keys, power, runs):
                yield power


def _is_power(keys: list[int], power: _Power) -> bool:
    one_round_on = power.start + power.period
    return keys[power.start : power.end - power.period] == keys[one_round_on : power.end]


def _is_whole(keys: list[int], power: _Power, runs: Counter[int]) -> bool:
    """Whether each owner inside runs nowhere else."""
    inside = Counter(keys[power.start : power.end])
    return all(inside[key] in (0, times) for key, times in runs.items())


def _first_power(keys: list[int]) -> _Power:
    """The repetition at the start that saves most; the first atom once when there is none."""
    best, best_saving = _Power(0, 1, 1), 0
    for period, match in enumerate(_z_function(keys)):
        # A match of m keys at distance p means that the first p + m keys have period p.
        if period and match >= period and match // period * period > best_saving:
            best, best_saving = _Power(0, period, match // period + 1), match // period * period
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

    >>> canonical("AAAB")
    'A^3B'
    """
    if not isinstance(sig, Signature):
        from rinsc.syntax.parser import parse  # here, since it takes its time to load

        sig = parse(sig)
    return to_text(respelled(sig, {}) or sig)


def canonical_towers(towers: Towers) -> str:
    """The canonical spelling: towers sorted by name, each as `canonical` spells it.

    Letters are renamed in order of first use over all towers, and what is said of a letter stands
    at its first mention of all. Towers at the limits of the notation keep their text.
    """
    names: dict[str, str] = {}
    signatures, spelled = tower_signatures(towers), []
    for tower in sorted(towers.towers, key=lambda tower: tower.name):
        spelling = respelled(signatures[tower.name], names)
        if spelling is None:
            return to_text(towers)
        spelled.append(replace(tower, signature=spelling))
    text = to_text(replace(towers, towers=tuple(spelled)))
    return text if len(text) <= MAX_TEXT else to_text(towers)


def respelled(sig: Signature, names: dict[str, str]) -> Signature | None:
    """The tree of the canonical spelling, see `canonical`; None where none is within the limits.

    ``names`` are the new names of letters that other towers have mentioned before: nothing is said
    of such a letter again. The letters of ``sig`` are added to it.
    """
    check_limits(sig)
    tree = numbered_owners(sig.body)
    ways = (True,) if sig.degree > 1 and tree is not sig.body else (False, True)
    for as_written in ways:
        body = Sequence(tuple(_folded(tree, as_written)), NOWHERE)
        naming = _Names(sig, dict(names))
        spelling = replace(sig, body=rewritten(body, ref=naming.spelled))
        if _is_within_limits(spelling, to_text(spelling)):
            names.update(naming.names)
            return spelling
    return None


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


def _atom(item: Atom, as_written: bool) -> Atom:
    if isinstance(item, BlockRef):
        visit = tuple(o for o in effective(item.options) if o.name not in OF_A_BLOCK)
        return BlockRef(item.letter, None, visit, NOWHERE)
    body = body_of(_folded(item.body, as_written))
    return Repeat(body, item.count, effective_of(item), NOWHERE, item.owner)


class _Names:
    """Letters in order of first use, each with what is said of it at its first mention."""

    def __init__(self, sig: Signature, names: dict[str, str]) -> None:
        self.names = names
        self.sizes = {ref.letter: ref.size for ref in mentions(sig.body) if ref.size is not None}
        self.options = {
            name: tuple(
                Option(key, value, NOWHERE)
                for key, value in (("tie", block.tie), ("kind", block.kind))
                if value is not None
            )
            for name, block in letter_options(sig).items()
        }

    def spelled(self, ref: BlockRef) -> BlockRef:
        """The mention under its new letter."""
        if ref.letter in self.names:
            return replace(ref, letter=self.names[ref.letter])
        name = self.names[ref.letter] = letter_name(len(self.names))
        options = effective(ref.options + self.options[ref.letter])
        return BlockRef(name, self.sizes.get(ref.letter), options, NOWHERE)


def letter_name(index: int) -> str:
    """A to Z, then A1 to Z1, A2 and so on."""
    round_number, letter = divmod(index, 26)
    return chr(ord("A") + letter) + (str(round_number) if round_number else "")
