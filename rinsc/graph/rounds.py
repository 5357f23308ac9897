"""Rounds asked for at run time: all ways to say them, read and checked once, as one value.

``3``, ``"3"``, ``{"A": 3}``, ``"A=3"`` and numbers of numpy and torch say the same of ``(A^2)B``.
Every entry hands what it is given to `resolve_rounds`, or to `several_rounds` where it takes more
than one number. What comes out is passed on inside, and not checked again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeAlias

from rinsc.errors import GraphError, Problem, did_you_mean, plural
from rinsc.graph.nodes import BlockGraph, checked_count
from rinsc.graph.verify import verified
from rinsc.scalars import whole
from rinsc.syntax.options import largest_draw
from rinsc.syntax.tree import MAX_ROUNDS as MAX_ROUNDS

# Every way to say one number of rounds for each repeat; None says nothing.
Rounds: TypeAlias = int | str | Mapping[str, int] | None

SHOWN_ROUNDS = 8  # one after the other, where there are more
MAX_RUN_VISITS = 1 << 16  # of all blocks: what nested repeats multiply to
MAX_SEVERAL = 32  # numbers of rounds that one text may list
_RANGE = re.compile(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?")
_HOW_TO_LIST = "write 1..4, 1,2,4 or 3; of one repeat A=1..4"


class CheckedRounds(dict[str, int]):
    """Rounds of every dial of a graph by name, as `resolve_rounds` has checked them."""

    graph: BlockGraph | None = None

    def __setitem__(self, name: str, count: int) -> NoReturn:
        raise TypeError("checked rounds cannot be changed; resolve others")

    def __reduce__(self) -> tuple[object, ...]:
        return dict, (dict(self),)


def resolve_rounds(
    graph: BlockGraph, rounds: Rounds, written: Mapping[str, int] | None = None
) -> CheckedRounds:
    """Rounds of every dial by its name; repeats that ``rounds`` leaves out run as ``written``.

    These are the rounds of the signature unless you give others. One number sets every dial; those
    of numpy and torch are welcome, and so is a text, ``"3"`` or ``"A=2, B=4"``. Raises `GraphError`
    for an unknown repeat, for rounds that are not whole numbers from 1 to `MAX_ROUNDS`, and for
    more than `MAX_RUN_VISITS` visits in all.
    """
    if isinstance(rounds, CheckedRounds) and rounds.graph is graph:
        return rounds
    own = {loop.name: loop.rounds for loop in verified(graph).dials()}
    if written is not None:
        own = {name: written.get(name, count) for name, count in own.items()}
    counts = own if rounds is None else _asked_rounds(own, plain_rounds(rounds))
    if rounds is not None:
        _check_visits(graph, counts)
    checked = CheckedRounds(counts)
    checked.graph = graph
    return checked


def several_rounds(
    graph: BlockGraph,
    rounds: Rounds | Iterable[Rounds],
    written: Mapping[str, int] | None = None,
) -> list[CheckedRounds]:
    """`resolve_rounds` of several numbers of rounds, each once, in the order in which they come.

    A text may list them, and those of one repeat: ``"1..4"``, ``"1,2,8"``, ``"A=1..3"``. They come
    fewest first then. Raises `GraphError` as `resolve_rounds`, and for a text that lists none or
    more than `MAX_SEVERAL`.
    """
    every = [resolve_rounds(graph, way, written) for way in listed_rounds(rounds)]
    return [counts for index, counts in enumerate(every) if counts not in every[:index]]


def listed_rounds(rounds: Rounds | Iterable[Rounds]) -> list[Rounds]:
    """What `several_rounds` is asked, one after the other: ``"1..3"`` as 1, 2, 3."""
    ways: list[Rounds]
    if isinstance(rounds, str | Mapping) or whole(rounds) is not None:
        ways = [rounds]  # type: ignore[list-item]
    else:
        ways = list(rounds) if isinstance(rounds, Iterable) else [rounds]
    texts = [way for way in ways if isinstance(way, str)]
    if len(texts) == len(ways):
        return _listed_rounds(texts)
    return [n for way in ways for n in (_listed_rounds([way]) if way in texts else [way])]


def _listed_rounds(texts: Iterable[str]) -> list[Rounds]:
    """``["1..3", "A=1,2"]`` as 1, 2, 3, {"A": 1} and {"A": 2}; "" is every repeat."""
    numbers: dict[str, set[int]] = {}
    for text in texts:
        name = ""
        for item in text.split(","):
            before, equals, numeral = item.rpartition("=")
            name = before.strip() if equals else name
            numbers.setdefault(name, set()).update(_range(numeral.strip(), text))
            if sum(map(len, numbers.values())) > MAX_SEVERAL:
                raise _too_many()
    return [{name: count} if name else count for name in numbers for count in sorted(numbers[name])]


def _range(numeral: str, text: str) -> range:
    match = _RANGE.fullmatch(numeral)
    if match is None:
        message = f"rounds cannot be '{text[:60]}'"
        raise GraphError("bad-rounds", message, hint=_HOW_TO_LIST)
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise GraphError("bad-rounds", f"rounds {numeral} run backwards", hint=f"{last}..{first}")
    if last - first >= MAX_SEVERAL:
        raise _too_many()
    return range(first, last + 1)


def _too_many() -> GraphError:
    message = f"more than {MAX_SEVERAL} numbers of rounds are asked for"
    return GraphError("bad-rounds", message, hint="write some of them, as 1,2,4,8")


def _check_visits(graph: BlockGraph, counts: Mapping[str, int]) -> None:
    visits = sum(graph.visit_counts(counts).values())
    if visits > MAX_RUN_VISITS:
        message = f"these rounds visit blocks {visits:.2e} times; at most {MAX_RUN_VISITS} are run"
        raise GraphError("too-many-visits", message, hint="ask for fewer rounds")


def plain_rounds(rounds: Rounds) -> Rounds:
    """The same rounds with Python's own numbers in place of those of other libraries and of text.

    What says no rounds stays as it is, for `resolve_rounds` to refuse.
    """
    if isinstance(rounds, str):
        return spelled_rounds(rounds)
    if isinstance(rounds, Mapping):
        return {name: whole(count) or count for name, count in rounds.items()}
    return None if rounds is None else whole(rounds) or rounds


def named_rounds(graph: BlockGraph, rounds: Rounds) -> dict[str, int] | None:
    """Checked rounds of those repeats alone that ``rounds`` names; None where it says nothing.

    For passes in which the others may still be drawn. Raises `GraphError` as `resolve_rounds`.
    """
    if rounds is None:
        return None
    counts, numbers = resolve_rounds(graph, rounds), plain_rounds(rounds)
    names = numbers if isinstance(numbers, Mapping) else counts
    return {name: counts[name] for name in names} or None


def spelled_rounds(text: str) -> int | dict[str, int] | str:
    """``3`` as a number, ``A=2, B=4`` as a mapping; the text itself where it says no rounds."""
    if text.strip().isdecimal() and len(text.strip()) < 10:
        return int(text)
    counts: dict[str, int] = {}
    for pair in text.split(","):
        name, _, count = (side.strip() for side in pair.partition("="))
        if not name or name in counts or not count.isdecimal() or len(count) > 9:
            return text
        counts[name] = int(count)
    return counts


def rounds_in_words(counts: Mapping[str, int]) -> str:
    """``3``, or ``A=3, B=2`` where repeats differ; nothing where there are none."""
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{name}={count}" for name, count in counts.items())


def rounds_up_to(most: int) -> list[int]:
    """Numbers to show: 1 to ``most``; where that is a long way, doubled ones, and ``most``."""
    if most <= SHOWN_ROUNDS:
        return list(range(1, most + 1))
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


class RoundsWarning(UserWarning):
    """A model runs more rounds than it was trained at; what it gives may be worth little."""


def trained_rounds(graph: BlockGraph) -> dict[str, int]:
    """The most rounds of every dial in training, by the signature.

    Those that its sampler draws (`largest_draw`), or those written where it has none.
    """
    return {
        loop.name: largest_draw(loop.options.sample) if loop.options.sample else loop.rounds
        for loop in verified(graph).dials()
    }


def beyond_training(rounds: Mapping[str, int], trained: Mapping[str, int]) -> str | None:
    """What is to be said of ``rounds`` above the ``trained`` ones; None where there are none."""
    above = [
        f"repeat '{name}' runs {plural(count, 'round')} and was trained at {trained[name]} at most"
        for name, count in rounds.items()
        if count > trained.get(name, count)
    ]
    return "; ".join(above) or None


def _asked_rounds(written: Mapping[str, int], rounds: Rounds) -> dict[str, int]:
    """Each repeat's rounds, each of them possible alone."""
    if not isinstance(rounds, Mapping):
        count = checked_count(rounds, "")
        if not written and count != 1:
            raise GraphError.of(_unknown_repeat("", written))
        return dict.fromkeys(written, count)
    counts = dict(written)
    for name, value in rounds.items():
        if name not in written:
            raise GraphError.of(_unknown_repeat(str(name), written))
        counts[name] = checked_count(value, f" of repeat '{name}'")
    return counts


def _unknown_repeat(name: str, written: Mapping[str, int]) -> Problem:
    if not written:
        message = "rounds were given, but this model has no repeat"
        return Problem("unknown-repeat", message, hint="write one into the signature, as in A^3B")
    message = f"'{name}' is not a repeat of this model"
    return Problem("unknown-repeat", message, hint=did_you_mean(name, written))
