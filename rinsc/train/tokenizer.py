"""Byte-level byte-pair encoding, trained on the corpus; any text comes back as it went in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rinsc.errors import DataError, Problem
from rinsc.extras import require
from rinsc.files import write_atomically

if TYPE_CHECKING:
    import tokenizers

TokenIds = npt.NDArray[np.uint16]

MIN_VOCAB = 256  # one token for every byte
MAX_VOCAB = 1 << 16  # ids fit into 16 bits
MIN_PAIR_COUNT = 2
PIECE_CHARS = 1 << 16  # long texts are encoded in pieces, on all cores


class BytePairTokenizer:
    """Text to token ids and back; every token stands for a fixed number of bytes."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        # In the byte-level alphabet one character stands for one byte.
        lengths = [len(backend.id_to_token(i) or "") for i in range(backend.get_vocab_size())]
        self.token_bytes: npt.NDArray[np.int64] = np.array(lengths, dtype=np.int64)

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    def encode(self, text: str) -> TokenIds:
        """The ids of ``text``, shape ``(tokens,)``."""
        encoded = self._backend.encode_batch_fast(list(_pieces(text)))
        parts = [np.array(piece.ids, dtype=np.uint16) for piece in encoded]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)

    def decode(self, ids: Sequence[int] | TokenIds) -> str:
        """The text of ``ids``; bytes that are no whole character show as U+FFFD."""
        return self._backend.decode(list(map(int, ids)), skip_special_tokens=False)

    def to_json(self) -> str:
        return self._backend.to_str(pretty=True)

    def save(self, path: Path) -> None:
        """Write tokenizer.json; raises OutputError."""
        write_atomically(path, self.to_json())


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Learn ``vocab_size`` tokens from ``texts``; equal texts give equal tokenizers.

    Raises DataError where the size is out of range or the text has too few repeated pairs for it.
    """
    if not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
        raise _error(
            "bad-vocabulary-size",
            f"a vocabulary of {vocab_size} tokens cannot be trained",
            hint=f"choose from {MIN_VOCAB} to {MAX_VOCAB}",
        )
    library = _library()
    backend = library.Tokenizer(library.models.BPE())
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([piece for text in texts for piece in _pieces(text)], trainer)
    tokenizer = BytePairTokenizer(backend)
    check_vocabulary(tokenizer, vocab_size)
    return tokenizer


def load_tokenizer(path: Path) -> BytePairTokenizer:
    """Read tokenizer.json; raises DataError where it cannot be read or is of another kind."""
    library = _library()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _not_readable("cannot-read", "cannot read the tokenizer", path) from error
    try:
        backend = library.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for a bad file
        raise _not_readable("bad-tokenizer", "not a tokenizer file", path) from error
    if not isinstance(backend.decoder, library.decoders.ByteLevel):
        raise _not_readable("bad-tokenizer", "not a byte-level tokenizer", path)
    return BytePairTokenizer(backend)


def check_vocabulary(tokenizer: BytePairTokenizer, vocab_size: int) -> None:
    """Raises DataError unless the tokenizer has exactly the model's vocabulary."""
    if tokenizer.vocab_size != vocab_size:
        raise _error(
            "vocabulary-mismatch",
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}",
            hint="train the tokenizer on more text, or set the model's vocab_size to match",
        )


def encode_exactly(tokenizer: BytePairTokenizer, texts: Iterable[str]) -> TokenIds:
    """The ids of all texts in a row; raises DataError unless they decode to the same text."""
    parts = []
    for text in texts:
        ids = tokenizer.encode(text)
        if tokenizer.decode(ids) != text:
            message = "the text changes when it is encoded and decoded"
            raise _error("lossy-tokenizer", message, hint="train the tokenizer with rinsc")
        parts.append(ids)
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of whole lines, of about PIECE_CHARS characters."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE_CHARS) + 1 or len(text)
        end = min(end, start + 2 * PIECE_CHARS)
        yield text[start:end]
        start = end


def _library() -> Any:
    """The package tokenizers; raises MissingExtraError where it is not installed."""
    require("tokenizers")
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.pre_tokenizers
    import tokenizers.trainers

    return tokenizers


def _not_readable(code: str, message: str, path: Path) -> DataError:
    return _error(code, message, place=str(path), hint="name the tokenizer.json of a run")


def _error(code: str, message: str, *, hint: str, place: str | None = None) -> DataError:
    return DataError(Problem(code=code, message=message, place=place, hint=hint))
