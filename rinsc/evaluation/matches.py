"""Zero-shot accuracy and retrieval in tables and pictures, and in words what they were measured on.

A row is that of an `EvalReport`: a model at some rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rinsc.errors import plural
from rinsc.evaluation.matching import CUTOFFS, Retrieval, Share
from rinsc.objectives import percent
from rinsc.scalars import Table


class Row(Protocol):
    """What is read of a row."""

    @property
    def name(self) -> str: ...
    @property
    def zero_shot(self) -> Share | None: ...
    @property
    def retrieval(self) -> Retrieval | None: ...


def main_share(row: Row) -> Share | None:
    """What a picture shows of the row: classes, else the texts that are found first."""
    if row.zero_shot is not None:
        return row.zero_shot
    return None if row.retrieval is None else row.retrieval.texts[CUTOFFS[0]]


def share_words(row: Row) -> str:
    """What `main_share` is a share of."""
    return "zero-shot accuracy" if row.zero_shot is not None else "texts found first (recall@1)"


def matches_table(rows: Sequence[Row]) -> Table:
    """A row for each number of rounds, and a first one of what guessing gives."""
    has_classes = rows[0].zero_shot is not None
    has_recall = rows[0].retrieval is not None
    heads = ["rounds"]
    heads += ["zero-shot", "95 % from", "to"] if has_classes else []
    if has_recall:
        heads += [f"{side} @{cutoff}" for side in ("text", "picture") for cutoff in CUTOFFS]
    chance = ["by chance"]
    cells = [chance]
    for row in rows:
        line = [row.name]
        if row.zero_shot is not None:
            low, high = row.zero_shot.interval
            line += [percent(row.zero_shot.value), percent(low), percent(high)]
            chance[1:] = [percent(row.zero_shot.chance), "", ""]
        if row.retrieval is not None:
            shares = [*row.retrieval.texts.values(), *row.retrieval.pictures.values()]
            line += [percent(share.value) for share in shares]
            chance[4 if has_classes else 1 :] = [percent(share.chance) for share in shares]
        cells.append(line)
    return Table(tuple(heads), [tuple(line) for line in cells])


def matched_words(matched_on: Mapping[str, Any]) -> list[str]:
    """What classes and retrieval were measured on, a line each."""
    lines = []
    if "zero_shot" in matched_on:
        of = matched_on["zero_shot"]
        lines.append(
            f"zero-shot: {classes_words(of)}, {plural(len(of['templates']), 'template')}; "
            f"the commonest class is {percent(of['commonest_class'])} of them"
        )
    if "retrieval" in matched_on:
        of = matched_on["retrieval"]
        lines.append(
            f"retrieval: {of['pictures']:,} held-out pictures and their {of['texts']:,} "
            "distinct first captions; text @5: its own is among the 5 nearest"
        )
    return lines


def classes_words(of: Mapping[str, Any]) -> str:
    """``1,804 pictures of emoji-groups, 9 classes``."""
    return f"{of['pictures']:,} pictures of {of['set']}, {len(of['classes'])} classes"


def shown_on(matched_on: Mapping[str, Any]) -> str:
    """What the share in a picture was measured on, in short."""
    if "zero_shot" in matched_on:
        return classes_words(matched_on["zero_shot"])
    of = matched_on["retrieval"]
    return f"{of['pictures']:,} held-out pictures, {of['texts']:,} captions"
