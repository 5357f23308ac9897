"""Which part of a text a tokenizer is learned from, so that time and memory stay in bounds.

A byte-pair trainer counts words and keeps each distinct one in memory, some dozens of bytes for
each of its characters. Ordinary text has few of them. A text without white space is one giant word,
and random text has hardly a word twice. So long words are cut, and new words are left out once
those before them take all the memory that a text of this size may take.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PART_CHARS = 1 << 13
MAX_WORD_CHARS = 128  # longer words, and longer white space, are learned from in parts
WORD_BYTES, CHAR_BYTES = 250, 75  # what a trainer takes for a word, and for each character of it
LEAST_BYTES = 24 << 20  # for all distinct words together, whatever the size of the text
BYTES_PER_CHAR = 2.0  # for those of a text, where that is more
_RUNS = re.compile(r"\w+|[^\w\s]+|\s+")


def learned_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts in parts, without new words where memory has no room for them."""
    known: set[int] = set()
    taken = read = 0.0
    for text in texts:
        for part in _parts(text):
            read += len(part)
            runs = _short_runs(part)
            new = {run for run in runs if hash(run) not in known}
            cost = sum(map(_cost, new))
            if taken + cost <= max(LEAST_BYTES, BYTES_PER_CHAR * read):
                taken += cost
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
