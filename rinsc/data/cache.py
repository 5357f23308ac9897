"""Tokenized corpora and learned tokenizers on disk: made once, found again as long as the text is
the same, never half there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rinsc.data import corpora, sealed
from rinsc.data.batches import (
    EncodedDocument,
    TokenizedCorpus,
    bytes_by_token,
    encode_documents,
    tokenizer_record,
)
from rinsc.data.documents import Part, PartTally, Source, check_amounts
from rinsc.data.names import data_error, tokens_folder
from rinsc.data.sealed import (
    file_records,
    mapped_arrays,
    valid_record,
    write_record,
)
from rinsc.data.tokenizer import BytePairTokenizer, tokenizer_from_state, train_tokenizer
from rinsc.errors import OutputError, RinscError
from rinsc.extras import require
from rinsc.progress import PreparationProgress
from rinsc.storage.files import (
    make_folder,
    read_json,
    short_digest,
    text_digest,
    write_atomically,
)
from rinsc.storage.folders import folder_aside, one_process

FORMAT = 4  # raised whenever the same source would give other files
IDS, STARTS, COUNTS = ("<u2", "<u4"), ("<i8",), ("<u4",)  # types of numbers, as numpy has them
ARRAYS = {"train": IDS, "held_out": IDS, "train_starts": STARTS, "held_out_bytes": COUNTS}


def prepare(
    source: Source,
    tokenizer: BytePairTokenizer,
    *,
    folder: Path | None = None,
    progress: PreparationProgress | None = None,
) -> TokenizedCorpus:
    """The tokens of ``source``, mapped from files that are made if they are not there already.

    They are found again as long as the source's files, what is read of them and the tokenizer are
    the same, and made anew where they are damaged. Of two processes one does the work and the
    other waits. The default ``folder`` is `tokens_folder`. Raises DataError for a corpus that
    cannot be used and OutputError where the folder cannot be written; nothing half-made is left.
    """
    folder = tokens_folder() if folder is None else folder
    entry = folder / cache_key(source, tokenizer)
    record = valid_record(entry, ARRAYS)
    if record is None:
        record = _made(entry, source, tokenizer, progress)
    corpus = _opened(entry, record, source.name, tokenizer)
    if not _ids_fit(corpus):
        shutil.rmtree(entry, ignore_errors=True)
        record = _made(entry, source, tokenizer, progress)
        corpus = _opened(entry, record, source.name, tokenizer)
    return corpus


def _made(
    entry: Path,
    source: Source,
    tokenizer: BytePairTokenizer,
    progress: PreparationProgress | None,
) -> dict[str, Any]:
    """The record of a folder that this process or another one makes."""
    with one_process(entry, None if progress is None else progress.waiting):
        record = valid_record(entry, ARRAYS)  # another process may have made it meanwhile
        return _build(entry, source, tokenizer, progress) if record is None else record


def cache_key(source: Source, tokenizer: BytePairTokenizer) -> str:
    """The name of the folder with these tokens: a digest of all that they depend on."""
    content = tokenizer.sha256
    facts = {
        "format": TOKENIZER_FORMAT,
        "source": dict(source.identity()),
        "tokenizer": content,
        "end_of_document": tokenizer.end_of_document,
        "legacy": tokenizer.is_legacy,
    }
    return short_digest(json.dumps(facts, sort_keys=True))


def _build(
    entry: Path,
    source: Source,
    tokenizer: BytePairTokenizer,
    progress: PreparationProgress | None,
) -> dict[str, Any]:
    """Write everything into a folder aside; raises DataError and OutputError."""
    with folder_aside(entry) as part:
        with _Writer(part, source.names_documents) as writer:
            if progress is not None:
                progress.started(source.total_bytes)
            for encoded in encode_documents(tokenizer, source.documents()):
                size = writer.add(encoded)
                if progress is not None:
                    progress.advanced(size)
        check_amounts(source.name, *writer.byte_counts)
        if 0 in writer.token_counts:
            hint = "use a tokenizer for texts of this kind"
            raise data_error("no-tokens", "the tokenizer makes nothing of it", source.name, hint)
        record = writer.record(tokenizer)
        write_record(part, record)
    if progress is not None:
        progress.finished(sum(writer.token_counts))
    return record


class _Writer:
    """Appends documents to the raw files of one folder, and counts what passes."""

    def __init__(self, folder: Path, names_documents: bool) -> None:
        self._folder = folder
        self._tallies: dict[Part, PartTally] = {
            "train": PartTally(names_documents),
            "held_out": PartTally(names_documents),
        }
        self._tokens: dict[Part, int] = {"train": 0, "held_out": 0}
        self._begins = True  # a document, with the next tokens
        self._types: dict[str, str] = {}
        self._files: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        self._stack.close()

    @property
    def byte_counts(self) -> tuple[int, int]:
        return self._tallies["train"].byte_count, self._tallies["held_out"].byte_count

    @property
    def token_counts(self) -> tuple[int, int]:
        return self._tokens["train"], self._tokens["held_out"]

    def add(self, encoded: EncodedDocument) -> int:
        """Returns the bytes of text that these tokens stand for."""
        if encoded.part == "held_out":
            self._append("held_out_bytes", encoded.byte_counts.astype(np.uint32))
        elif self._begins:
            start = np.array([self._tokens["train"]], dtype=np.int64)
            self._append("train_starts", start)
        self._append(encoded.part, encoded.ids)
        self._tokens[encoded.part] += len(encoded.ids)
        if encoded.is_last:
            self._tallies[encoded.part].add(encoded.document)
        self._begins = encoded.is_last
        return int(encoded.byte_counts.sum())

    def record(self, tokenizer: BytePairTokenizer) -> dict[str, Any]:
        parts = {part: tally.record() for part, tally in self._tallies.items()}
        held_out_bytes = self._tallies["held_out"].byte_count
        return {
            "corpus": parts,
            "tokenizer": tokenizer_record(tokenizer, *self.token_counts, held_out_bytes),
            "files": file_records(self._folder, self._types),
        }

    def _append(self, name: str, array: npt.NDArray[Any]) -> None:
        if name not in self._files:
            file = (self._folder / name).open("wb")
            self._files[name] = self._stack.enter_context(file)
            self._types[name] = array.dtype.str
        self._files[name].write(np.ascontiguousarray(array).data)


def _opened(
    entry: Path, record: Mapping[str, Any], name: str, tokenizer: BytePairTokenizer
) -> TokenizedCorpus:
    arrays = mapped_arrays(entry, record)
    return TokenizedCorpus(
        arrays["train"],
        arrays["held_out"],
        bytes_by_token(tokenizer),
        {"corpus": {"name": name, **record["corpus"]}, "tokenizer": record["tokenizer"]},
        arrays["held_out_bytes"],
        arrays["train_starts"],
        tokenizer.vocab_size,
    )


def _ids_fit(corpus: TokenizedCorpus) -> bool:
    """Whether large files, of which digests are of samples, hold ids of the vocabulary alone."""
    large = (
        ids for ids in (corpus.train, corpus.held_out) if ids.nbytes > sealed.WHOLE_DIGEST_BYTES
    )
    return all(int(ids.max()) < corpus.vocab_size for ids in large)


TOKENIZER_FORMAT = 1  # raised whenever the same text would give another tokenizer


class UnusedTokensWarning(UserWarning):
    """A text gives fewer tokens than the vocabulary of the model has."""


def learned_tokenizer(source: Source, vocab_size: int) -> BytePairTokenizer:
    """One learned from the first `corpora.TOKENIZER_BYTES` of a text, or found where it was once.

    It is kept beside the tokens, as learning takes seconds. It warns of a text that gives fewer
    tokens than those that are asked for.
    """
    require("tokenizers")
    path = tokenizer_path(source, vocab_size)
    tokenizer = _kept(path)
    if tokenizer is None:
        texts = corpora.training_texts(source, corpora.TOKENIZER_BYTES)
        tokenizer = train_tokenizer(texts, vocab_size)
        _keep(path, tokenizer)
    known = tokenizer.vocab_size
    if known < vocab_size:
        message = (
            f"the text gives {known} tokens, so {vocab_size - known} of the vocabulary's "
            f"{vocab_size} are never used"
        )
        warnings.warn(message, UnusedTokensWarning, stacklevel=2)
    return tokenizer


def tokenizer_path(source: Source, vocab_size: int) -> Path:
    """The file of this tokenizer, called by a digest of all that it depends on."""
    facts = {
        "format": TOKENIZER_FORMAT,
        "source": dict(source.identity()),
        "most_bytes": corpora.TOKENIZER_BYTES,
        "vocab_size": vocab_size,
        "tokenizers": importlib.metadata.version("tokenizers"),
    }
    digest = short_digest(json.dumps(facts, sort_keys=True))
    return tokens_folder() / f"tokenizer-{digest}.json"


def _kept(path: Path) -> BytePairTokenizer | None:
    """The tokenizer of a file; None where there is none, or not as it was written."""
    try:
        record = read_json(path)
        state = record["state"]
        return tokenizer_from_state(state) if text_digest(state) == record["sha256"] else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RinscError):
        return None


def _keep(path: Path, tokenizer: BytePairTokenizer) -> None:
    state = tokenizer.to_state()
    with suppress(OutputError):  # it is learned again then
        make_folder(path.parent)
        write_atomically(path, json.dumps({"state": state, "sha256": text_digest(state)}))
