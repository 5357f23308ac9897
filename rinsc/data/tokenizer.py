"""Tokenizers: byte-level byte-pair encoding trained here, and those that others trained."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rinsc.data.documents import free_unused_memory
from rinsc.data.names import data_error
from rinsc.data.pieces import (
    ByteCounts,
    IdBuffer,
    Piece,
    TextBytes,
    TokenIds,
    TokensOfText,
    byte_positions,
    counted_by_ends,
    encoded_pieces,
    learned_texts,
)
from rinsc.errors import DataError, plural, setting
from rinsc.extras import require
from rinsc.storage.files import parse_json, read_regular_text, write_atomically
from rinsc.text.decoders import CANNOT_DECODE, byte_level_bytes
from rinsc.text.panics import library_failures
from rinsc.text.tokenizer_files import (
    END_OF_TEXT,
    TOKENIZER_FILE,
    DeclaredTokens,
    check_claims,
    read_declared,
    resolve,
    tokenizer_files,
    without_additions,
)

if TYPE_CHECKING:
    import tokenizers

MIN_VOCAB = 256  # one token for every byte
MAX_VOCAB = 1 << 16  # of a tokenizer that is trained here
MIN_PAIR_COUNT = 2
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a token of byte fallback
COMPARED_TOKENS = 1 << 16  # of a text, at once

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

    Nothing is added to a text, cut off or filled up, and no merge is left out by chance: templates,
    truncation, padding and dropout of ``backend`` are taken out, in the file that `save` writes,
    too, so that every tool makes the same ids. The name of a special token in a text is that
    token, as in other tools. ``declared`` says what stands beside the tokenizer's file.

    A ``legacy`` tokenizer reads text as rinsc 0.4 did: names of special tokens are characters, and
    the file stays as it is. Runs that were begun so go on so.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        declared: DeclaredTokens | None = None,
        *,
        legacy: bool = False,
    ) -> None:
        self.declared = declared or DeclaredTokens()
        self.is_legacy = legacy
        if legacy:
            backend.no_truncation()
            backend.no_padding()
        else:
            text = backend.to_str()
            plain = without_additions(text)
            backend = backend if plain is text else type(backend).from_str(plain)
            _add_declared(backend, self.declared)
        backend.encode_special_tokens = legacy
        self._backend = backend
        self._added = backend.get_added_tokens_decoder()
        special = {token.content: i for i, token in self._added.items() if token.special}
        self._special_ids = frozenset(special.values())
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.ids_type = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        used = resolve(special, DeclaredTokens() if legacy else self.declared)
        self.end_of_document: int | None = used.end_of_document
        self.stop_ids: tuple[int, ...] = used.stop_ids

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of the library, under the name that transformers gives it, too."""
        return self._backend

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether the bytes of the tokens, in a row, are always the bytes of the text."""
        takes_spaces = any(token.lstrip or token.rstrip for token in self._added.values())
        if takes_spaces and not self.is_legacy:
            return False
        return all(self._bytes_of(probe) == probe.encode("utf-8") for probe in _PROBES)

    @cached_property
    def token_bytes(self) -> ByteCounts:
        """Shape ``(vocab,)``: the bytes of text that each token stands for; special ones for none.

        Raises DataError for a tokenizer that is not byte-level: there it depends on the text.
        """
        counts = self._widths.copy()
        counts[list(self._special_ids)] = 0
        return counts

    @property
    def named_tokens(self) -> dict[str, str]:
        """Special tokens by the names that transformers gives them, for templates of chats."""
        ends = self.end_of_document
        eos = None if ends is None else self._backend.id_to_token(ends)
        return ({} if eos is None else {"eos_token": eos}) | self.declared.tokens

    def encode(self, text: str | bytes, *, characters: bool = False) -> TokenIds:
        """The ids of ``text``, a str or UTF-8, shape ``(tokens,)``.

        With ``characters`` the names of special tokens are characters like others.
        """
        if characters and not self.is_legacy:
            return self._by_characters.encode(text)
        return self.encode_batch([text])[0]

    def encode_batch(
        self, texts: Sequence[str | bytes], *, end: int | None = None
    ) -> list[TokenIds]:
        """The ids of each text, on all cores, and ``end`` behind them where it is given.

        What is held beside them does not grow with the texts.
        """
        data = [_utf8(text) for text in texts]
        ids = [IdBuffer(len(text), self.ids_type) for text in data]
        for piece in encoded_pieces(data, self._encode_pieces):
            ids[piece.text].add(piece.ids)
        last = np.array([] if end is None else [end], dtype=self.ids_type)
        for some in ids:
            some.add(last)
        return [some.all for some in ids]

    def encode_counted(self, text: str | bytes) -> tuple[TokenIds, TextBytes]:
        """The ids of ``text`` and the bytes of it that each stands for, which add up to all.

        Each token stands for what follows the token before it, up to its own end.
        """
        pieces = list(self.stream([text]))
        return (
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.byte_counts for piece in pieces]),
        )

    def stream(self, texts: Sequence[str | bytes]) -> Iterator[TokensOfText]:
        """The tokens of all texts in their order, a long text in pieces, encoded on all cores.

        What is held beside the texts does not grow with them.
        """
        data = [_utf8(text) for text in texts]
        pieces = encoded_pieces(data, self._encode_pieces)
        if not self.is_byte_level:
            yield from counted_by_ends(pieces, data, self.ids_type)
            return
        for piece in pieces:
            ids: TokenIds = piece.ids.astype(self.ids_type)
            yield TokensOfText(piece.text, ids, self.text_bytes(ids), piece.is_last)

    def text_bytes(self, ids: TokenIds) -> TextBytes:
        """The bytes of a text that each of its ids stands for, also the names of special tokens.

        Raises DataError for a tokenizer that is not byte-level.
        """
        counts: TextBytes = self._narrow_widths[ids]
        return counts

    def require_lossless(self, ids: TokenIds, text: str | bytes) -> None:
        """Raises DataError unless the ids of a byte-level tokenizer hold exactly this text."""
        data, position = _utf8(text), 0
        for start in range(0, max(1, len(ids)), COMPARED_TOKENS):
            end = start + COMPARED_TOKENS
            position = self.matched(ids[start:end], data, position, is_last=end >= len(ids))

    def matched(self, ids: TokenIds, text: bytes, position: int, *, is_last: bool) -> int:
        """Where ``text`` goes on behind ids that hold it from ``position`` on.

        Raises DataError where they hold something else, or the last ones less than all.
        """
        part = b"".join(map(self._token_texts.__getitem__, ids.tolist()))
        end = position + len(part)
        if not text.startswith(part, position) or (is_last and end != len(text)):
            message = "the text changes when it is encoded and decoded"
            hint = "train the tokenizer with rinsc"
            raise data_error("lossy-tokenizer", message, None, hint)
        return end

    def decode(
        self,
        ids: Sequence[int] | npt.NDArray[np.integer[Any]],
        *,
        skip_special_tokens: bool = False,
    ) -> str:
        """The text of ``ids``; bytes that are no whole character show as U+FFFD."""
        with library_failures(CANNOT_DECODE):
            return self._backend.decode(
                list(map(int, ids)), skip_special_tokens=skip_special_tokens
            )

    @cached_property
    def token_keys(self) -> dict[tuple[bool, bytes], int]:
        """The lowest id of each token by what it stands for, as far as its name tells: whether it
        is special, and its bytes. Tokenizers of other kinds have the same keys."""
        is_alphabet = '"ByteLevel"' in json.dumps(parse_json(self.to_json()).get("decoder"))
        keys: dict[tuple[bool, bytes], int] = {}
        names = self._backend.get_vocab(with_added_tokens=True)
        for name, row in sorted(names.items(), key=lambda item: item[1]):
            is_added, fallback = row in self._added, _BYTE.fullmatch(name)
            if is_alphabet and not is_added:
                data = byte_level_bytes(name)
            elif fallback and not is_added:
                data = bytes([int(fallback[1], 16)])
            else:
                data = name.replace("\u2581", " ").encode("utf-8")  # as SentencePiece shows spaces
            keys.setdefault((row in self._special_ids, data), row)
        return keys

    @property
    def sha256(self) -> str:
        """Of `to_json`: what runs and caches know a tokenizer by."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()

    def to_json(self) -> str:
        return self._backend.to_str(pretty=True)

    def to_state(self) -> str:
        """All that `tokenizer_from_state` needs in another process."""
        declared = vars(self.declared)
        return json.dumps([self.to_json(), declared, self.is_legacy])

    def save(self, path: Path) -> None:
        """Write tokenizer.json; raises OutputError."""
        write_atomically(path, self.to_json())

    def save_folder(self, folder: Path, context: int) -> None:
        """Write what every tool reads: tokenizer.json, its config, a template of chats.

        Raises OutputError.
        """
        files = dict(tokenizer_files(self.to_json(), self.declared, context))
        if self.is_legacy:
            files[TOKENIZER_FILE] = self.to_json().encode("utf-8")
        for name, content in files.items():
            write_atomically(folder / name, content)

    @cached_property
    def _by_characters(self) -> BytePairTokenizer:
        copy = type(self._backend).from_str(self._backend.to_str())
        return BytePairTokenizer(copy, legacy=True)

    @cached_property
    def _token_texts(self) -> list[bytes]:
        """The bytes of each token, as in the byte-level alphabet one character is one byte."""
        names = [""] * self.vocab_size
        for name, i in self._backend.get_vocab(with_added_tokens=True).items():
            names[i] = name
        return [
            name.encode("utf-8") if i in self._added else byte_level_bytes(name)
            for i, name in enumerate(names)
        ]

    @cached_property
    def _widths(self) -> ByteCounts:
        """Shape ``(vocab,)``: the bytes of each token, of special ones those of their names."""
        if not self.is_byte_level:
            message = "a token of this tokenizer does not always stand for the same bytes"
            raise data_error("not-byte-level", message, None, "use a byte-level tokenizer")
        return np.array([len(data) for data in self._token_texts], dtype=np.int64)

    @cached_property
    def _narrow_widths(self) -> npt.NDArray[np.uint32]:
        return self._widths.astype(np.uint32)  # a text has one of them for each of its tokens

    def _bytes_of(self, text: str) -> bytes:
        (encoded,) = self._encoded([text])
        return b"".join(map(self._token_texts.__getitem__, encoded.ids))

    def _encode_pieces(self, texts: Sequence[bytes]) -> list[Piece]:
        """Each text as ids, with the bytes at which each token ends."""
        strings = [text.decode("utf-8") for text in texts]
        by_widths = self.is_byte_level
        pieces = []
        for number, encoded in enumerate(self._encoded(strings, with_offsets=not by_widths)):
            ids = np.array(encoded.ids, dtype=np.int64)
            if by_widths:
                ends = np.cumsum(self._widths[ids])
            else:
                ends = np.array([end for _, end in encoded.offsets], dtype=np.int64)
                ends = byte_positions(strings[number])[ends]
            pieces.append(Piece(ids, ends))
        return pieces

    def _encoded(self, texts: list[str], *, with_offsets: bool = False) -> list[Any]:
        """What the library makes of each text; raises DataError where it cannot encode one."""
        encode = self._backend.encode_batch if with_offsets else self._backend.encode_batch_fast
        with library_failures("the tokenizer cannot encode the text"):
            encoded: list[Any] = encode(texts, add_special_tokens=False)
        return encoded


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, end_of_text: str | None = END_OF_TEXT
) -> BytePairTokenizer:
    """Learn at most ``vocab_size`` tokens from ``texts``; equal texts give equal tokenizers.

    A text with too few repeated pairs gives fewer. The first token is the special token
    ``end_of_text``, unless it is None or there is only room for the bytes. Raises DataError where
    the size is out of range.
    """
    if not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
        message = f"a vocabulary of {vocab_size} tokens cannot be trained"
        hint = f"choose from {MIN_VOCAB} to {MAX_VOCAB}"
        raise data_error("bad-vocabulary-size", message, None, hint)
    library = tokenizers_library()
    backend = library.Tokenizer(library.models.BPE())
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        show_progress=False,
        special_tokens=[] if end_of_text is None or vocab_size == MIN_VOCAB else [end_of_text],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(learned_texts(texts), trainer)
    del trainer
    free_unused_memory()
    return BytePairTokenizer(backend)


def load_tokenizer(path: Path, begun: Mapping[str, object] | None = None) -> BytePairTokenizer:
    """Read tokenizer.json, or the one in a folder, with what stands beside it.

    ``begun`` is what the record of a run says of its tokenizer: a run that was begun by rinsc 0.4
    gets its text as it had it then. Raises DataError where a file cannot be read.
    """
    tokenizers_library()
    path = path / TOKENIZER_FILE if path.is_dir() else path
    try:
        text = read_regular_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise _not_readable("cannot-read", "cannot read the tokenizer", path) from error
    declared = read_declared(path.parent) if path.name == TOKENIZER_FILE else DeclaredTokens()
    try:
        check_claims(text)
    except ValueError as error:
        message = f"not a tokenizer file: {error}"
        raise _not_readable("bad-tokenizer", message, path) from error
    try:
        with library_failures("not a tokenizer file"):
            return tokenizer_from_json(text, declared, legacy=_is_legacy(begun))
    except DataError as error:
        message = error.problems[0].message
        raise _not_readable("bad-tokenizer", message, path) from error


def tokenizer_from_json(
    text: str, declared: DeclaredTokens | None = None, *, legacy: bool = False
) -> BytePairTokenizer:
    """The tokenizer whose ``to_json`` this is."""
    return BytePairTokenizer(tokenizers_library().Tokenizer.from_str(text), declared, legacy=legacy)


def tokenizer_from_state(state: str) -> BytePairTokenizer:
    """The tokenizer whose ``to_state`` this is."""
    text, declared, legacy = parse_json(state)
    return tokenizer_from_json(text, DeclaredTokens(**declared), legacy=legacy)


def check_vocabulary(tokenizer: BytePairTokenizer, vocab_size: int) -> None:
    """Raises DataError where the tokenizer has more tokens than the model.

    A model may have more, as vocabularies are often padded to a round number.
    """
    if tokenizer.vocab_size > vocab_size:
        message = (
            f"the tokenizer has {plural(tokenizer.vocab_size, 'token')}, the model {vocab_size}"
        )
        size = tokenizer.vocab_size
        hint = f"give the model {setting(f'vocab_size={size}', f'--vocab-size {size}')}, or more"
        raise data_error("vocabulary-mismatch", message, None, hint)


def _add_declared(backend: tokenizers.Tokenizer, declared: DeclaredTokens) -> None:
    """Declared tokens of the vocabulary are special, as transformers makes them."""
    added = backend.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special}
    known = [t for t in declared.tokens.values() if backend.token_to_id(t) is not None]
    if missing := [text for text in dict.fromkeys(known) if text not in special]:
        backend.add_special_tokens(missing)


def _is_legacy(begun: Mapping[str, object] | None) -> bool:
    return begun is not None and "special_tokens" not in begun


def _utf8(text: str | bytes) -> bytes:
    """The bytes of a text; raises DataError for half a character of UTF-16, which has none."""
    try:
        return text.encode("utf-8") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        message = f"character {error.start} of the text is half a character of UTF-16"
        hint = "write whole characters: two such halves in JSON are one character"
        raise data_error("not-text", message, None, hint) from None


def tokenizers_library() -> Any:
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
