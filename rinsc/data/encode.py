"""Documents to tokens, in batches that keep every core busy and the memory bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from rinsc.data.documents import Document, Part
from rinsc.data.tokenizer import BytePairTokenizer, TextBytes, TokenIds, TokensOfText
from rinsc.errors import DataError

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
        raise DataError(problem) from None
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
