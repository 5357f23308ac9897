"""The held-out text that ``rinsc bench`` measures bits per byte on, as tokens of the model."""

from __future__ import annotations

from codecs import getincrementaldecoder
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.cli.diagnostics import note
from rinsc.errors import DataError, Problem, RinscError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

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
    return DataError(Problem(code, message, place=str(place), hint=hint))
