"""Documents as tokens, tokens as windows, and which windows each training step sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.data.documents import Corpus, Document, Part
from rinsc.data.names import data_error
from rinsc.data.pieces import ByteCounts, TextBytes, TokenIds, TokensOfText
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.errors import DataError, plural

BATCH_BYTES = 1 << 22
BATCH_DOCUMENTS = 4096


@dataclass(frozen=True)
class EncodedDocument:
    """A document as tokens ``(tokens,)``, or a piece of a long one.

    Behind the last piece there is an end-of-document token, where the tokenizer has one.
    ``byte_counts`` has the same shape: the bytes of text that each token stands for.
    """

    part: Part
    document: Document
    ids: TokenIds
    byte_counts: TextBytes
    is_last: bool


def encode_documents(
    tokenizer: BytePairTokenizer, documents: Iterable[tuple[Part, Document]]
) -> Iterator[EncodedDocument]:
    """Every document in its order; while one batch is encoded the next one is read.

    Raises DataError where a byte-level tokenizer does not give a text back.
    """
    for batch in _read_ahead(_batches(documents)):
        yield from _encoded(tokenizer, batch)


def _encoded(
    tokenizer: BytePairTokenizer, batch: Sequence[tuple[Part, Document]]
) -> Iterator[EncodedDocument]:
    end = tokenizer.end_of_document
    position = 0  # in the text, up to which the tokens are known to hold it
    for piece in tokenizer.stream([document.data for _, document in batch]):
        part, document = batch[piece.text]
        if tokenizer.is_byte_level:
            position = _matched(tokenizer, piece, document, position)
        ids, counts = piece.ids, piece.byte_counts
        if piece.is_last and end is not None:
            ids = np.append(ids, ids.dtype.type(end))
            counts = np.append(counts, counts.dtype.type(0))
        yield EncodedDocument(part, document, ids, counts, piece.is_last)


def _matched(
    tokenizer: BytePairTokenizer, piece: TokensOfText, document: Document, position: int
) -> int:
    """Where the next tokens go on; raises DataError where these do not hold the text."""
    try:
        position = tokenizer.matched(piece.ids, document.data, position, is_last=piece.is_last)
    except DataError as error:
        problem = replace(error.problems[0], place=f"document {document.name}")
        raise DataError.of(problem) from None
    return 0 if piece.is_last else position


def _batches(documents: Iterable[tuple[Part, Document]]) -> Iterator[list[tuple[Part, Document]]]:
    batch: list[tuple[Part, Document]] = []
    size = 0
    for item in documents:
        batch.append(item)
        size += item[1].byte_count
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_ahead(
    batches: Iterator[list[tuple[Part, Document]]],
) -> Iterator[list[tuple[Part, Document]]]:
    """The same batches; the next one is prepared by a thread of its own."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


Packing: TypeAlias = Literal["across", "documents"]

NO_TARGET = -100  # what cross-entropy leaves out in PyTorch


def _none() -> npt.NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class TokenizedCorpus:
    """Both parts of a corpus as token ids ``(tokens,)``, in memory or mapped from a file.

    ``token_bytes`` has shape ``(vocab,)``: the bytes that each token stands for; it is empty for a
    tokenizer that is not byte-level. ``held_out_bytes`` ``(held-out tokens,)`` is right for all:
    the bytes of text that each held-out token stands for. ``train_starts`` ``(documents,)`` says
    where documents begin in ``train``. ``record`` says what the text and the tokenizer were.
    """

    train: TokenIds
    held_out: TokenIds
    token_bytes: ByteCounts
    record: Mapping[str, object]
    held_out_bytes: npt.NDArray[np.integer[Any]] = field(default_factory=_none)
    train_starts: npt.NDArray[np.int64] = field(default_factory=_none)
    tokenizer_size: int | None = None

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes) if self.tokenizer_size is None else self.tokenizer_size


def tokenize(corpus: Corpus, tokenizer: BytePairTokenizer) -> TokenizedCorpus:
    """Encode both parts in memory; raises DataError where the text does not survive it."""
    ids: dict[Part, list[TokenIds]] = {"train": [], "held_out": []}
    counts: list[TextBytes] = []
    lengths, begins = [0], True
    parts: dict[Part, tuple[Any, ...]] = {"train": corpus.train, "held_out": corpus.held_out}
    documents = ((part, document) for part, some in parts.items() for document in some)
    for encoded in encode_documents(tokenizer, documents):
        ids[encoded.part].append(encoded.ids)
        if encoded.part == "held_out":
            counts.append(encoded.byte_counts)
        elif begins:
            lengths.append(len(encoded.ids))
        else:
            lengths[-1] += len(encoded.ids)
        begins = encoded.is_last
    train, held_out = (_joined(ids[part], tokenizer) for part in parts)
    held_out_bytes = np.concatenate(counts) if counts else _none()
    record = {
        "corpus": corpus.record(),
        "tokenizer": tokenizer_record(
            tokenizer, len(train), len(held_out), int(held_out_bytes.sum())
        ),
    }
    return TokenizedCorpus(
        train,
        held_out,
        bytes_by_token(tokenizer),
        record,
        held_out_bytes,
        np.cumsum(lengths[:-1], dtype=np.int64),
        tokenizer.vocab_size,
    )


def tokenizer_record(
    tokenizer: BytePairTokenizer, train_tokens: int, held_out_tokens: int, held_out_bytes: int
) -> dict[str, object]:
    """What a run notes of its tokenizer and of what it made of the text.

    Runs of rinsc 0.4 say nothing of special tokens: their names were characters then.
    """
    parsed = {} if tokenizer.is_legacy else {"special_tokens": "parsed"}
    return {
        **parsed,
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.sha256,
        "train_tokens": train_tokens,
        "held_out_tokens": held_out_tokens,
        "held_out_bytes_per_token": held_out_bytes / max(1, held_out_tokens),
    }


def bytes_by_token(tokenizer: BytePairTokenizer) -> ByteCounts:
    """``token_bytes`` of a `TokenizedCorpus`."""
    return tokenizer.token_bytes if tokenizer.is_byte_level else _none()


def _joined(ids: list[TokenIds], tokenizer: BytePairTokenizer) -> TokenIds:
    return np.concatenate([np.empty(0, dtype=tokenizer.ids_type), *ids])


def cut_windows(tokens: npt.NDArray[Any], sequence_length: int) -> npt.NDArray[Any]:
    """Windows of ``sequence_length`` + 1 tokens, ``(windows, seq + 1)``, a view of ``tokens``.

    The last token of a window is the first of the next, so each token but the first is a target
    exactly once; an incomplete window at the end is left out. What belongs to the tokens one by
    one, as their bytes, is cut in the same way. Raises DataError where not one fits.
    """
    _require_one_window(len(tokens), sequence_length)
    every = np.lib.stride_tricks.sliding_window_view(tokens, sequence_length + 1)
    return every[::sequence_length]


def evenly_spaced(windows: npt.NDArray[Any], count: int | None) -> npt.NDArray[Any]:
    """``count`` of the windows, spread over all of them, always the same ones; None means all."""
    if count is None or count >= len(windows):
        return windows
    return windows[np.arange(count) * len(windows) // count]


class EpochOrder:
    """In which order each epoch takes its items, as a pure function of seed and epoch."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def item(self, index: int) -> int:
        """The item at ``index``, counted without end through the epochs."""
        epoch, position = divmod(index, self.count)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._order = (epoch, rng.permutation(self.count))
        return int(self._order[1][position])


@dataclass(frozen=True)
class Window:
    """One sequence to train on, each array ``(seq,)`` of int64.

    A target of `NO_TARGET` is not to be learned. ``position_ids`` begin at 0 again with each
    document; None where documents are not kept apart.
    """

    input_ids: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64] | None


class TrainingWindows:
    """The windows of `cut_windows`, one by one: each epoch sees every one, in an order of its own.

    Window ``index`` is a pure function of the arguments and ``index``, so a run goes on at the
    exact token with no state kept. With ``packing`` "documents" a window keeps the documents in it
    apart: positions begin anew with each of ``document_starts`` ``(documents,)``, and the first
    token of a document is nobody's target. Raises DataError where not one window fits.
    """

    def __init__(
        self,
        tokens: TokenIds,
        length: int,
        seed: int,
        packing: Packing = "across",
        document_starts: npt.NDArray[np.int64] | None = None,
    ) -> None:
        _require_one_window(len(tokens), length)
        if packing == "documents" and document_starts is None:
            raise ValueError("packing by documents needs to know where they start")
        self._tokens = tokens
        self._length = length
        self._starts = document_starts if packing == "documents" else None
        self._order = EpochOrder((len(tokens) - 1) // length, seed)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return self._order.count

    def window(self, index: int) -> Window:
        """The window at ``index``, counted from 0 through all epochs."""
        first = self._order.item(index) * self._length
        tokens = self._tokens[first : first + self._length + 1].astype(np.int64)
        if self._starts is None:
            return Window(tokens[:-1], tokens[1:], None)
        return self._apart(tokens, first, self._starts)

    def _apart(
        self, tokens: npt.NDArray[np.int64], first: int, starts: npt.NDArray[np.int64]
    ) -> Window:
        inside = slice(*np.searchsorted(starts, [first + 1, first + self._length + 1]))
        begins = np.asarray(starts[inside]) - first  # from 1 to length
        targets = tokens[1:].copy()
        targets[begins - 1] = NO_TARGET
        begins = begins[begins < self._length]
        places = np.arange(self._length)
        # A document that began before the window is here from position 0 on, too.
        resets = np.zeros(self._length, dtype=np.int64)
        resets[begins] = begins
        return Window(tokens[:-1], targets, places - np.maximum.accumulate(resets))


def _require_one_window(tokens: int, sequence_length: int) -> None:
    if tokens < sequence_length + 1:
        message = f"{plural(tokens, 'token')} do not fill one sequence of {sequence_length}"
        hint = "use more text or a shorter sequence_length"
        raise data_error("too-little-text", message, None, hint)
