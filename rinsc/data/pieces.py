"""Long texts in pieces, whose tokens in a row are those of the whole text.

A library needs some hundred bytes of memory for each token, so a long text is encoded piece by
piece. A cut must not change a token. So each piece is encoded behind some bytes of the text before
it, its context, whose tokens are dropped again; and a cut counts only where the tokens before it
are the same with the text after it and without::

    text       ... the cat sat on the mat. And the ...
    cut                         ^                       after "on"
    context             the cat sat on                  as 5 tokens
    next piece          the cat sat on the mat. And     without its first 5 tokens

Where no such place is known beforehand, as in a text without a space, the tokens of a piece say
where it can be cut: where encoding anew from an earlier token's beginning gives the same tokens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

PIECE_BYTES = 1 << 14
CONTEXT_BYTES = 1 << 9
GROUP_BYTES = PIECE_BYTES * max(4, os.cpu_count() or 1)  # encoded at once, on all cores
WIDER_BYTES = (1 << 11, 1 << 12)  # where the first places that are tried are none
TRIED_SPACES = 4  # places after white space at which a cut is tried
TRIED_TOKENS = 12  # tokens at whose end a cut is tried

Ints: TypeAlias = npt.NDArray[np.int64]
# uint16 as long as the vocabulary fits into 16 bits, else uint32.
TokenIds: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
ByteCounts: TypeAlias = npt.NDArray[np.int64]
TextBytes: TypeAlias = npt.NDArray[np.integer[Any]]  # of each token of a text


@dataclass(frozen=True)
class Piece:
    """Tokens of a text: ids, the bytes of the text at which they end, and which text it is."""

    ids: Ints
    ends: Ints
    text: int = 0
    is_last: bool = True


Encode: TypeAlias = Callable[[Sequence[bytes]], Sequence[Piece]]


@dataclass(frozen=True)
class _Cut:
    """A piece begins at ``start``; it is encoded from ``context`` on, without ``skipped`` ids."""

    start: int
    context: int
    skipped: Ints


def encoded_pieces(texts: Sequence[bytes], encode: Encode) -> Iterator[Piece]:
    """The tokens of all texts in their order, in pieces; ``ends`` are bytes of the whole text."""
    group: list[tuple[int, bytes]] = []
    size = 0
    for number, text in enumerate(texts):
        is_long = len(text) > 2 * PIECE_BYTES
        if group and (is_long or size + len(text) > GROUP_BYTES):
            yield from _whole(group, encode)
            group, size = [], 0
        if is_long:
            for piece in _long(text, encode):
                yield replace(piece, text=number)
        else:
            group.append((number, text))
            size += len(text)
    yield from _whole(group, encode)


def _whole(group: Sequence[tuple[int, bytes]], encode: Encode) -> Iterator[Piece]:
    if group:
        pieces = encode([text for _, text in group])
        for (number, _), piece in zip(group, pieces, strict=True):
            yield replace(piece, text=number)


def _long(text: bytes, encode: Encode) -> Iterator[Piece]:
    """A text piece by piece: many at once, and one by one where a cut proves to be wrong."""
    here = _Cut(0, 0, _none())
    count = GROUP_BYTES // PIECE_BYTES
    while True:
        targets = range(here.start + PIECE_BYTES, len(text) - PIECE_BYTES, PIECE_BYTES)[:count]
        cuts = [here, *_cuts_at_spaces(text, targets, encode)]
        ends = [cut.start for cut in cuts[1:]]
        if not targets:
            ends = [len(text)]
        elif not ends:
            piece, here = _stitched(text, here, targets[0], encode)
            yield piece
            continue
        slices = [text[cut.context : end] for cut, end in zip(cuts, ends, strict=False)]
        for number, piece in enumerate(encode(slices)):
            cut, last = cuts[number], not targets
            if not _begins_with(piece.ids, cut.skipped):  # what stands far behind changed them
                cut = _Cut(cut.start, cut.start, _none())
                (piece,) = encode([text[cut.start : ends[number]]])
            if not last and not _ends_with(piece.ids, cuts[number + 1].skipped):
                piece, here = _stitched(text, cut, ends[number], encode)
                yield piece
                break
            yield replace(_behind(cut, piece), is_last=last)
            if last:
                return
            here = cuts[number + 1]


def _cuts_at_spaces(text: bytes, targets: Sequence[int], encode: Encode) -> list[_Cut]:
    """Cuts near ``targets`` that change no token next to them, up to the first that has none."""
    by_target: dict[int, _Cut] = {}
    places = {target: _spaces(text, target) for target in targets}
    for attempt in range(TRIED_SPACES):
        tried = {
            t: places[t][attempt]
            for t in targets
            if t not in by_target and attempt < len(places[t])
        }
        if not tried:
            break
        contexts = [_char_start(text, at - CONTEXT_BYTES) for at in tried.values()]
        pairs = list(zip(contexts, tried.values(), strict=True))
        before = encode([text[context:at] for context, at in pairs])
        both = encode([text[c : _char_start(text, at + CONTEXT_BYTES)] for c, at in pairs])
        for (context, at), target, left, whole in zip(pairs, tried, before, both, strict=True):
            if _begins_with(whole.ids, left.ids):
                by_target[target] = _Cut(at, context, left.ids)
    cuts = []
    for target in targets:
        if target not in by_target:
            break
        cuts.append(by_target[target])
    return cuts


def _spaces(text: bytes, target: int) -> list[int]:
    """Places just after ``target`` where a cut is likely right: at ends of lines, else of words."""
    places = []
    for mark, is_after in ((b"\n", True), (b" ", False)):
        at = target
        for _ in range(TRIED_SPACES // 2):
            at = text.find(mark, at + 1, target + PIECE_BYTES // 2)
            if at < 0:
                break
            places.append(at + is_after)
    return places


def _stitched(text: bytes, cut: _Cut, target: int, encode: Encode) -> tuple[Piece, _Cut]:
    """The piece from ``cut`` to about ``target``, and the cut at its end, by its own tokens."""
    stop = _char_start(text, target + CONTEXT_BYTES)
    (whole,) = encode([text[cut.context : stop]])
    if not _begins_with(whole.ids, cut.skipped):
        cut = _Cut(cut.start, cut.start, _none())
        (whole,) = encode([text[cut.start : stop]])
    ends = np.maximum.accumulate(whole.ends) + cut.context
    skipped = len(cut.skipped)
    for reach in (CONTEXT_BYTES, *WIDER_BYTES):
        limits = np.searchsorted(ends, [target - 3 * reach, target - reach, target])
        first, middle, last = (max(int(limit), skipped) for limit in limits)
        begins = _character_ends(text, ends[first:middle])
        for at in _character_ends(text, ends[middle:last]):
            after = int(np.searchsorted(ends, at, side="right"))
            for start in begins:
                known = whole.ids[int(np.searchsorted(ends, start, side="right")) : after]
                if start < at and (again := _same_to(text, start, at, known, encode)) is not None:
                    before = Piece(whole.ids[:after], whole.ends[:after])
                    return _behind(cut, before), _Cut(at, start, again)
    return _torn(text, cut, target, encode)


def _same_to(text: bytes, start: int, at: int, known: Ints, encode: Encode) -> Ints | None:
    """The ids from ``start`` to ``at``, encoded anew; None where they do not end as the known."""
    (again,) = encode([text[start : _char_start(text, at + CONTEXT_BYTES)]])
    ends = np.maximum.accumulate(again.ends)
    same = int(np.searchsorted(ends, at - start, side="right"))
    if not (len(known) and same and ends[same - 1] == at - start):
        return None  # a token goes on beyond the cut
    return again.ids[:same] if _ends_with(known, again.ids[:same]) else None


def _torn(text: bytes, cut: _Cut, target: int, encode: Encode) -> tuple[Piece, _Cut]:
    """A cut at ``target`` whatever it changes."""
    at = _char_start(text, target)
    context = _char_start(text, at - CONTEXT_BYTES)
    piece, before = encode([text[cut.context : at], text[context:at]])
    if not _begins_with(piece.ids, cut.skipped):
        cut = _Cut(cut.start, cut.start, _none())
        (piece,) = encode([text[cut.start : at]])
    return _behind(cut, piece), _Cut(at, context, before.ids)


def _behind(cut: _Cut, piece: Piece) -> Piece:
    """The tokens of a piece without those of its context."""
    skipped = len(cut.skipped)
    return Piece(piece.ids[skipped:], piece.ends[skipped:] + cut.context, is_last=False)


def _begins_with(ids: Ints, context: Ints) -> bool:
    return np.array_equal(ids[: len(context)], context)


def _ends_with(ids: Ints, context: Ints) -> bool:
    """Whether the later half of the context's tokens are the last of the piece before it."""
    count = (len(context) + 1) // 2
    return count <= len(ids) and np.array_equal(
        ids[len(ids) - count :], context[len(context) - count :]
    )


def _character_ends(text: bytes, ends: Ints) -> list[int]:
    """At most `TRIED_TOKENS` of the places that split no character, the last ones first."""
    places = [int(end) for end in ends[::-1] if _char_start(text, int(end)) == end]
    step = max(1, len(places) // TRIED_TOKENS)
    return places[::step][:TRIED_TOKENS]


def _char_start(text: bytes, at: int) -> int:
    """The beginning of the character that the byte ``at`` belongs to."""
    at = max(0, min(at, len(text)))
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _none() -> Ints:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class TokensOfText:
    """Tokens in a row of the text of this number, and the bytes of it that each stands for."""

    text: int
    ids: TokenIds
    byte_counts: TextBytes
    is_last: bool


def counted_by_ends(
    pieces: Iterable[Piece], texts: Sequence[bytes], kind: np.dtype[Any]
) -> Iterator[TokensOfText]:
    """The bytes that tokens of the type ``kind`` stand for, by where they end.

    The last token stands for the rest of its text, too: so one piece is held back.
    """
    held: TokensOfText | None = None
    before = 0
    for piece in pieces:
        ends = np.maximum.accumulate(np.concatenate([[before], piece.ends]))
        before = int(ends[-1])
        if held is None or len(piece.ids):
            if held is not None:
                yield held
            ids: TokenIds = piece.ids.astype(kind)
            held = TokensOfText(piece.text, ids, np.diff(ends), is_last=False)
        if piece.is_last:
            if len(held.ids):
                held.byte_counts[-1] += len(texts[piece.text]) - before
            yield replace(held, is_last=True)
            held, before = None, 0


class IdBuffer:
    """Ids that are added to. Most texts have fewer tokens than bytes, and memory that is not
    written to takes no place."""

    def __init__(self, text_bytes: int, kind: np.dtype[Any]) -> None:
        self._ids = np.empty(text_bytes + 1, dtype=kind)
        self._count = 0

    def add(self, ids: npt.NDArray[Any]) -> None:
        end = self._count + len(ids)
        if end > len(self._ids):
            self._ids = np.concatenate([self.all, np.empty(end, dtype=self._ids.dtype)])
        self._ids[self._count : end] = ids
        self._count = end

    @property
    def all(self) -> TokenIds:
        return self._ids[: self._count]


def byte_positions(text: str) -> npt.NDArray[np.int64]:
    """Where each character of ``text`` begins in UTF-8, and where the last one ends."""
    if text.isascii():
        return np.arange(len(text) + 1)
    widths = [len(char.encode("utf-8")) for char in text]
    return np.cumsum([0, *widths], dtype=np.int64)


PART_CHARS = 1 << 13
MAX_WORD_CHARS = 128  # longer words, and longer white space, are learned from in parts
WORD_BYTES, CHAR_BYTES = 250, 75  # what a trainer takes for a word, and for each character of it
LEAST_BYTES = 24 << 20  # for all distinct words together, whatever the size of the text
BYTES_PER_CHAR = 2.0  # for those of a text, where that is more
_RUNS = re.compile(r"\w+|[^\w\s]+|\s+")


def learned_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts in parts, without new words where memory has no room for them.

    A byte-pair trainer counts words and keeps each distinct one in memory, some dozens of bytes for
    each of its characters. Ordinary text has few of them. A text without white space is one giant
    word, and random text has hardly a word twice. So long words are cut, and new words are left out
    once those before them take all the memory that a text of this size may take.
    """
    known: set[int] = set()
    spent = read = 0.0
    for text in texts:
        for part in _parts(text):
            read += len(part)
            runs = _short_runs(part)
            new = {run for run in runs if hash(run) not in known}
            cost = sum(map(_cost, new))
            if spent + cost <= max(LEAST_BYTES, BYTES_PER_CHAR * read):
                spent += cost
                known.update(map(hash, new))
            else:
                runs = [run for run in runs if run not in new]
            yield from _with_ends(runs)


def _cost(word: str) -> int:
    return WORD_BYTES + CHAR_BYTES * len(word) * (1 if word.isascii() else 3)  # by its bytes


def _parts(text: str) -> Iterator[str]:
    """Whole lines of about `PART_CHARS`, or as much of a longer one."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PART_CHARS, start + 2 * PART_CHARS) + 1
        end = end or min(start + 2 * PART_CHARS, len(text))
        yield text[start:end]
        start = end


def _short_runs(part: str) -> list[str]:
    """Words, signs and white space in their order, none longer than `MAX_WORD_CHARS`."""
    runs = _RUNS.findall(part)
    if max(map(len, runs), default=0) <= MAX_WORD_CHARS:
        return runs
    return [
        run[start : start + MAX_WORD_CHARS]
        for run in runs
        for start in range(0, len(run), MAX_WORD_CHARS)
    ]


def _with_ends(runs: list[str]) -> Iterator[str]:
    """The runs as texts; one of the full length ends a text, so that none grow together."""
    first = 0
    for number, run in enumerate(runs, start=1):
        if len(run) == MAX_WORD_CHARS:
            yield "".join(runs[first:number])
            first = number
    if first < len(runs):
        yield "".join(runs[first:])
