"""A word of visits and kept repeats as powers again, a function of the word alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Items
from typing import NamedTuple, TypeAlias

from rinsc.errors import Span
from rinsc.syntax.tree import BlockRef, Repeat, Sequence, repeats

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
    places = [place for place, key in enumerate(keys) if key == owner]
    for rounds in range(len(places), 1, -1):
        if len(places) % rounds:
            continue
        period = places[len(places) // rounds] - places[0]
        earliest = max(0, places[-1] + 1 - period * rounds)
        for start in range(earliest, min(places[0], len(keys) - period * rounds) + 1):
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
