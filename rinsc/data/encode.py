"""Documents to tokens, in batches that keep every core busy and the memory bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rinsc.data.documents import Document, Part
from rinsc.data.tokenizer import BytePairTokenizer, TextBytes, TokenIds
from rinsc.errors import DataError, Problem

BATCH_BYTES = 1 << 22
BATCH_DOCUMENTS = 4096


@dataclass(frozen=True)
class EncodedDocument:
    """A document as tokens ``(tokens,)``, an end-of-document token last where there is one.

    ``byte_counts`` has the same shape: the bytes that each token stands for; None for training.
    """

    part: Part
    document: Document
    ids: TokenIds
    byte_counts: TextBytes | None


def encode_documents(
    tokenizer: BytePairTokenizer, documents: Iterable[tuple[Part, Document]]
) -> Iterator[EncodedDocument]:
    """Every document in its order; while one batch is encoded the next one is read.

    Raises DataError where a byte-level tokenizer does not give a text back.
    """
    for batch in _read_ahead(_batches(documents)):
        texts = [document.data for _, document in batch]
        encoded = tokenizer.encode_batch(texts, end=tokenizer.end_of_document)
        del texts
        for (part, document), ids in zip(batch, encoded, strict=True):
            yield _finished(tokenizer, part, document, ids)


def _finished(
    tokenizer: BytePairTokenizer, part: Part, document: Document, ids: TokenIds
) -> EncodedDocument:
    text_ids = ids if tokenizer.end_of_document is None else ids[:-1]
    counts = None
    if tokenizer.is_byte_level:
        _require_lossless(tokenizer, text_ids, document)
    if part == "held_out":
        if tokenizer.is_byte_level:
            counts = tokenizer.text_bytes(text_ids)
        else:
            _, counts = tokenizer.encode_counted(document.data)
        if tokenizer.end_of_document is not None:
            counts = np.append(counts, counts.dtype.type(0))
    return EncodedDocument(part, document, ids, counts)


def _require_lossless(tokenizer: BytePairTokenizer, ids: TokenIds, document: Document) -> None:
    try:
        tokenizer.require_lossless(ids, document.data)
    except DataError as error:
        problem = error.problems[0]
        place = f"document {document.name}"
        raise DataError(
            Problem(problem.code, problem.message, place=place, hint=problem.hint)
        ) from None


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
