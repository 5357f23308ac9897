"""A word of visits and kept repeats as powers again, a function of the word alone."""

from __future__ import annotations

from collections import Counter
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
    comes first, the highest one and, of those, the leftmost. In what is left, from left to right,
    the repetition that saves most (period x (rounds - 1)) is folded, the shortest period where two
    save the same. The period is folded in turn.

    A word that no tree with each owner once could have written is an AssertionError.
    """
    numbers: dict[Atom, int] = {}
    keys = [numbers.setdefault(atom, len(numbers)) for atom in word]
    atoms = list(numbers)
    owning = {key for key, atom in enumerate(atoms) if _owns_weights(atom)}
    return _fold(keys, atoms, owning)


def body_of(items: Items[Atom]) -> BlockRef | Sequence:
    """What a power is put on: one block, else a group."""
    if len(items) == 1 and isinstance(items[0], BlockRef):
        return items[0]
    return Sequence(tuple(items), NOWHERE)


def _owns_weights(atom: Atom) -> bool:
    """Whether some repeat of the atom has an owner, so that the atom is to be written once."""
    return any(repeat.owner for repeat in repeats(atom))


def _fold(keys: list[int], atoms: list[Atom], owning: set[int]) -> list[Atom]:
    folded: list[Atom] = []
    while keys:
        power = _power_of_owner(keys, owning) or _first_power(keys)
        folded += _fold(keys[: power.start], atoms, owning)
        if power.rounds > 1:
            body = body_of(_fold(keys[power.start :][: power.period], atoms, owning))
            folded.append(Repeat(body, power.rounds, (), NOWHERE))
        else:
            folded.append(atoms[keys[0]])
        keys = keys[power.end :]
    return folded


def _power_of_owner(keys: list[int], owning: set[int]) -> _Power | None:
    """The power around the first owner that runs more than once; None when there is no such one.

    All its runs lie in one power, evenly many in each round, so that the first runs of two rounds
    are a period apart; a power that cuts another owner's runs in two is none.
    """
    runs = Counter(key for key in keys if key in owning)
    owner = next((key for key in keys if runs[key] > 1), None)
    if owner is None:
        return None
    places = [place for place, key in enumerate(keys) if key == owner]
    for rounds in range(len(places), 1, -1):
        if len(places) % rounds:
            continue
        period = places[len(places) // rounds] - places[0]
        earliest = max(0, places[-1] + 1 - period * rounds)
        for start in range(earliest, min(places[0], len(keys) - period * rounds) + 1):
            power = _Power(start, period, rounds)
            if _is_power(keys, power) and _is_whole(keys, power, runs):
                return power
    raise AssertionError("the runs of an owner lie in no power")


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
