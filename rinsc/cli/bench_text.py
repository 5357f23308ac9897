"""What ``rinsc bench`` measures: which rounds, and which held-out text."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.cli.diagnostics import note
from rinsc.cli.quality_report import counts_in_words
from rinsc.cli.values import option_values
from rinsc.errors import DataError, RinscError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rinsc.backends.onnx import Session
    from rinsc.data.tokenizer import TokenIds

MAX_BYTES = 1 << 20  # that are read


@dataclass(frozen=True)
class HeldOut:
    """Token ids ``(tokens,)``, and how many bytes of text each token of the vocabulary is."""

    tokens: TokenIds
    token_bytes: npt.NDArray[np.int64]


def find_held_out(
    model: Path, text: Path | None, vocab_size: int, *, needed: bool
) -> HeldOut | None:
    """``text``, or heldout.txt beside the model, in tokens of the tokenizer that stands there.

    What keeps them from being read is told: where they are asked for, by a ``text`` or because
    they are ``needed``, as an error (`DataError`, `MissingExtraError`), else in a note and None.
    """
    try:
        return _read(text or model.parent / "heldout.txt", model, vocab_size)
    except RinscError as error:
        if needed or text is not None:
            raise
        problem = error.problems[0]
        where = "" if problem.place is None else f", {problem.place}"
        note(f"bits per byte are left out: {problem.message}{where} ({problem.hint})")
        return None


def _read(path: Path, model: Path, vocab_size: int) -> HeldOut:
    from rinsc.data.tokenizer import check_vocabulary, load_tokenizer

    text = read_beginning(path)
    file = model.parent / "tokenizer.json"
    if not file.is_file():
        hint = "put the tokenizer.json of the model's run beside the model"
        raise _error("no-tokenizer", "there is no tokenizer", file, hint)
    tokenizer = load_tokenizer(file)
    check_vocabulary(tokenizer, vocab_size)
    tokens = tokenizer.encode(text)
    if len(tokens) < 2:
        message = "the held-out text is too short to be predicted"
        raise _error("too-little-text", message, path, "give a text of some sentences")
    return HeldOut(tokens, tokenizer.token_bytes)


def read_beginning(
    path: Path, *, missing: str = "there is no held-out text", option: str = "--text"
) -> str:
    """The first `MAX_BYTES` of a text that an option names; raises DataError."""
    if not path.is_file():
        hint = f"name a text file with {option}"
        if option == "--text":
            hint += ", or compile the run with --held-out"
        raise _error("no-text", missing, path, hint)
    try:
        with path.open("rb") as file:
            # Half a character at the end is left out.
            return getincrementaldecoder("utf-8")().decode(file.read(MAX_BYTES))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        message, hint = f"cannot read the text: {reason}", "check the permissions"
    except UnicodeDecodeError:
        message, hint = "the text is not UTF-8", "give a plain text in UTF-8"
    raise _error("cannot-read", message, path, hint)


def _error(code: str, message: str, place: Path, hint: str) -> DataError:
    return DataError(code, message, place=str(place), hint=hint)


MOST = 32  # numbers of rounds in one table
MOST_BY_DEFAULT = 8
_PART = re.compile(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?")


def asked_rounds(*texts: str) -> list[int]:
    """``1..4``, ``1,2,4``, ``1..4,8`` as numbers, each once, fewest first; raises UsageError."""
    numbers: set[int] = set()
    text = ",".join(texts)
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            message = f"--rounds does not take '{text[:60]}'"
            raise _usage(message, "write 1..4, or 1,2,4, or 3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise _usage(f"--rounds {part.strip()} runs backwards", f"write {last}..{first}")
        if last - first >= MOST or len(numbers) > MOST:
            raise _too_many()
        numbers.update(range(first, last + 1))
    if len(numbers) > MOST:
        raise _too_many()
    return sorted(numbers)


def rounds_by_repeat(
    numbers: Sequence[int] | None, session: Session, form: str, file: Path
) -> list[dict[str, int]]:
    """Each number as rounds of every repeat, fewest first.

    By default up to those written, where a repeat with fewer of them than another stays at its own.
    Raises UsageError for rounds that no such model runs, or that this file was not written for.
    """
    from rinsc.graph import resolve_rounds

    written = dict(session.rounds)
    if numbers is None:
        if form == "fixed" or not written:
            return [written]
        most = default_rounds(max(written.values()))
        return [{name: min(count, each) for name, count in written.items()} for each in most]
    with option_values():
        every = [resolve_rounds(session.graph, number) for number in numbers]
    for each in every:
        if form == "fixed" and each != written:
            message = f"the model was compiled for {_shown(written)}, not {_counted(each)}"
            hint = "compile it with --rounds dynamic, or leave --rounds out"
            raise _usage(message, hint, file)
        if form == "gated" and any(count > written[name] for name, count in each.items()):
            message = f"the model runs at most {_shown(written)}, not {_counted(each)}"
            raise _usage(message, "ask for fewer, or compile it with more", file)
    return every


def default_rounds(most: int) -> list[int]:
    """1 to ``most``; where that is a long way, doubled ones, and ``most``."""
    if most <= MOST_BY_DEFAULT:
        return list(range(1, most + 1))
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


def _shown(counts: Mapping[str, int]) -> str:
    words = _counted(counts)
    return f"{words} round{'s' * (words != '1')}"


def _counted(counts: Mapping[str, int]) -> str:
    return counts_in_words(counts) if counts else "1"


def _too_many() -> UsageError:
    return _usage(f"--rounds asks for more than {MOST} numbers", "write some of them, as 1,2,4,8")


def _usage(message: str, hint: str, place: Path | None = None) -> UsageError:
    where = None if place is None else str(place)
    return UsageError("usage", message, place=where, hint=hint)
