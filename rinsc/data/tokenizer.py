"""Tokenizers: byte-level byte-pair encoding trained here, and those that others trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.data.problems import data_error
from rinsc.decoders import byte_level_bytes
from rinsc.errors import DataError
from rinsc.extras import require
from rinsc.files import write_atomically
from rinsc.text import ENDS_OF_DOCUMENT

if TYPE_CHECKING:
    import tokenizers

# uint16 as long as the vocabulary fits into 16 bits, else uint32.
TokenIds: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
ByteCounts: TypeAlias = npt.NDArray[np.int64]

MIN_VOCAB = 256  # one token for every byte
MAX_VOCAB = 1 << 16  # of a tokenizer that is trained here
MIN_PAIR_COUNT = 2
PIECE_CHARS = 1 << 16  # long texts are encoded in pieces, on all cores


# Texts that tokenizers change which add spaces, drop spaces or normalize.
_PROBES = (
    "a",
    " a",
    "a  b \n\n\tc",
    "A\u00e9",
    "e\u0301",
    "\ufb01 \u00bd \u200b",
    "\x00\U0001f600",
)


class BytePairTokenizer:
    """Text to token ids and back, by any tokenizer of the library tokenizers.

    What stands in the text is text: the names of special tokens are encoded like other words.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        special = {
            i: token for i, token in backend.get_added_tokens_decoder().items() if token.special
        }
        self._special_ids = frozenset(special)
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.ids_type = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        by_text = {token.content: i for i, token in special.items()}
        self.end_of_document: int | None = next(
            (by_text[text] for text in ENDS_OF_DOCUMENT if text in by_text), None
        )

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of the library, under the name that transformers gives it, too."""
        return self._backend

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether the bytes of the tokens, in a row, are always the bytes of the text."""
        return all(self._bytes_of(probe) == probe.encode("utf-8") for probe in _PROBES)

    @cached_property
    def token_bytes(self) -> ByteCounts:
        """Shape ``(vocab,)``: the bytes of text that each token stands for; special ones for none.

        Raises DataError for a tokenizer that is not byte-level: there it depends on the text.
        """
        if not self.is_byte_level:
            message = "a token of this tokenizer does not always stand for the same bytes"
            raise data_error("not-byte-level", message, None, "use a byte-level tokenizer")
        return np.array([len(data) for data in self._token_texts], dtype=np.int64)

    def encode(self, text: str) -> TokenIds:
        """The ids of ``text``, shape ``(tokens,)``; no special token is added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text, on all cores."""
        pieces = [list(self._pieces(text)) for text in texts]
        flat = [piece for parts in pieces for piece in parts]
        encoded = iter(self._encoded(flat))
        return [
            self._joined([np.array(next(encoded).ids, dtype=self.ids_type) for _ in parts])
            for parts in pieces
        ]

    def encode_counted(self, text: str) -> tuple[TokenIds, ByteCounts]:
        """The ids of ``text`` and the bytes of it that each stands for, which add up to all.

        Each token stands for what follows the token before it, up to its own end.
        """
        if self.is_byte_level:
            ids = self.encode(text)
            return ids, self.token_bytes[ids]
        (encoded,) = self._encoded([text], with_offsets=True)
        widths = np.array([0, *(len(char.encode("utf-8")) for char in text)], dtype=np.int64)
        ends = np.array([end for _, end in encoded.offsets], dtype=np.int64)
        if len(ends):
            ends = np.maximum.accumulate(ends)
            ends[-1] = len(text)
        counts = np.diff(np.cumsum(widths)[ends], prepend=0)
        return np.array(encoded.ids, dtype=self.ids_type), counts

    def require_lossless(self, ids: TokenIds, text: str) -> None:
        """Raises DataError unless the ids of a byte-level tokenizer hold exactly this text."""
        if self._joined_bytes(ids) != text.encode("utf-8"):
            message = "the text changes when it is encoded and decoded"
            hint = "train the tokenizer with rinsc"
            raise data_error("lossy-tokenizer", message, None, hint)

    def decode(self, ids: Sequence[int] | TokenIds) -> str:
        """The text of ``ids``; bytes that are no whole character show as U+FFFD."""
        return self._backend.decode(list(map(int, ids)), skip_special_tokens=False)

    @property
    def sha256(self) -> str:
        """Of `to_json`: what runs and caches know a tokenizer by."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()

    def to_json(self) -> str:
        return self._backend.to_str(pretty=True)

    def save(self, path: Path) -> None:
        """Write tokenizer.json; raises OutputError."""
        write_atomically(path, self.to_json())

    @cached_property
    def _token_texts(self) -> list[bytes]:
        """The bytes of each token, as in the byte-level alphabet one character is one byte."""
        added = self._backend.get_added_tokens_decoder()
        names = [""] * self.vocab_size
        for name, i in self._backend.get_vocab(with_added_tokens=True).items():
            names[i] = name
        texts = []
        for i, name in enumerate(names):
            if i in self._special_ids:
                texts.append(b"")
            elif i in added:
                texts.append(name.encode("utf-8"))
            else:
                texts.append(byte_level_bytes(name))
        return texts

    def _joined_bytes(self, ids: TokenIds) -> bytes:
        return b"".join(map(self._token_texts.__getitem__, ids.tolist()))

    def _bytes_of(self, text: str) -> bytes:
        (encoded,) = self._encoded([text])
        return self._joined_bytes(np.array(encoded.ids, dtype=self.ids_type))

    def _encoded(self, texts: list[str], *, with_offsets: bool = False) -> list[Any]:
        """What the library makes of each text; raises DataError where it cannot encode one."""
        encode = self._backend.encode_batch if with_offsets else self._backend.encode_batch_fast
        try:
            return encode(texts, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            message = f"the tokenizer cannot encode the text: {error}"
            hint = "use a tokenizer with a token for what it does not know"
            raise data_error("tokenizer-failed", message, None, hint) from error

    def _pieces(self, text: str) -> Iterator[str]:
        """Only where the end of a piece changes nothing but the tokens at it."""
        return _pieces(text) if self.is_byte_level else iter([text])

    def _joined(self, parts: list[TokenIds]) -> TokenIds:
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.ids_type)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Learn ``vocab_size`` tokens from ``texts``; equal texts give equal tokenizers.

    Raises DataError where the size is out of range or the text has too few repeated pairs for it.
    """
    if not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
        message = f"a vocabulary of {vocab_size} tokens cannot be trained"
        hint = f"choose from {MIN_VOCAB} to {MAX_VOCAB}"
        raise data_error("bad-vocabulary-size", message, None, hint)
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
    backend.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    tokenizer = BytePairTokenizer(backend)
    check_vocabulary(tokenizer, vocab_size)
    return tokenizer


def load_tokenizer(path: Path) -> BytePairTokenizer:
    """Read tokenizer.json, or the one in a folder; raises DataError where it cannot be read."""
    _library()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _not_readable("cannot-read", "cannot read the tokenizer", path) from error
    try:
        return tokenizer_from_json(text)
    except Exception as error:  # the library raises bare Exception for a bad file
        raise _not_readable("bad-tokenizer", "not a tokenizer file", path) from error


def tokenizer_from_json(text: str) -> BytePairTokenizer:
    """The tokenizer whose ``to_json`` this is."""
    return BytePairTokenizer(_library().Tokenizer.from_str(text))


def check_vocabulary(tokenizer: BytePairTokenizer, vocab_size: int) -> None:
    """Raises DataError unless the tokenizer has exactly the model's vocabulary."""
    if tokenizer.vocab_size != vocab_size:
        message = f"the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}"
        hint = f"use more text, or give the model --vocab-size {tokenizer.vocab_size}"
        raise data_error("vocabulary-mismatch", message, None, hint)


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
    hint = "name a tokenizer.json, or a folder that holds one"
    return data_error(code, message, path, hint)
